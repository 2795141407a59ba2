# `make demo` runs the main job once, `make test` passes the tests. Every target sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin
# Of what is installed most is never imported; the rest compiles itself when it is.
INSTALL := install --quiet --disable-pip-version-check --no-compile --require-hashes
PIP := $(BIN)/python -m pip

# Some two hundred processes of ours start in the tests: none should compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup dev demo up test test-long check format chaos deep bench lock clean
.DEFAULT_GOAL := demo

setup: .venv/.run-ready
dev: .venv/.dev-ready

.venv/.run-ready: requirements-pip.txt requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Keylane needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 69; }
	@echo "setting up .venv (once)"
	@# The pip that comes with Python 3.11 takes twice as long for what follows, so it only has to
	@# install another; where Python has none of its own, as on Debian, the folder gets one first.
	@$(PYTHON) -m venv --without-pip .venv
	@$(PYTHON) -m pip --python $(BIN)/python $(INSTALL) -r requirements-pip.txt 2>/dev/null || \
	  { $(PYTHON) -m venv .venv && $(PIP) $(INSTALL) -r requirements-pip.txt; }
	@$(PIP) $(INSTALL) -r requirements.txt
	@$(PIP) install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv/.dev-ready: .venv/.run-ready requirements-dev.txt
	@$(PIP) $(INSTALL) -r requirements-dev.txt
	@touch $@

demo: setup
	@$(BIN)/keylane demo

up: setup
	@$(BIN)/keylane up

# Tests wait for much of their time, so four processes keep two cores busy. They share a broker; a
# file's tests stay together.
test: check
	@$(BIN)/python -m pytest -q -n 4 --dist loadfile --no-loadscope-reorder

check: dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# Everything, also what `make test` leaves out because it takes long.
test-long: check
	@$(BIN)/python -m pytest -q -m "long or not long"

# Many more schedules of the lanes' model than `make test` tries; stops at the first that fails.
SCHEDULES ?= 1000000
deep: dev
	@$(BIN)/python -m tests.unit.schedules --first 1000000 --schedules $(SCHEDULES)

# SEED repeats a run, MINUTES says how long, FAULT names one fault (or `mix`) to play once.
chaos: dev
	@KEYLANE_TEST_FULL=1 $(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) \
	  $(if $(FAULT),--fault $(FAULT))

# PARTS names some (ingest flow depth failing slow outage clients cost ...), QUICK=1 takes small sizes.
bench: dev
	@$(BIN)/python -m bench $(PARTS) $(if $(QUICK),--quick)

# Pins everything again, with hashes and without addresses. Needs uv.
lock:
	printf 'pip\n' | uv pip compile - --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header -q -o requirements-pip.txt
	uv pip compile pyproject.toml --extra local --extra notify --group build --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header -q -o requirements.txt
	uv pip compile pyproject.toml --extra local --extra notify --group build --group dev -c requirements.txt --universal \
	  --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q -o requirements-dev.txt
	uv pip compile pyproject.toml --extra notify --group build -c requirements.txt --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header -q -o requirements-image.txt

clean:
	rm -rf .venv results .mypy_cache .ruff_cache .pytest_cache .hypothesis
