# `make run` and `make test` do all of their own set-up. They need Python 3.11 or later, git and make.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The stages' `python` is this environment's.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# No tool reports home.
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export BENTOML_DO_NOT_TRACK := True
export GX_ANALYTICS_ENABLED := false
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export PREFECT_HOME := $(CURDIR)/.prefect

# The environment is up to date when it carries the stamp of the lock that it was made from.
STAMP := .venv/.mien-$(shell cat requirements.lock pyproject.toml | cksum | cut -d' ' -f1)
PYTEST := .venv/bin/python -m pytest

.PHONY: help setup run run-fer2013 serve bento ui monitor-ui drift-drill test test-all lint lock clean

help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(STAMP)  ## make .venv from requirements.lock (the other targets do it, too)

$(STAMP):
	@python=; for candidate in $(PYTHON) python3.11 python3 python3.12 python3.13 python; do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    python=$$candidate; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo "Mien needs Python 3.11 or later. Install it, or name it: make setup PYTHON=/path/to/python3" >&2; \
	  exit 1; fi; \
	if [ ! -x .venv/bin/python ]; then "$$python" -m venv .venv || { rm -rf .venv; \
	  echo "$$python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; \
	  exit 1; }; fi
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@rm -f .venv/.mien-*
	@touch $@

run: $(STAMP)  ## run the pipeline on the default data; what is up to date does not run again
	.venv/bin/python -m flows.training

# The real data, where it lies beside the checkout: make run-fer2013 DATA=/elsewhere
DATA ?= ../shared/datasets
run-fer2013: $(STAMP)  ## run it on FER2013 (10% of its labels) and LFW: DATA=folder of the two zips
	.venv/bin/mien run --params configs/fer2013-lfw.yaml --data $(DATA) --out runs/fer2013-lfw

# MIEN_NOTIFY_WEBHOOK and MIEN_NOTIFY_MAIL tell people of failed runs; docs/operations.md says how.
ui: PORT ?= 4200
ui: $(STAMP)  ## Prefect: server, worker, schedules, at http://127.0.0.1:4200 (PORT=…) until Ctrl-C
	@exec .venv/bin/python -m flows.ui --port $(PORT)

serve: PORT ?= 3000
serve: $(STAMP)  ## serve the model: PORT=3000, MIEN_MODEL=a size, package folder, workspace or tag
	.venv/bin/python -m mien.serving --port $(PORT)

bento: $(STAMP)  ## build a Bento of the model and the service, which needs no checkout
	.venv/bin/python -m mien.serving.build

test: $(STAMP)  ## the tests, but for the slow ones, three files at a time: many wait for a server
	$(PYTEST) -m "not slow" -n 3 --dist loadfile --no-loadscope-reorder

test-all: $(STAMP)  ## all tests
	$(PYTEST)

lint: $(STAMP)  ## ruff and mypy
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

monitor-ui: $(STAMP)  ## Evidently's panels over all windows, at http://127.0.0.1:8500
	.venv/bin/evidently ui --workspace monitoring/evidently --host 127.0.0.1 --port 8500

drift-drill: $(STAMP)  ## the whole loop on small data: drift, retraining, gate, new champion
	.venv/bin/python -m benchmarks.drift_drill

lock: $(STAMP)  ## remake requirements.lock from pyproject.toml
	.venv/bin/python -m venv --clear .mien/lock
	.mien/lock/bin/python -m pip install --quiet "hatchling>=1.26" editables ".[dev]"
	{ sed -n '/^#/p' requirements.lock; \
	  .mien/lock/bin/python -m pip freeze --exclude mien | sed -E 's/\+[^=]*$$//' | LC_ALL=C sort -f; \
	} > .mien/requirements.lock
	mv .mien/requirements.lock requirements.lock
	rm -rf .mien/lock

clean:  ## remove caches, checkpoints and what Prefect keeps; results, data and .venv stay
	rm -rf .mien .prefect .pytest_cache .hypothesis .mypy_cache .ruff_cache dist
	find src flows tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
