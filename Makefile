# Everything a newcomer runs. `make demo` and `make test` set up what they need by themselves.
#
#   make demo                      the main job in small, on any machine
#   make test                      the tests (under ten minutes on two cores)
#   make test-all                  the slow ones too, and the newest megatron-core
#   make format lint typecheck     what CI asks of a change
#   make docs                      the docs as a site, in site/; make reference after a change of a schema
#   make gpu                       measure this machine's GPU; make gpu-prepare packs all that a bare one needs
#
# PYTHON=python3.12 chooses the interpreter. PyPI's torch for Linux is the CUDA build, several GB;
# TORCH_INDEX_URL=<the CPU index named on PyTorch's installation page> takes the small one instead.

SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: demo setup test test-all test-slow test-latest format lint typecheck docs reference clean help \
        gpu gpu-prepare gpu-rehearse

# The first of some interpreters that runs: a pyenv shim may exist for a version that is not switched on.
first_that_runs = $(shell for p in $(1); do "$$p" -c '' 2>/dev/null && { echo "$$p"; break; }; done)

ifndef PYTHON
PYTHON := $(call first_that_runs,python3.11 python3)
endif
VENV ?= .venv
BIN := $(VENV)/bin
PYTHON_VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
CONSTRAINTS := constraints/python$(PYTHON_VERSION).txt
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS)
WORKERS ?= 2

# The newest megatron-core needs Python 3.12 or later; where none is found, test-latest says so and passes.
ifndef PYTHON_LATEST
PYTHON_LATEST := $(call first_that_runs,python3.12 $(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/3.12.*/bin/python3.12))
endif

help:
	@sed -n '3,8p' Makefile

setup: $(VENV)/.installed

# The CPU index is asked for torch alone, so that every other package comes from where it always comes from.
$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	@echo "Setting up $(VENV) with Python $(PYTHON_VERSION) (torch first; PyPI's CUDA build is several GB)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=24'
	$(PIP_INSTALL) $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) torch
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@

$(CONSTRAINTS):
	@echo "Python $(PYTHON_VERSION) has no $(CONSTRAINTS): 3.10 to 3.13 are supported; try make PYTHON=python3.11" >&2
	@exit 1

demo: setup
	$(BIN)/retrieva demo

test: setup
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations 15 -m 'not slow'

# One more than cores: those with a real scheduler mostly wait, and are kept to one worker.
test-slow: setup
	$(BIN)/python -m pytest -n $$(( $(WORKERS) + 1 )) --dist loadgroup --durations 25 -m slow

# The newest first: a slow test reads checkpoints that it has written.
test-all: test-latest test-slow

test-latest:
ifeq ($(PYTHON_LATEST),)
	@echo "No Python 3.12 was found; the newest megatron-core was not tested."
else
	$(MAKE) setup PYTHON=$(PYTHON_LATEST) VENV=.venv-latest
	.venv-latest/bin/python -m pytest -n $(WORKERS) --dist worksteal -m 'engine and not slow'
endif

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

typecheck: setup
	$(BIN)/mypy

# The reference of recipes and the JSON schemas for editors; a test fails where they are stale.
reference: setup
	$(BIN)/python tools/reference.py

docs: setup
	$(BIN)/python tools/reference.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# benchmarks/gpu/README.md: packs wheels, sources and small corpora into .gpu-kit/, with the network.
gpu-prepare: setup
	PYTHON=$(BIN)/python bash benchmarks/gpu/prepare.sh

# Ends by itself within nine minutes. On a machine without network and without .venv: bash benchmarks/gpu/run.sh
gpu: .gpu-kit/commit
	bash benchmarks/gpu/run.sh

.gpu-kit/commit:
	$(MAKE) gpu-prepare

gpu-rehearse: gpu-prepare
	PYTHON=$(BIN)/python bash benchmarks/gpu/run.sh --rehearse --limit 1800

clean:
	rm -rf $(VENV) .venv-latest build dist site demo .pytest_cache .mypy_cache .ruff_cache
