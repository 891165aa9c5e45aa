"""Breaking things on purpose, with real processes; `python -m tests.faults` measures at length."""
