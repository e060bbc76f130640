# Muster. `make help` lists the targets; each works from a fresh clone.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

UV_VERSION := 0.13.8
MEMBERS := $(sort $(patsubst %/pyproject.toml,%,$(wildcard libs/*/pyproject.toml services/*/pyproject.toml agents/*/pyproject.toml cli/pyproject.toml)))
OURS := $(shell sed -n 's/^name = "\(muster-.*\)"/\1/p' $(addsuffix /pyproject.toml,$(MEMBERS)))
BIN := .venv/bin
# The newest of what is there, 3.12 or later; .python-version lets version switchers offer 3.12.
PYTHON := $(shell for python in python3.14 python3.13 python3.12 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && { echo $$python; break; }; done)
# Twice as many as there are cores: a good part of these tests waits.
PARALLEL ?= $(shell echo $$(( $$(nproc 2>/dev/null || echo 2) * 2 )))
PYTEST := $(BIN)/python -m pytest
SPREAD := -n $(PARALLEL) --dist loadscope
# Shows the progress of a step of `make setup`, and keeps its output in .setup.log.
STEP := deploy/setup_step.sh
SLOWEST := --durations=20 --durations-min=1
export UV_PYTHON_DOWNLOADS := never
export UV_LINK_MODE := copy
# Whatever the shell says: hundreds of processes of a run import the same modules, which are to be compiled once.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo up down test stress coverage check unit contract integration e2e chaos bench quick format lint types walls lock clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 14

setup: .venv/ready ## install everything, pinned and hashed, into .venv

.venv/ready: requirements.lock $(addsuffix /pyproject.toml,$(MEMBERS)) | .tools/uv-$(UV_VERSION)
	@test -n "$(PYTHON)" || { echo "Muster needs Python 3.12 or later; none found on PATH." >&2; exit 1; }
	@test -x $(BIN)/python || $(STEP) "virtual environment" \
		.tools/uv/bin/uv venv --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv
	@$(STEP) "libraries of requirements.lock" \
		.tools/uv/bin/uv pip sync --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	@$(STEP) "packages of Muster" \
		.tools/uv/bin/uv pip install --python $(BIN)/python --no-deps $(addprefix -e ,$(MEMBERS))
	@touch $@
	@echo "setup: done. The log is .setup.log. Next: make demo, or $(BIN)/muster up" >&2

.tools/uv-$(UV_VERSION):
	@test -n "$(PYTHON)" || { echo "Muster needs Python 3.12 or later; none found on PATH." >&2; exit 1; }
	@rm -rf .tools && $(STEP) "uv $(UV_VERSION)" bash -c '"$$1" -m venv .tools/uv && \
		.tools/uv/bin/pip install --disable-pip-version-check uv==$(UV_VERSION)' uv "$(PYTHON)"
	@touch $@

demo: setup ## three real agents, no key, no network: fixed, steered, replaced
	$(BIN)/muster demo

up: setup ## start the whole stack in the foreground
	$(BIN)/muster up

down: setup ## stop a stack started elsewhere
	$(BIN)/muster down

test: setup ## every short test, on real servers: what CI runs
	$(PYTEST) -q $(SPREAD) -m "not stress" $(SLOWEST) tests agents

stress: setup ## what is long, random or heavy, and many more made-up cases
	MUSTER_STRESS=full $(PYTEST) -q $(SPREAD) -m "stress or hypothesis" $(SLOWEST) tests agents

coverage: setup ## the same tests as `make test`, measured in all processes; fails below 85 %
	@rm -f .coverage*
	$(BIN)/python -m coverage run -m pytest -q $(SPREAD) -m "not stress" tests agents
	@$(BIN)/python -m coverage combine -q && $(BIN)/python -m coverage report --format=total --fail-under=85 | sed 's/^/coverage, all processes: /;s/$$/ %/'

check: setup ## format, lint, types, import walls, contracts, unit tests; under a minute
	@$(MAKE) --no-print-directory -j2 --output-sync=target types lint quick

quick: setup ## unit and contract tests
	$(PYTEST) -q -n 2 -m "not stress" tests/unit tests/contract

unit: setup ## unit tests
	$(PYTEST) -q tests/unit

contract: setup ## the wire: fixtures, walls, type errors
	$(PYTEST) -q tests/contract

integration: setup ## rooms against real servers
	$(PYTEST) -q $(SPREAD) -m "not stress" tests/integration agents

e2e: setup ## whole stacks
	$(PYTEST) -q $(SPREAD) -m "not stress" tests/e2e

# In order: it spreads the deaths of each part, and a random order does not.
chaos: setup ## the kill matrix, in full
	MUSTER_CHAOS=full $(PYTEST) -q -p no:randomly $(SPREAD) tests/chaos

bench: setup ## ratios, each beside its bare limit
	$(BIN)/python -m tests.bench

format: setup ## format and mend what can be mended
	$(BIN)/ruff format -q . && $(BIN)/ruff check -q --fix .

lint: setup ## ruff, the house rules, import-linter
	$(BIN)/ruff format -q --check . && $(BIN)/ruff check -q .
	$(BIN)/python -m tests.support.house
	$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

# A larger young generation: the same check takes 38 s instead of 43.
types: setup ## pyright, strict
	NODE_OPTIONS=--max-semi-space-size=256 $(BIN)/pyright

walls: setup ## import-linter
	$(BIN)/lint-imports

lock: | .tools/uv-$(UV_VERSION) ## resolve requirements.lock anew
	@test -x $(BIN)/python || .tools/uv/bin/uv venv -q --python $(PYTHON) .venv
	.tools/uv/bin/uv pip compile -q --python $(BIN)/python --generate-hashes --no-emit-index-url --no-header --no-annotate \
		--universal --python-version 3.12 $(addsuffix /pyproject.toml,$(MEMBERS)) --group dev \
		$(addprefix --no-emit-package ,$(OURS)) -o requirements.lock
	@! grep -n '://' requirements.lock

clean: ## remove what the targets made
	rm -rf .venv .tools .setup.log .coverage* .ruff_cache .hypothesis .import_linter_cache
