# Needs Python 3.11 or newer and make; everything else goes into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin
PACKAGES := configs data_catalog flows gem3d_core tasks

PHANTOMS := demo/phantoms/Dataset901_Phantoms
DATASET ?= $(PHANTOMS)
PROFILE ?= demo
CATALOG ?= demo/catalog
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test check docs clean

help: ## Say what each target does
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make .venv with everything in it: a few minutes and 7 GB, once

# nnU-Net's requirements bring backports that shadow Python's own modules in Prefect's server: they are removed again
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "make: Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[clip,dev,docs,s3]"
	$(BIN)/python -m pip uninstall --quiet --yes argparse unittest2 traceback2 linecache2
	@touch $@

demo: $(READY) ## Enhance a dataset: phantoms made for it, or DATASET=folder [PROFILE=demo CATALOG=folder]
ifeq ($(DATASET),$(PHANTOMS))
	$(BIN)/gem3d phantoms demo/phantoms
endif
	$(BIN)/gem3d enhance "$(DATASET)" --profile $(PROFILE) --catalog "$(CATALOG)"

test: $(READY) ## Run all tests, JOBS at a time (2)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

check: $(READY) ## Lint, formatting, types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

docs: $(READY) ## Build the documentation as a site, from nothing outside this machine, into build/site
	$(BIN)/python benchmarks/figures.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

clean: ## Remove what was built and cached; .venv and demo stay
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(PACKAGES) tests -name __pycache__ -type d -prune -exec rm -rf {} +
