"""The tests: domain, flows, conformance, edge and acceptance, and what they run against (support)."""

import os
import sys

# They start hundreds of processes. Where an image forbids Python to keep what it compiled, each of them would compile
# the whole service anew, and each worker all of the tests: most of the time of a run.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
