# Everything runs from .venv; the first target that needs it makes it.
PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: setup repro test check bench lock clean
.DEFAULT_GOAL := help

help:            ## list the targets
	@grep -hE '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 12

setup: $(READY)  ## make .venv with the pinned packages and bclef itself

$(READY): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"bclef needs Python 3.11 or newer, found {sys.version.split()[0]}; set PYTHON=/path/to/python3.11")'
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check 'uv==$(UV_VERSION)'
	@$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --requirement requirements/dev.txt
	@$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --no-deps --editable .
	@touch $(READY)

repro: $(READY)  ## run the whole pipeline (params.yaml), then print a summary
	dvc repro
	-@python -m bclef.shipping
	@python -m bclef.summary

test: $(READY)   ## run all tests
	python -m pytest

check: $(READY)  ## lint, format, spelling, types, architecture
	ruff check .
	ruff format --check .
	codespell bclef stages tests bench docs recipes README.md CHANGELOG.md CONTRIBUTING.md
	mypy
	python -m pytest -q tests/test_architecture.py

bench: $(READY)  ## run the benchmarks of bench/
	python -m bench.metadata
	python -m bench.duplicates
	python -m bench.loader
	python -m bench

lock: $(READY)   ## compile requirements/*.txt again from pyproject.toml
	uv pip compile --quiet --universal --no-header --no-emit-index-url --no-emit-find-links --no-annotate --python-version 3.11 pyproject.toml -o requirements/base.txt
	uv pip compile --quiet --universal --no-header --no-emit-index-url --no-emit-find-links --no-annotate --python-version 3.11 --extra train pyproject.toml -o requirements/train.txt
	uv pip compile --quiet --universal --no-header --no-emit-index-url --no-emit-find-links --no-annotate --python-version 3.11 --all-extras pyproject.toml -o requirements/dev.txt

clean:           ## remove what the pipeline wrote and git ignores, but not the DVC cache
	git clean -fdXq data models plots reports metrics .work .mlspool mlruns mlflow.db
