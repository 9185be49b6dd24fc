# Each target makes its own environment first: .venv, from requirements.txt, made again when that file changes.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Passed through to the demo.
PATTERN ?=
CHALLENGERS ?=
KEEP ?=
ENGINE ?=
LOG_URL ?=
MLFLOW_PORT ?= 5000
GATEWAY_PORT ?= 8600
AIRFLOW_PORT ?= 8080
export PATTERN CHALLENGERS KEEP MLFLOW_PORT GATEWAY_PORT AIRFLOW_PORT ENGINE LOG_URL

screenshots: $(READY) ## pictures of a running demo (make demo KEEP=1) for the README
	@exec $(BIN)/python -m demo.screenshots

.PHONY: help demo screenshots test test-statistics test-chaos test-fuzz audit test-faults test-compose secrets test-wheel bench-decisions bench-switch bench-gateway bench-page bench-watch page-pictures bench-compare lint types lock clean

help: ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'
	echo
	echo "  demo: PATTERN=canary,shadow,blue-green,ab-test,gradual (all when left out) KEEP=1"
	echo "  demo: CHALLENGERS=better,inaccurate,raises,slow (canaries of these) MLFLOW_PORT= GATEWAY_PORT= AIRFLOW_PORT="
	echo "  demo: ENGINE=spark, or ENGINE=postgresql LOG_URL=postgresql://... (docs/engines.md)"
	echo "  PYTHON=... names a Python 3.11 to make the environment with"

demo: $(READY) ## start everything and roll out good and bad models under real traffic (minutes)
	@exec $(BIN)/python -m demo.run

test: $(READY) ## every test but the simulations of `make test-statistics`, with real servers
	@exec $(BIN)/python -m pytest --ignore=tests/acceptance -n 3 --dist loadfile --no-loadscope-reorder --durations=40 --durations-min=5

test-statistics: $(READY) ## what the decisions promise, simulated at full size (2 minutes)
	@exec $(BIN)/python -m pytest -n 2 tests/acceptance -m acceptance

test-chaos: $(READY) ## every failure at full size: kill -9, sick challengers, moves, outages (25 minutes; CHAOS= for a small one)
	@CHAOS=$${CHAOS-full} exec $(BIN)/python -m pytest tests/chaos -m chaos -s

test-faults: $(READY) ## kills, outages, clocks, people, restores against everything that runs: docs/faults.md (half an hour; FAULTS=small: a tenth)
	@exec $(BIN)/python -m tests.faults.run $(ARGS)

test-compose: $(READY) ## docker-compose.yaml on a real engine, from nothing to two canaries and back to nothing (10 minutes; ARGS=--help)
	@exec $(BIN)/python tests/compose/check.py $(ARGS)

secrets: ## random passwords for docker-compose.yaml into .env, which is never overwritten
	@deploy/make-secrets

test-fuzz: $(READY) ## requests, forms, webhooks and files that nobody thought of (FUZZ=30 times what make test tries, 15 minutes)
	@FUZZ=$${FUZZ-30} exec $(BIN)/python -m pytest -n 2 --dist loadfile tests/fuzz --timeout 1800

audit: $(READY) ## known vulnerabilities of everything that is installed; fails where the service that knows them is away
	@exec $(BIN)/python tests/audit/check.py

test-wheel: $(READY) ## the wheel in an environment and an Airflow of its own (1 minute)
	@exec $(BIN)/python tests/wheel/check.py

bench-decisions: $(READY) ## the engine beside the usual rules: docs/benchmarks/decisions.md (1 minute)
	@exec $(BIN)/python -m bench.decisions

bench-switch: $(READY) ## a switch and a rollback under 200 requests a second: docs/benchmarks/switch.md (2 minutes)
	@exec $(BIN)/python -m bench.switch

bench-gateway: $(READY) ## the gateway beside other servers: docs/benchmarks/gateway.md (10 minutes; needs wrk)
	@exec $(BIN)/python -m bench.gateway

bench-page: $(READY) ## the page with 1,200 rollouts and 10,000 looks: docs/benchmarks/page.md (3 minutes; needs chromium)
	@exec $(BIN)/python -m bench.page

bench-watch: $(READY) ## 500 rollouts watched by one triggerer: docs/benchmarks/watch.md (8 minutes; ARGS=--together: 15)
	@exec $(BIN)/python -m bench.watch $(ARGS)

page-pictures: $(READY) ## pictures of the page for docs/page.md, by its end-to-end test (2 minutes; needs chromium)
	@ROLLOUTS_SCREENSHOTS=docs/images exec $(BIN)/python -m pytest tests/e2e/test_page.py -m e2e -q

bench-compare: $(READY) ## evidence and comparison beside a bare scan: docs/benchmarks/compare.md (ARGS=--full: an hour)
	@exec $(BIN)/python -m bench.compare $(ARGS)

lint: $(READY) ## style, imports, layers
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY) ## mypy, strict
	@$(BIN)/mypy
	$(BIN)/mypy demo/*.py
	# On its own: seen from here, its folder would be the package mlflow.
	cd mlflow/flights && ../../$(BIN)/mypy --config-file ../../pyproject.toml train.py replay.py

lock: $(READY) ## compile requirements*.in to requirements.txt
	@echo "locking requirements.txt"
	$(BIN)/uv pip compile requirements.in requirements-spark.in -o requirements.txt --python-version 3.11 -q --no-emit-index-url
	echo "locking deploy/requirements.txt: what the image installs"
	$(BIN)/uv pip compile pyproject.toml deploy/requirements.in -c requirements.txt -o deploy/requirements.txt --python-version 3.11 -q --no-emit-index-url --generate-hashes

clean: ## remove what the demo, the tests and the checks wrote (the environment stays)
	@rm -rf .local .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache reports/out
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(READY): requirements.txt pyproject.toml
	@began=$$(date +%s)
	if [ ! -x $(BIN)/python ]; then
	  command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not there; name a Python 3.11 with PYTHON=..." >&2; exit 1; }
	  found=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
	  if [ "$$found" != 3.11 ]; then
	    echo "$(PYTHON) is Python $$found, must be 3.11; name one with PYTHON=/path/to/python3.11" >&2
	    exit 1
	  fi
	  echo "making $(VENV)"
	  $(PYTHON) -m venv $(VENV)
	fi
	[ -x $(BIN)/uv ] || $(BIN)/python -m pip install -q --disable-pip-version-check uv
	echo "installing requirements.txt (about a minute the first time)"
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install -q -r requirements.txt
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install -q --no-deps -e .
	touch $@
	echo "environment ready after $$(( $$(date +%s) - began )) s"
