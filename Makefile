# Every chore of the project. Each target makes .venv/ first if it is not there or no longer fits pyproject.toml.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
RUN := runs/report
# Without warnings: that of setuptools on editable installations is nothing a user could act on.
INSTALL := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# As the client starts servers: for all that is measured, the others too.
LARGE_PAGES := GLIBC_TUNABLES=glibc.malloc.hugetlb=1

.PHONY: help train test crash-test check docs protos bench wheel clean
.DELETE_ON_ERROR:

help:
	@echo "make train       train the report's network on MNIST: bars, a plot, a parameter file"
	@echo "make test        run the tests, the built wheel's included"
	@echo "make crash-test  kill a server 100 times at random moments, and see that it loses nothing (3 minutes)"
	@echo "make check       ruff, mypy, pyright, buf, and whether the generated stubs match the contract"
	@echo "make docs        write docs/gradients.md from the docstrings of the operations"
	@echo "make protos      generate the stubs from proto/"
	@echo "make bench       the report's run, larger networks, a sweep, the cold start, how cost grows (15 minutes)"
	@echo "make bench-NAME  one of benchmarks/: report, sweep, cold_start, scaling, networks, accuracy, load, gpu"
	@echo "make clean       remove what these targets made, runs/ excepted"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[server,plot,dev]'
	touch $@

train: $(INSTALLED)
	mkdir -p $(RUN)
	$(BIN)/handgrad train --preset report --plot $(RUN)/loss.png --save $(RUN)/params.npz

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4

crash-test: $(INSTALLED)
	$(BIN)/python -m pytest tests/end_to_end/test_crash.py --crashes 100 --capture=no

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright
	cd proto && ../$(BIN)/buf lint
	$(BIN)/python proto/generate.py --check

docs: $(INSTALLED)
	$(BIN)/python docs/generate_gradients.py

protos: $(INSTALLED)
	$(BIN)/python proto/generate.py

bench: bench-report bench-sweep bench-cold_start bench-networks bench-scaling

# One by its name in benchmarks/: bench-report, bench-sweep, bench-cold_start, bench-scaling, bench-networks,
# bench-accuracy, bench-load, bench-gpu.
bench-%: $(INSTALLED)
	$(INSTALL) --editable '.[bench]'
	$(LARGE_PAGES) $(BIN)/python benchmarks/$*.py

wheel: $(INSTALLED)
	rm -rf build dist
	$(BIN)/python -m build --wheel --outdir dist .

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
