# Every target sets up what it needs: a virtual environment with the pinned packages.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# The files say every package that is needed, with the hashes of its wheels: pip resolves nothing and takes nothing else.
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-deps
RECIPE ?= conf/demo.yaml
export DO_NOT_TRACK := 1

.DEFAULT_GOAL := help
.PHONY: help setup lock run test test-slow lint ui clean-workspace

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

$(STAMP): pyproject.toml requirements.lock requirements-cuda.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "no virtual environment could be made; on Debian: apt install python3-venv"; exit 1; }
	@echo "installing packages into .venv (some minutes, once)"
	@$(INSTALL) --require-hashes --requirement requirements.lock
	@! $(BIN)/python .ci/needs_cuda.py || $(INSTALL) --require-hashes --requirement requirements-cuda.lock
	@$(INSTALL) --no-build-isolation --editable .
	@touch $@

lock: ## remake requirements*.lock from pyproject.toml and constraints.txt (needs uv; ARGS="--find-links FOLDER")
	@$(PYTHON) .ci/lock.py $(ARGS)

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

clean-workspace: ## remove everything that was built
	rm -rf workspace
