# Two commands on a bare machine: `make demo`, `make test`. Each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup demo test slow quick chaos chaos-sim chaos-record check format pocket real clean

help:            ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.ready  ## the virtual environment with everything in it

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: setup      ## map two sentences over a small Earth, on this machine, offline
	$(BIN)/resmap demo

test: setup      ## the whole suite, on two cores; a file's tests stay together
	$(BIN)/python -m pytest -n 2 --dist loadfile

slow: setup      ## the published sizes of the large models, minutes and gigabytes
	$(BIN)/python -m pytest -m slow

quick: setup     ## the suite without Ray and servers
	$(BIN)/python -m pytest tests/mapper tests/catalogs tests/test_architecture.py

chaos: setup     ## kill drivers, workers and nodes, and break stores: tens of minutes
	$(BIN)/python -m pytest -m chaos --timeout 3600

chaos-sim: setup ## ten thousand runs on paper, each with faults of its own
	$(BIN)/python -m tests.simulation

chaos-record: setup ## the kills of `make chaos`, their figures put into benchmarks/results
	$(BIN)/python -m tests.chaos --record

check: setup     ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup    ## put the code into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

pocket: setup    ## train the model that ships (two hours of one core)
	$(BIN)/python -m benchmarks.pocket.train

real: setup      ## map the real pictures of ../shared/data and record the scores
	$(BIN)/python -m benchmarks.real_input

clean:           ## forget the virtual environment
	rm -rf $(VENV)
