"""Tells tenants what became of their messages: from the outbox to their endpoints, until they acknowledge it."""
