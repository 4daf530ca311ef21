# Every target sets up what it needs: a virtual environment with the pinned packages.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# requirements/ lists every package with the hashes of its files: pip resolves nothing and takes, or builds with, no other.
# torch's build for CPUs is taken where pip's configuration offers it (PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS).
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation
LOCKED := $(INSTALL) --require-hashes --requirement
RECIPE ?= conf/demo.yaml
export DO_NOT_TRACK := 1

.DEFAULT_GOAL := help
.PHONY: help setup run test test-slow lint ui lock clean-workspace

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

$(STAMP): pyproject.toml $(wildcard requirements/*.txt)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "no virtual environment could be made; on Debian: apt install python3-venv"; exit 1; }
	@echo "installing packages into .venv (some minutes, once)"
	@$(LOCKED) requirements/build.txt
	@$(LOCKED) requirements/packages.txt
	@if $(BIN)/pip index versions torch 2>/dev/null | grep -qwF "$$(grep -o '[0-9.]*+cpu' requirements/torch-cpu.txt)"; \
		then $(LOCKED) requirements/torch-cpu.txt; else $(LOCKED) requirements/torch.txt; fi
	@$(INSTALL) --editable .
	@touch $@

setup: $(STAMP) ## install everything into .venv

run: $(STAMP) ## build the demo model from end to end (RECIPE=... for another)
	@$(BIN)/python -m flows run $(RECIPE)

test: $(STAMP) ## run the tests
	@$(BIN)/python -m pytest

test-slow: $(STAMP) ## run the tests that take long (kills at random moments)
	@$(BIN)/python -m pytest -m slow

lint: $(STAMP) ## ruff, mypy --strict, import rules
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

ui: $(STAMP) ## Prefect UI, MLflow UI and the deployments, on 127.0.0.1
	@$(BIN)/python -m flows ui $(RECIPE)

lock: ## remake requirements/ from pyproject.toml (needs uv; see benchmarks/lock.py)
	@$(PYTHON) -m benchmarks.lock $(ARGS)

clean-workspace: ## remove everything that was built
	rm -rf workspace
