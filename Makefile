SHELL := /bin/sh
PY := .venv/bin/python
# The tests start hundreds of processes; without this each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: setup dev foreign clients promtool demo test wheel systemd-day systemd-day-long try-install minimum-machine lint bench crash-matrix random-faults fault-days fault-day mutants long lock docs clean

# What running needs. The stamp skips set-up until the lock changes.
.venv/.ready: requirements.lock
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Catalyst needs Python 3.11 or newer; python3 is $$(python3 --version)"; exit 1; }
	@echo "setting up .venv (once; the network is used for this step only)"
	@python3 -m venv --clear .venv
	@$(PY) -m pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock
	@$(PY) -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch .venv/.ready

setup: .venv/.ready

# What tests, lint and types need beside it.
.venv/.ready-dev: .venv/.ready requirements-dev.lock
	@echo "adding what the tests need to .venv (once; the network is used for this step only)"
	@$(PY) -m pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock -r requirements-dev.lock
	@touch .venv/.ready-dev

dev: .venv/.ready-dev

# alpaca-trade-api pins old libraries, some without a wheel for this Python, so its lock overrides the pins and it has
# its own environment.
.venv-foreign/.ready: requirements-foreign.lock
	@python3 -m venv --clear .venv-foreign
	@.venv-foreign/bin/python -m pip install -qq --disable-pip-version-check --no-deps --only-binary :all: --require-hashes -r requirements-foreign.lock
	@touch .venv-foreign/.ready

foreign: .venv-foreign/.ready

# Clients that only docs/your-own-bot.md is about: the broker's MCP server, and the npm clients where there is Node.
.venv-clients/.ready: requirements-clients.lock
	@python3 -m venv --clear .venv-clients
	@.venv-clients/bin/python -m pip install -qq --disable-pip-version-check --no-deps --only-binary :all: --require-hashes -r requirements-clients.lock
	@touch .venv-clients/.ready

.npm-clients/.ready: tests/conformance/clients/package-lock.json
	@mkdir -p .npm-clients && cp tests/conformance/clients/package*.json .npm-clients/
	@if command -v npm >/dev/null; then cd .npm-clients && npm ci --silent --no-audit --no-fund --ignore-scripts && touch .ready; fi

clients: .venv-clients/.ready .npm-clients/.ready

# Debian's promtool, unpacked and not installed: tests check the metrics, the alert rules and their tests with it.
.promtool/.ready:
	@rm -rf .promtool && mkdir .promtool
	@cd .promtool && { apt-get download --quiet=2 prometheus || { apt-get update --quiet=2 && apt-get download --quiet=2 prometheus; }; }
	@cd .promtool && dpkg-deb --fsys-tarfile prometheus_*.deb | tar --extract ./usr/bin/promtool && rm prometheus_*.deb
	@touch .promtool/.ready

promtool: .promtool/.ready

demo: setup
	@$(PY) -m catalyst demo

# One worker per core and one more, each with its own database server.
test: dev
	@$(PY) -m pytest -q -n auto --maxprocesses 4 --dist worksteal

# The installed units under a real systemd, isolated from this machine; needs root, and skips with the reason without.
systemd-day: setup
	@$(PY) -m tests.systemd_day

# `systemd-day` with thirty minutes without the broker, thirty without the database, and a whole day; about 90 minutes.
systemd-day-long: setup
	@$(PY) -m tests.systemd_day --broker-silence 1800 --database-silence 1800 --whole-day

# Each command of docs/install.md and the demos of README in a new Debian; writes docs/try-install.md. Needs root,
# debootstrap and the network; skips with the reason without.
try-install: setup
	@$(PY) -m tests.try_install

# The smallest memory in which the demo's day passes on one core; needs root, and skips with the reason without.
minimum-machine: setup
	@$(PY) -m tests.minimum_machine

wheel: setup
	@$(PY) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

lint: dev
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@.venv/bin/lint-imports

bench: dev
	@$(PY) -m benchmarks

# Long property tests: thousands of Hypothesis examples and every recorded day; 15 minutes or more.
long: dev foreign
	@HYPOTHESIS_PROFILE=long $(PY) -m pytest -q -o timeout=0 -o faulthandler_timeout=0 tests/conformance tests/domain \
	  tests/simulator

# Crash the daemon before and after each of its steps, in every scenario; about 35 minutes; writes docs/crash-matrix.md.
crash-matrix: dev
	@$(PY) -m tests.crash.matrix

# Scenarios with random faults and crashes; SEEDS seeds from FIRST_SEED on.
random-faults: dev
	@$(PY) -m tests.crash.random_faults --seeds $(or $(SEEDS),200) --first-seed $(or $(FIRST_SEED),1)

# Whole days of real processes under faults that never end; writes docs/fault-days.md.
fault-days: dev
	@$(PY) -m tests.fault_days --days $(or $(DAYS),20) --first-seed $(or $(FIRST_SEED),1) --workers $(or $(WORKERS),2)

# One short day of it; some two minutes.
fault-day: dev
	@$(PY) -m tests.fault_days --short --days 1 --workers 1 --first-seed $(or $(FIRST_SEED),1)

# Plant each slip of tests/mutants/ in a copy of the tree and run the tests that should catch it; writes docs/mutants.md.
# Then switch off the code behind a sample of the promises: their tests must fail.
mutants: dev
	@$(PY) -m tests.mutants
	@$(PY) -m tests.census_sample

# One resolution: the second lock has the packages of the tests that are not in the first.
UV_COMPILE = .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-emit-find-links --no-header
lock: setup
	@$(PY) -m pip install --quiet uv
	@$(UV_COMPILE) --extra build pyproject.toml -o requirements.lock
	@$(UV_COMPILE) --extra dev --constraints requirements.lock \
	  $$(sed -n 's/^\([a-z0-9._-]*\)==.*/--no-emit-package \1/p' requirements.lock) pyproject.toml -o requirements-dev.lock

clean:
	@rm -rf .venv .venv-foreign .venv-clients .npm-clients .promtool build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

docs: setup
	@$(PY) -c "from pathlib import Path; from catalyst.domain.diagram import render_page; Path('docs/machines.md').write_text(render_page())"
	@$(PY) -m catalyst config reference > docs/configuration.md
	@$(PY) -m catalyst config reference --yaml > config.yaml
