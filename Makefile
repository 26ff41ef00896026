# Each target sets up what it needs; nothing has to be installed by hand first.
.DEFAULT_GOAL := help
PYTHON_BIN := .venv/bin
.PHONY: help setup run test test-all bench bench-check lint format clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22

setup:  ## make .venv, install the locked dependencies and the Debian packages that are missing
	@scripts/setup run

run: setup  ## run real code in real sandboxes: examples/tour.py
	@$(PYTHON_BIN)/atoll doctor --quiet
	@$(PYTHON_BIN)/python examples/tour.py

test:  ## check the code and run the suite, as this account and (for root) as an ordinary one
	@scripts/setup test
	@$(MAKE) --no-print-directory lint
	@scripts/run-suite -m "not slow"

test-all:  ## the same with the slowest tests
	@scripts/setup test
	@$(MAKE) --no-print-directory lint
	@scripts/run-suite

bench: setup  ## measure, beside bare Python and bubblewrap, and write bench/results
	@$(PYTHON_BIN)/atoll bench engine --alive 1000 --output bench/results
	@$(PYTHON_BIN)/python tests/docs/generated.py

bench-check: setup  ## fail if a speed target is missed
	@$(PYTHON_BIN)/atoll bench engine --alive 1000 --check

lint:  ## ruff, mypy --strict and the rooms' import contract
	@$(PYTHON_BIN)/ruff check .
	@$(PYTHON_BIN)/ruff format --check .
	@$(PYTHON_BIN)/mypy
	@$(PYTHON_BIN)/lint-imports --no-cache

format:  ## let ruff put imports and lines in order
	@$(PYTHON_BIN)/ruff check --fix .
	@$(PYTHON_BIN)/ruff format .

clean:  ## remove what the targets made in this directory (not Atoll's data: `atoll clean`)
	@rm -rf .venv .mypy_cache .ruff_cache .hypothesis build dist
