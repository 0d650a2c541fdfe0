# `make quickstart` and `make test` set everything up in .venv if it is not there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup demo quickstart test test-all test-slow isolated lint docs docs-numbers format clean

help:
	@echo "make demo        install, show the circuits of a model that ships with the package: half a minute"
	@echo "make quickstart  install, train a small weight-sparse transformer, extract its circuits, write report.html"
	@echo "make test        install, run the default tests"
	@echo "make test-all    the same with the slow and the browser tests: what CI runs"
	@echo "make test-slow   what make test leaves out, the long forms of docs/reliability.md (kills, signals, sweeps) too"
	@echo "make isolated    TransformerLens, nnsight and the Hub's code, in an environment of their own that it builds: minutes"
	@echo "make lint        ruff check, ruff format --check, pyright"
	@echo "make docs        build the pages of docs/ and the API reference into site/"
	@echo "make docs-numbers  compute the circuits of docs/circuits.md again from the shipped models, and name what differs: minutes"
	@echo "make format      let ruff rewrite what it can"
	@echo "make clean       remove .venv and caches (runs/ stays)"

setup: $(STAMP)

# The tested versions stand in constraints.txt. With `pip install torch==<version>` first, a machine without a GPU can be given
# the CPU build; see README, Installation.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(STAMP)

# The page of a model that ships, opened where there is a browser.
demo: setup
	$(BIN)/python scripts/report.py run=zoo:python-hour open=true
	@echo
	@echo "Choose a circuit in the page's section Circuits and point at a node. Then, for instance:"
	@echo "  $(BIN)/python scripts/zoo.py                                            the models that ship, their tasks, their circuits"
	@echo "  $(BIN)/python scripts/generate.py run=zoo:python-hour prompt='for i in'   text as the model goes on"
	@echo "  $(BIN)/python scripts/find_circuits.py run=zoo:python-hour task=file:docs/pairs.jsonl   the circuit of a behaviour of your own"
	@echo "  make quickstart                                                       train one yourself: a quarter of an hour"

quickstart: setup
	$(BIN)/python train.py +experiment=quickstart

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not browser and not gpu"

test-all: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not gpu and not long"

test-slow: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "(slow or long) and not gpu"

isolated: setup
	$(BIN)/python tests/isolated/run.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "site: site/index.html"

docs-numbers: setup
	$(BIN)/python scripts/zoo.py page=docs/circuits.md check=true

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .isolated .pytest_cache .ruff_cache .hypothesis build dist site *.egg-info
