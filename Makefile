# A fresh machine has python3, pip and make: every target makes .venv and installs what it needs by itself.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock

.PHONY: demo test check screenshots soak rehearsal bench up down deploy lock clean help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/installed ## simulated satellite granules to a scorecard, in minutes
	$(BIN)/fewcast pipeline --preset demo

test: .venv/installed-test ## the whole test suite, on up to four cores
	$(BIN)/python -m pytest -m "not soak" -n auto --maxprocesses 4 --dist loadfile

check: .venv/installed-test ## lint, format, types, the direction of imports, and an audit of the dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python infra/audit.py

screenshots: .venv/installed-test ## take the pictures of the guides from the real pages (needs Chromium)
	FEWCAST_SCREENSHOTS=docs/images $(BIN)/python -m pytest tests/browser

soak: .venv/installed-test ## the long kill, fault and fuzz runs
	$(BIN)/python -m pytest -m soak --timeout=7200

rehearsal: .venv/installed-test ## ten slots of the whole stack under a satellite with faults, kills and outages
	$(BIN)/python tests/soak/soak.py --slots 10 --seconds 4 --kills 1 --away 6 --patience 600 --push

bench: .venv/installed-bench ## every benchmark, each with its peer beside it
	@for file in tests/benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

# make up PROFILE=postgres keeps the records in PostgreSQL; the profile of a data folder stays.
PROFILE ?=
up: .venv/installed-stack $(if $(filter postgres,$(PROFILE)),.venv/installed-postgres) ## Prefect, MLflow, S3, Dask and workers on loopback, with every deployment
	$(BIN)/python -m deployments.stack up --profile "$(PROFILE)"

down: .venv/installed ## stop what `make up` started; data stay
	$(BIN)/python -m deployments.stack down

deploy: .venv/installed ## apply every deployment to the server that PREFECT_API_URL names
	$(BIN)/python -m deployments.deploy --apply

lock: .venv/installed-bench ## write requirements.lock from what is installed
	$(BIN)/pip freeze --exclude-editable | sed -E 's/\+cpu$$//' | grep -vE '^(nvidia|triton)' > requirements.lock

clean: ## remove the environment; data stay
	rm -rf .venv

# torch comes first and alone: pip then never swaps it for another build while it resolves the rest.
.venv/installed: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) "$$(grep '^torch==' requirements.lock)"
	$(PIP) --editable .
	touch $@

.venv/installed-test: .venv/installed
	$(PIP) --editable ".[test,oracle]"
	touch $@

.venv/installed-stack: .venv/installed
	$(PIP) --editable ".[stack]"
	touch $@

.venv/installed-postgres: .venv/installed
	$(PIP) --editable ".[postgres]"
	touch $@

.venv/installed-bench: .venv/installed-test
	$(PIP) --editable ".[bench]"
	touch $@
