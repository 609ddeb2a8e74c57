# Needs Python 3.11 to 3.13, pip and make. Uses the active virtual environment, or makes .venv.
PYTHON ?= $(or $(shell command -v python3.11 || command -v python3.12 || command -v python3.13),python3)
VENV := $(or $(VIRTUAL_ENV),.venv)
BIN := $(VENV)/bin
JOBS ?= 2
KILLS ?= 100
DAMAGES ?= 100
SIGNALS ?= 20
FUZZ ?= 2000
LOSSES ?= 20
BENCHMARKS ?= benchmarks/loss.py

RECIPE ?= configs/stdlib_demo.py
RUN ?= runs/$(basename $(notdir $(RECIPE)))

.PHONY: help train check test test-long test-parity install-tpu test-tpu test-tpu-small chaos audit lint format types docs bench release clean

help:
	@echo "make train    train $(RECIPE), plot its loss, print samples (RECIPE=... for another)"
	@echo "make check    the quick tests: layers, masks, losses, corruption, with lint; seconds"
	@echo "make test     the tests (JOBS=$(JOBS) at a time), and the ten slowest of them"
	@echo "make test-long    the tests that take about ten seconds or more each: every objective on eight devices, ..."
	@echo "make test-parity  compares every model family with transformers, and tasks with lm-eval (installs torch)"
	@echo "make test-tpu     compiles the large recipes for TPUs, without one (installs libtpu; about an hour)"
	@echo "make test-tpu-small  compiles the kernels and one small recipe only"
	@echo "make chaos    kills runs at random moments and damages their files (KILLS=$(KILLS), DAMAGES, SIGNALS, LOSSES, FUZZ; long)"
	@echo "make audit    asks a public database for known faults of the packages installed here (needs the network)"
	@echo "make lint     ruff; make format repairs what it can"
	@echo "make types    mypy"
	@echo "make docs     the documentation site, in docs/_build; a warning is an error"
	@echo "make bench    $(BENCHMARKS)"
	@echo "make release  builds sdist and wheel, and tries the wheel in a fresh environment"
	@echo "make clean    removes caches and builds; runs/ and data/ stay"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# One stamp for what users need and one for what developers need, renewed when pyproject.toml changes.
$(VENV)/.lmjax-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

$(VENV)/.lmjax-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.lmjax-test

$(VENV)/.lmjax-parity: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[parity]'
	@touch $@ $(VENV)/.lmjax-test

$(VENV)/.lmjax-docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

$(VENV)/.lmjax-tpu: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,tpu]'
	@touch $@ $(VENV)/.lmjax-test

train: $(VENV)/.lmjax-test
	$(BIN)/lmjax train $(RECIPE) --folder $(RUN)
	$(BIN)/lmjax plot $(RUN)
	$(BIN)/lmjax sample $(RUN) --prompt "def " --num-samples 3 --temperature 0.7 --top-p 0.95

check: lint
	$(BIN)/python -m pytest tests/test_layers.py tests/test_annotations.py tests/test_masks.py tests/losses tests/corruption

test: $(VENV)/.lmjax-test
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations=10

test-long: $(VENV)/.lmjax-test
	$(BIN)/python -m pytest -m long -n $(JOBS) --dist worksteal --durations=10

test-parity: $(VENV)/.lmjax-parity
	$(BIN)/python -m pytest -m parity -s tests/interop tests/evaluate

install-tpu: $(VENV)/.lmjax-tpu

test-tpu: $(VENV)/.lmjax-tpu
	$(BIN)/python -m pytest -m tpu -s tests/compile

test-tpu-small: $(VENV)/.lmjax-tpu
	$(BIN)/python -m pytest -m tpu -n $(JOBS) -k "(test_tpu_kernels and v5e) or stdlib_demo" tests/compile

chaos: $(VENV)/.lmjax-test
	$(BIN)/python -m pytest -m chaos -s tests/chaos --kills $(KILLS) --damages $(DAMAGES) --signals $(SIGNALS) \
	  --losses $(LOSSES) --fuzz $(FUZZ)

audit: $(VENV)/.lmjax-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.7,<3'
	$(BIN)/pip-audit --skip-editable

lint: $(VENV)/.lmjax-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.lmjax-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.lmjax-dev
	$(BIN)/mypy

docs: $(VENV)/.lmjax-docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(VENV)/.lmjax-test
	set -e; for file in $(BENCHMARKS); do $(BIN)/python $$file; done

# The wheel is tried where the checkout is not on the path: what it lacks fails here and not at a user.
release: $(VENV)/.lmjax-dev
	rm -rf dist build
	$(BIN)/python -m build --quiet
	$(BIN)/python -m twine check --strict dist/*
	rm -rf build/release && $(PYTHON) -m venv build/release
	build/release/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd build/release && bin/lmjax --help > help.txt && bin/python -c "import lmjax.losses, lmjax.corruption, lmjax.masks"
	cd build/release && bin/lmjax train stdlib_demo --dry-run > dry-run.txt

clean:
	rm -rf build dist docs/_build docs/api/generated .pytest_cache .mypy_cache .ruff_cache
	find lmjax tests configs benchmarks launch -name __pycache__ -type d -prune -exec rm -rf {} +
