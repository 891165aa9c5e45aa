"""How a database of each released schema becomes one of this."""
