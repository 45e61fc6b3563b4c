# Everything runs in .venv, which `make install` builds and every other target brings up to date.
PYTHON ?= python3
SPACE ?= search_spaces/ema.yaml
# Processes that run the quick tests. More than two gain little: one of them runs all tests of Ray.
WORKERS ?= 2
# Of the moments and the victims of `make chaos`.
SEED ?= 0
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: install sweep control test test-slow chaos check reference bench
.DEFAULT_GOAL := install

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# --resume: the same command begins the study, resumes it after an interruption, and rewrites the report of a finished one.
sweep: install
	$(VENV)/bin/python -m ablate.sweep $(SPACE) --resume

# Does this machine see an effect that is known to exist? A positive control and its frozen twin, some minutes.
control: install
	$(VENV)/bin/python -m ablate.sweep search_spaces/control.yaml --resume

# One thread each: torch would start as many in every process as there are cores. tests/conftest.py deals the tests out.
test: install
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(WORKERS) -m "not slow"

test-slow: install
	$(VENV)/bin/python -m pytest -m "slow and not chaos"

# Twenty kills at random moments on a real Ray. SEED=3 draws other ones.
chaos: install
	SEED=$(SEED) $(VENV)/bin/python -m pytest -m chaos

check: install
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyright
	$(VENV)/bin/lint-imports

# docs/reference/, from the code that parses commands, study files and configurations; a test says when it is stale.
reference: install
	$(VENV)/bin/python -m ablate.reference

# Each benchmark is a module of benchmarks/ that prints ratios measured in one run.
BENCHMARKS := $(basename $(notdir $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py))))

bench: install
	@set -e; for name in $(BENCHMARKS); do echo "== $$name"; $(VENV)/bin/python -m benchmarks.$$name; done
