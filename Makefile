# `make` lists the targets. Whatever runs prints the seconds it took. VENV=path uses another virtual environment,
# PYTHON=python3.x another interpreter, ARGS="-k word" goes to pytest, which `make test` runs in PROCESSES=2 processes.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
PROCESSES ?= 2
BIN := $(VENV)/bin
CODE := streamkit apps benchmarks deploy tests
BENCHMARKS := throughput concurrency memory shapes retries dead_letters
CHECKS := ruff format mypy basedpyright imports typing

# $(call stage,name,command): run the command, print its seconds, keep its exit code.
stage = @start=$$(date +%s); code=0; { $(2); } || code=$$?; echo "-- $(1): $$(($$(date +%s) - start)) s"; exit $$code

.DEFAULT_GOAL := help
.PHONY: help setup demo test coverage test-kafka chaos bench $(BENCHMARKS:%=bench-%) mutants docs docs-snippets format \
	check $(CHECKS:%=check-%)

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1\t\2/p' Makefile | expand -t 20

setup: $(VENV)/.ready ## a virtual environment with everything; once, and again when pyproject.toml changes

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "streamkit needs Python 3.11 or later; this is " + sys.version)'
	$(call stage,virtual environment,$(PYTHON) -m venv $(VENV))
	$(call stage,install,$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]')
	@touch $@

demo: setup ## real flights through agents on an embedded broker; KEEP=1 keeps it running
	$(call stage,demo,$(BIN)/python -m apps.flights)

test: setup ## all tests; with Java 17 and Maven also on a genuine Kafka
	$(call stage,jars of Kafka,$(BIN)/python -m tests.kafka.server --fetch)
	$(call stage,promtool,$(BIN)/python -m tests.deploy.prometheus --fetch)
	$(call stage,tests,$(BIN)/python -m pytest -n $(PROCESSES) --no-loadscope-reorder $(ARGS))
	@$(MAKE) --no-print-directory coverage

coverage: setup ## the tests of streamkit/core cover every line and branch of it
	$(call stage,coverage of core,$(BIN)/coverage run -m pytest -qq tests/core && $(BIN)/coverage report)

test-kafka: setup ## only the tests on a genuine Kafka, which must be there
	$(call stage,tests on Kafka,CI=true $(BIN)/python -m pytest -m 'genuine and not long' $(ARGS))

chaos: setup ## the long tests: workers and brokers killed, paused and started again
	$(call stage,chaos,CI=true $(BIN)/python -m pytest -m long --timeout 1800 $(ARGS))

bench: $(BENCHMARKS:%=bench-%) ## every benchmark

$(BENCHMARKS:%=bench-%): bench-%: setup
	$(call stage,benchmark $*,$(BIN)/python -m benchmarks.$*)

mutants: setup ## the tests notice each of the faults that must never come in
	$(call stage,mutants,$(BIN)/python -m tests.mutants)

docs: setup ## the pages are true: their links, programs and commands, and the list of settings
	$(call stage,docs,$(BIN)/python -m pytest tests/docs tests/test_settings.py tests/cli/test_readme.py)

docs-snippets: setup ## put the examples' parts into the pages anew
	$(call stage,snippets,$(BIN)/python docs/snippets.py)

format: setup ## rewrite the code in the house's layout
	$(call stage,format,$(BIN)/ruff check --fix --quiet; $(BIN)/ruff format)

check: $(CHECKS:%=check-%) ## linters, type checkers, import rules, programs that must and must not type-check

check-ruff: setup
	$(call stage,ruff,$(BIN)/ruff check)

check-format: setup
	$(call stage,ruff format,$(BIN)/ruff format --check)

check-mypy: setup
	$(call stage,mypy,$(BIN)/mypy --strict $(CODE))

check-basedpyright: setup
	$(call stage,basedpyright,$(BIN)/basedpyright --pythonpath $(BIN)/python)

check-imports: setup
	$(call stage,import rules,$(BIN)/lint-imports --no-cache)

check-typing: setup
	$(call stage,typing programs,$(BIN)/python tests/typing/check.py)
