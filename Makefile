# Everything happens in .venv; the first run needs the network, later ones do not.
.DEFAULT_GOAL := help
.PHONY: help install run test faults model bench bench-peers check clean

VENV := .venv
STAMP := $(VENV)/installed
CONFIG ?= examples/chat/langgraph.json
SOAK ?= 600
JOBS ?= 2

help:
	@echo "make install   make .venv with everything in it"
	@echo "make run       serve the example on http://127.0.0.1:2024 (PORT=..., CONFIG=.../langgraph.json)"
	@echo "make test      run the tests"
	@echo "make faults    kill, pause and cut off real processes, at full size (SOAK=$(SOAK) seconds)"
	@echo "make model     explore every interleaving of a model of runs, leases and cancels"
	@echo "make bench     measure speed, beside the same graphs without a server (ARGS=--quick: a trial)"
	@echo "make bench-peers  the same, beside other servers, too, which it installs below .bench"
	@echo "make check     lint, format, types, import directions, known holes in what we install"
	@echo "make clean     remove .venv, .bench, caches and the embedded servers' data"

install: $(STAMP)

$(STAMP): setup.cfg pyproject.toml
	@test -x $(VENV)/bin/python || { \
	  for python in $(PYTHON) python3.13 python3.12 python3.11 python3; do \
	    $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	      && exec $$python -m venv $(VENV); \
	  done; \
	  echo "greenroom needs Python 3.11 or newer: install one, or pass PYTHON=path" >&2; exit 1; }
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[dev,test]"
	@touch $@

# exec: Ctrl-C and SIGTERM reach greenroom itself, with no shell between.
run: $(STAMP)
	@exec $(VENV)/bin/greenroom dev -c $(CONFIG)

test: $(STAMP)
	@exec $(VENV)/bin/python -m pytest $(ARGS)

# A scenario at full size may take longer than a test of `make test` may.
faults: $(STAMP)
	@exec $(VENV)/bin/python -m pytest tests/faults --full --soak $(SOAK) -p no:cacheprovider \
	  -n $(JOBS) --dist worksteal -o timeout=1500 $(ARGS)

model: $(STAMP)
	@exec $(VENV)/bin/python tests/model/check_model.py $(ARGS)

bench: $(STAMP)
	@exec $(VENV)/bin/python -m benchmarks --servers greenroom,floor $(ARGS)

bench-peers: $(STAMP)
	@exec $(VENV)/bin/python -m benchmarks --servers greenroom,reference,aegra,floor --skip-missing \
	  $(ARGS)

check: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest -q tests/test_layers.py tests/packaging/test_advisories.py

clean:
	rm -rf $(VENV) .bench .greenroom build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
