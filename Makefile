# `make demo`, `make test` and `make check` set up everything they need by themselves.
# A torch build of your choice: make install TORCH="torch==2.13.0"

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
LOAD := $(VENV)/load
READY := $(VENV)/.ready

.PHONY: install demo test check bench load clean

install: $(READY)

$(READY): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

demo: $(READY)
	@$(BIN)/credit demo

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff check creditdecoding tests benchmarks
	$(BIN)/ruff format --check creditdecoding tests benchmarks
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layers.py tests/test_docs.py -k "not blocks and not commands_run"

bench: $(READY)
	$(BIN)/python -m benchmarks.decoder_step
	$(BIN)/python -m benchmarks.caches
	$(BIN)/python -m benchmarks.serving_engine
	$(BIN)/python -m benchmarks.sglang_step

# The load generator wants other versions than we do, so it has an environment of its own.
$(LOAD)/.ready: $(READY)
	$(PYTHON) -m venv $(LOAD)
	$(LOAD)/bin/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" "guidellm>=0.8,<0.9"
	@touch $@

load: $(LOAD)/.ready
	$(BIN)/python -m benchmarks.load --guidellm $(LOAD)/bin/guidellm

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
