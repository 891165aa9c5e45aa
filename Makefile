# `make` shows what there is. PYTHON=python3.12 chooses the interpreter, PYTEST_ARGS="-k queue" a part of the tests.
.DEFAULT_GOAL := help
SHELL := /bin/sh

PYTHON ?= python3
PYTEST_ARGS ?=
# "--scale 0.1" or names of scenarios, for `make faults`
FAULTS_ARGS ?=
# "--minutes 60", "--seed 1", for `make fuzz`
FUZZ_ARGS ?=
VENV := .venv
RUN := $(VENV)/bin/python -m
# Folders of Python code; bench is checked like the rest.
CODE := src tests tools $(wildcard bench)

export PYTHON

.PHONY: help setup setup-runtime demo test check format fuzz faults bench bench-full package docs docs-serve clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## Make .venv with all that the tests and checks need
	@tools/setup.sh dev

setup-runtime:
	@tools/setup.sh runtime

demo: setup-runtime ## Run a whole instance for a few seconds: three messages and what becomes of them
	@$(VENV)/bin/mail-proxy demo

test: setup ## Run all tests, on SQLite and on a PostgreSQL of their own
	@$(RUN) pytest -n 3 --dist worksteal $(PYTEST_ARGS)

check: setup ## Check formatting, lint, types and the direction of imports
	@$(RUN) ruff format --check --quiet $(CODE) || { echo "check: run 'make format'" >&2; exit 1; }
	@$(RUN) ruff check --quiet $(CODE)
	@$(RUN) mypy --no-error-summary $(CODE)
	@$(VENV)/bin/lint-imports --no-logo
	@echo "Formatting, lint, types and imports are in order."

format: setup ## Format the code and apply the fixes that change no meaning
	@$(VENV)/bin/python tools/make_sync_client.py
	@$(VENV)/bin/python tools/make_cli_reference.py
	@$(VENV)/bin/python tools/make_dashboard.py
	@$(RUN) ruff check --quiet --fix-only $(CODE)
	@$(RUN) ruff format $(CODE)

fuzz: setup ## Try requests and values that nobody thought of, at length (twenty minutes or so)
	@$(RUN) tests.fuzz $(FUZZ_ARGS)
	@$(RUN) pytest -n 2 --hypothesis-profile=fuzz --timeout=0 -m hypothesis $(PYTEST_ARGS)

faults: setup ## Break things on purpose at length (ten minutes or so) and write docs/reliability.md
	@$(RUN) tests.faults $(FAULTS_ARGS)

bench: setup ## Measure the main job on this machine (six minutes or so)
	@$(RUN) bench

bench-full: setup ## Measure all of its forms (twenty minutes or so), and draw them for docs/performance.md
	@$(RUN) bench --full --json docs/figures.json
	@$(RUN) bench.plots docs/figures.json docs/plots

package: setup-runtime ## Build the wheel and the sdist of the program, and the wheel of the client, into dist/
	@$(RUN) hatchling build -t sdist -t wheel -d dist
	@cd client && ../$(RUN) hatchling build -t wheel -d ../dist

# The theme warns at length of MkDocs 2, which pyproject.toml keeps out.
docs docs-serve: export NO_MKDOCS_2_WARNING := 1

docs: setup ## Build the documentation as a site, into build/site
	@$(RUN) mkdocs --quiet build
	@echo "The site: $(CURDIR)/build/site/index.html"

docs-serve: setup ## Show it at http://127.0.0.1:8001 while it is written
	@$(RUN) mkdocs serve --dev-addr 127.0.0.1:8001

clean: ## Remove .venv and all that tools have left behind
	rm -rf $(VENV) .venv.lock dist build .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
