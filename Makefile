# `make` runs the demo, `make test` all tests that need no GPU. Both set up .venv first, once.
PYTHON ?= python3.11
VENV := $(CURDIR)/.venv
export PATH := $(VENV)/bin:$(PATH)
export PYTHONUNBUFFERED := 1

.PHONY: demo test lint install clean-venv
demo: install
	snakemake
	@python -m stages.show

test: install
	ruff check .
	ruff format --check .
	python -m pytest --numprocesses 2 -m "not gpu and not slow"
	python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 25 -m "slow and not gpu"

install: $(VENV)/.installed

# A folder without git (a source archive) still runs: DVC then works without it.
$(VENV)/.installed: requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; install Python 3.11 or name it: make PYTHON=..." >&2; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): about 6 GB, some minutes"
	python -m pip install --quiet --requirement requirements.lock
	python -m pip install --quiet --no-deps --no-build-isolation --editable .
	git rev-parse --git-dir >/dev/null 2>&1 || dvc config --local core.no_scm true
	touch $@
