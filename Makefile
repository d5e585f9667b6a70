SHELL := /bin/sh
PY := .venv/bin/python
# The tests start hundreds of processes; without this each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: setup foreign demo test wheel systemd-day lint bench crash-matrix random-faults mutants long lock docs clean

# The stamp skips set-up until the lock changes.
.venv/.ready: requirements.lock
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Catalyst needs Python 3.11 or newer; python3 is $$(python3 --version)"; exit 1; }
	@echo "setting up .venv (once; the network is used for this step only)"
	@python3 -m venv --clear .venv
	@$(PY) -m pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock
	@$(PY) -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch .venv/.ready

setup: .venv/.ready

# alpaca-trade-api pins old libraries, some without a wheel for this Python, so its lock overrides the pins and it has
# its own environment.
.venv-foreign/.ready: requirements-foreign.lock
	@python3 -m venv --clear .venv-foreign
	@.venv-foreign/bin/python -m pip install -qq --disable-pip-version-check --no-deps --only-binary :all: --require-hashes -r requirements-foreign.lock
	@touch .venv-foreign/.ready

foreign: .venv-foreign/.ready

demo: setup
	@$(PY) -m catalyst demo

# One worker per core and one more, each with its own database server.
test: setup
	@$(PY) -m pytest -q -n auto --maxprocesses 4 --dist worksteal

# The installed units under a real systemd, isolated from this machine; needs root, and skips with the reason without.
systemd-day: setup
	@$(PY) -m tests.systemd_day

wheel: setup
	@rm -rf build
	@$(PY) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

lint: setup
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@.venv/bin/lint-imports

bench: setup
	@$(PY) -m benchmarks

# Long property tests: thousands of Hypothesis examples and every recorded day; 15 minutes or more.
long: setup foreign
	@HYPOTHESIS_PROFILE=long $(PY) -m pytest -q -o timeout=0 -o faulthandler_timeout=0 tests/conformance tests/domain \
	  tests/simulator

# Crash the daemon before and after each of its steps, in every scenario; about 35 minutes; writes docs/crash-matrix.md.
crash-matrix: setup
	@$(PY) -m tests.crash.matrix

# Scenarios with random faults and crashes; SEEDS seeds from FIRST_SEED on.
random-faults: setup
	@$(PY) -m tests.crash.random_faults --seeds $(or $(SEEDS),200) --first-seed $(or $(FIRST_SEED),1)

# Plant each slip of tests/mutants/ in a copy of the tree and run the tests that should catch it; writes docs/mutants.md.
# Then switch off the code behind a sample of the promises: their tests must fail.
mutants: setup
	@$(PY) -m tests.mutants
	@$(PY) -m tests.census_sample

lock: setup
	@$(PY) -m pip install --quiet uv
	@.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --extra dev --extra build pyproject.toml -o requirements.lock

clean:
	@rm -rf .venv .venv-foreign build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

docs: setup
	@$(PY) -c "from pathlib import Path; from catalyst.domain.diagram import render_page; Path('docs/machines.md').write_text(render_page())"
	@$(PY) -m catalyst config reference > docs/configuration.md
	@$(PY) -m catalyst config reference --yaml > config.yaml
