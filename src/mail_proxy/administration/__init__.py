"""Tenants, accounts, keys and suspensions: one place for the API and the command line."""
