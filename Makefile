# `make demo` and `make test` need nothing but Python 3.11 or later; the rest of the environment is made here.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo train-demo checkpoint compare test test-all lint docs bench

demo: $(VENV)/installed
	$(BIN)/glccl demo

train-demo: $(VENV)/installed
	$(BIN)/glccl train-demo

# hub/models/glccl-shapes, the model of `make demo`
checkpoint: train-demo
	$(BIN)/python hub/models/make_shapes.py

compare: $(VENV)/installed
	$(BIN)/glccl compare

# in two processes of one thread, which is the fastest on two cores
test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-all: $(VENV)/installed
	$(BIN)/python -m pytest -m "not gpu"

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/typos
	$(BIN)/pyright
	$(BIN)/hadolint Dockerfile

# the site, into site/
docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/installed
	$(BIN)/python benchmarks/parity.py --golden tests/golden
	$(BIN)/python benchmarks/scoring.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/decoding.py
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/endpoint.py

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable ".[dev]"
	touch $@
