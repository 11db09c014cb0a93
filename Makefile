# Needs Python 3.11 or newer and make; everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
export HF_HUB_OFFLINE = 1

.PHONY: demo test test-slow lint types clean clean-runs

demo: $(INSTALLED)  ## align the embedded Shapes model through the whole pipeline
	$(BIN)/python run_pipeline.py run --config configs/shapes.yaml

test: $(INSTALLED)  ## every unmarked test, and parity with the published numbers
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(INSTALLED)  ## the long checks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

clean:  ## remove the environment and what tools keep; runs stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache *.egg-info

clean-runs:  ## remove all that runs have made here: champions, fetched weights, MLflow's and ZenML's stores
	rm -rf .srpo

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "srpo needs Python 3.11 or newer; make demo PYTHON=python3.12 chooses another")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[cluster,server,dev]'
	touch $@
