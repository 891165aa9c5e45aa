"""The tests: domain, flows, conformance, edge and acceptance, and what they run against (support)."""
