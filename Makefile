# `make demo` runs the main job once, `make test` passes the tests. Every target sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin
# Of what is installed most is never imported; the rest compiles itself when it is.
INSTALL := install --quiet --disable-pip-version-check --no-compile --require-hashes
PIP := $(BIN)/python -m pip

# uv takes a tenth of pip's time, but knows nothing of an index that pip is told of.
define install
	@{ ! $(PIP) config list | grep -q index && $(BIN)/uv pip install --quiet --native-tls \
	  --python $(BIN)/python --require-hashes -r $(1) 2>/dev/null; } || $(PIP) $(INSTALL) -r $(1)
endef

# Some two hundred processes of ours start in the tests: none should compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup dev demo up test test-long check style types imports format chaos deep bench lock clean
.DEFAULT_GOAL := demo

setup: .venv/.run-ready
dev: .venv/.dev-ready

.venv/.run-ready: requirements-installers.txt requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Keylane needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 69; }
	@echo "setting up .venv (once)"
	@# Where Python has no pip of its own, as on Debian, the folder gets one first.
	@$(PYTHON) -m venv --without-pip .venv
	@$(PYTHON) -m pip --python $(BIN)/python $(INSTALL) -r requirements-installers.txt 2>/dev/null || \
	  { $(PYTHON) -m venv .venv && $(PIP) $(INSTALL) -r requirements-installers.txt; }
	$(call install,requirements.txt)
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

.venv/.dev-ready: .venv/.run-ready requirements-dev.txt
	$(call install,requirements-dev.txt)
	@touch $@

demo: setup
	@$(BIN)/keylane demo

up: setup
	@$(BIN)/keylane up

# Tests wait for much of their time, so four processes keep two cores busy. They share a broker; a
# file's tests stay together.
test: dev
	@$(MAKE) --no-print-directory --jobs=2 check .venv/.compiled
	@$(BIN)/python -m pytest -q -n 4 --dist loadfile --no-loadscope-reorder

# What tests import compiles once, not in four processes at a time; whatever fails here fails there.
.venv/.compiled: .venv/.dev-ready
	@$(BIN)/python -m pytest --collect-only -q -p no:cacheprovider >/dev/null 2>&1 || true
	@touch $@

check: style types imports
style: dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
types: dev
	@$(BIN)/mypy
imports: dev
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

# Pins everything again, with hashes and without addresses.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-header
lock: setup
	printf 'pip\nuv\n' | $(LOCK) - -o requirements-installers.txt
	$(LOCK) pyproject.toml --extra local --extra notify --group build -o requirements.txt
	$(LOCK) pyproject.toml --extra local --extra notify --group build --group dev -c requirements.txt \
	  -o requirements-dev.txt
	$(LOCK) pyproject.toml --extra notify --group build -c requirements.txt -o requirements-image.txt

clean:
	rm -rf .venv results .mypy_cache .import_linter_cache .ruff_cache .pytest_cache .hypothesis
