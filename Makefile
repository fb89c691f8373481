# Two commands on a bare machine: `make demo`, `make test`. Each sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FRONT := jobs/dashboard/front
VENDOR := jobs/dashboard/static/vendor/LICENSES.txt

.PHONY: help setup demo test slow quick chaos chaos-sim chaos-ticks stac-api cluster-test cluster-record chaos-record fuzz check format pocket real clean

help:            ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.ready $(VENDOR)  ## the virtual environment with everything in it, and the libraries of the pages

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

$(VENDOR): $(FRONT)/package-lock.json $(FRONT)/vendor.mjs
	@if ! command -v npm >/dev/null; then echo "there is no npm here: the dashboard will show its plain map"; \
	elif cd $(FRONT) && npm ci --silent --ignore-scripts && node vendor.mjs; then :; \
	else echo "npm did not bring the libraries of the pages: the dashboard will show its plain map"; fi

demo: setup      ## map two sentences over a small Earth, on this machine, offline
	$(BIN)/resmap demo

test: setup      ## the whole suite, on two cores: a third process works while others wait; a file's tests stay together
	$(BIN)/python -m pytest -n 3 --dist loadfile

slow: setup      ## the published sizes of the large models, minutes and gigabytes
	$(BIN)/python -m pytest -m slow

quick: setup     ## the suite without Ray and servers
	$(BIN)/python -m pytest tests/mapper tests/catalogs tests/test_architecture.py

chaos: setup     ## kill drivers, workers and nodes, and break stores: tens of minutes
	$(BIN)/python -m pytest -m chaos --timeout 3600

chaos-sim: setup ## ten thousand runs on paper, each with faults of its own: ten minutes of two cores
	$(BIN)/python -m tests.simulation

chaos-ticks: setup ## ten thousand ticks of monitors, with two schedulers, crashes and clocks that leap: minutes of one core
	$(BIN)/python -m tests.simulation.ticks

stac-api: setup  ## a real STAC API for the tests that want one, in an environment of its own (PostGIS is needed besides)
	$(BIN)/python -m tests.pgstac --setup

cluster-test: setup ## a fleet on this machine: several Ray nodes, Ceph and pgstac, each on a network of its own; as root
	$(BIN)/python -m tests.fleet.needs --setup
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,deploy]'
	$(BIN)/python -m pytest tests/deploy
	$(BIN)/python -m pytest -m fleet --timeout 1200

cluster-record: setup ## the same fleet, its seconds put into benchmarks/results/fleet.json
	$(BIN)/python -m tests.fleet.needs --setup
	$(BIN)/python -m tests.fleet --record

fuzz: setup      ## a minute of one core for each parser of what strangers write
	$(BIN)/python -m tests.hostile

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
