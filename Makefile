# Each target sets up what it needs in .venv, from the lock files in requirements/.
# Another torch build: make install TORCH=torch==2.14.1

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
# Lines about the index are of no use to a reader; errors still show.
PIP = $(BIN)/python -m pip --disable-pip-version-check -qq
CORE := $(VENV)/.core
DEV := $(VENV)/.dev
CHOICE := $(VENV)/.torch
LOAD := $(VENV)/load
LOWEST := .venv-lowest
LATEST := .venv-latest
UV := $(VENV)/uv
# The variable silences a notice about other programs.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs

.PHONY: install dev demo test test-quick test-all test-network test-lowest test-latest check docs docs-live notebooks dist lock bench bench-peers load clean FORCE

install: $(CORE)

dev: $(DEV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || { \
	  echo "error: $$($(PYTHON) --version) is not supported; 3.10 to 3.13 are. Say which: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# Rewritten only when TORCH changes, which installs again.
$(CHOICE): $(BIN)/python FORCE
	@echo '$(TORCH)' | cmp -s - $@ || echo '$(TORCH)' > $@

$(CORE): requirements/core.txt pyproject.toml $(CHOICE)
	@echo "Setting up $(VENV): $(TORCH) and 40 small packages, 0.3 to 3 GB by the torch build. One to five minutes, once."
	@$(PIP) install --no-deps -r requirements/core.txt
	@$(PIP) install "$(TORCH)"
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(DEV): requirements/dev.txt $(CORE)
	@echo "Adding to $(VENV) what tests and docs need: 160 packages, 0.6 GB. One to three minutes, once."
	@$(PIP) install --no-deps -r requirements/dev.txt
	@touch $@

demo: $(CORE)
	@$(BIN)/credit demo

# More workers than the two cores that it is made for: some tests wait for other processes.
test: $(DEV)
	$(BIN)/python -m pytest -n 4 -m "not network"

# Without the tests of the project itself, which `make check` runs.
test-quick: $(DEV)
	$(BIN)/python -m pytest -m "not network and not slow" --ignore=tests/project

# These install packages from the index while they run.
test-network: $(DEV)
	$(BIN)/python -m pytest -m network

test-all: test test-network

# The lower ends of the ranges in pyproject.toml, in an environment of its own.
test-lowest: $(LOWEST)/.ready
	$(LOWEST)/bin/python -m pytest -n 3 -m "not network"

$(LOWEST)/.ready: pyproject.toml $(UV)/bin/uv
	@$(PYTHON) -m venv $(LOWEST)
	$(BIN)/python requirements/lock.py --uv $(UV)/bin/uv --lowest $(LOWEST)/requirements.txt
	$(UV)/bin/uv pip install --quiet --python $(LOWEST)/bin/python -r $(LOWEST)/requirements.txt -e .
	@touch $@

# The newest release of everything, made anew each time: this is what a plain `pip install` gives today.
test-latest:
	rm -rf $(LATEST)
	@$(PYTHON) -m venv $(LATEST)
	$(LATEST)/bin/python -m pip --disable-pip-version-check -qq install -e ".[dev]"
	$(LATEST)/bin/python -m pytest -n 3 -m "not network"

check: $(DEV)
	$(BIN)/ruff check creditdecoding tests tools experiments benchmarks requirements
	$(BIN)/ruff format --check creditdecoding tests tools experiments benchmarks requirements
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/project -m "not slow"
	$(MKDOCS) build --quiet

docs: $(DEV)
	$(MKDOCS) build

docs-live: $(DEV)
	$(MKDOCS) serve

notebooks: $(DEV)
	$(BIN)/python -m tools.notebooks

# What a release uploads: wheel and source distribution in dist/, checked.
dist: $(DEV)
	rm -rf dist build/lib build/bdist.*
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/python -m twine check --strict dist/*

$(UV)/bin/uv: $(BIN)/python
	$(PYTHON) -m venv $(UV)
	$(UV)/bin/python -m pip --disable-pip-version-check -qq install "uv>=0.9"

lock: $(UV)/bin/uv
	$(BIN)/python requirements/lock.py --uv $(UV)/bin/uv --torch "$(TORCH)"

# One table, and bench.json. BENCH="--only loop --sizes 2M" measures less.
bench: $(DEV)
	$(BIN)/python -m benchmarks $(BENCH)

# PEERS="--llada ~/LLaDA --fast-dllm ~/Fast-dLLM --dinfer https://github.com/inclusionAI/dInfer":
# runs the code of these folders and repositories; a URL is cloned into build/peers.
bench-peers: $(DEV)
	$(BIN)/python -m benchmarks.peers $(PEERS)

# The load generator wants other versions than we do, so it has an environment of its own.
$(LOAD)/.ready: $(DEV)
	$(PYTHON) -m venv $(LOAD)
	$(LOAD)/bin/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" "guidellm>=0.8,<0.9"
	@touch $@

load: $(LOAD)/.ready
	$(BIN)/python -m benchmarks.load --guidellm $(LOAD)/bin/guidellm

clean:
	rm -rf $(VENV) $(LOWEST) $(LATEST) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
