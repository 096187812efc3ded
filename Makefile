# `make` runs the demo, `make test` the tests, `make test-wide` those of more data, more faults and longer runs. All set up
# .venv first, once.
PYTHON ?= python3.11
# Paths are relative, and the shell writes the absolute one, so that blanks and signs in the folder's path are safe.
# Snakemake needs a cache, which lies in the folder where the user's home cannot be written, and the user's name.
CACHE = $${XDG_CACHE_HOME:-$$HOME/.cache}
in_venv = @echo '$(1)'; export PATH="$$PWD/.venv/bin:$$PATH"; \
  { mkdir -p "$(CACHE)" && test -w "$(CACHE)"; } 2>/dev/null || export XDG_CACHE_HOME="$$PWD/.snakemake/cache"; \
  id -un >/dev/null 2>&1 || export USER="$${USER:-$$(id -u)}"; $(1)
export PYTHONUNBUFFERED := 1

.PHONY: demo test test-wide install place
demo: install
	$(call in_venv,snakemake)
	$(call in_venv,python -m mebm show)

test: install
	$(call in_venv,ruff check .)
	$(call in_venv,ruff format --check .)
	$(call in_venv,python -m pytest --numprocesses 2 -m "not gpu and not slow")
	$(call in_venv,python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 10 -m "slow and not gpu and not wide")

test-wide: install
	$(call in_venv,python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 10 -m "wide and not gpu")

install: .venv/.installed

# Braces stop DVC's progress bars, a colon splits PATH, and in pip's scripts the others stand for something else.
place:
	@case "$$(pwd -P)" in *[\{\}:\"\`\$$]*) \
	printf 'error: %s: a path must not hold any of { } : " ` $$; move the folder, or clone it elsewhere\n' "$$(pwd -P)" >&2; \
	exit 1;; esac

# A folder without git (a source archive) still runs: DVC then works without it.
.venv/.installed: requirements.lock pyproject.toml | place
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; install Python 3.11 or name it: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import os; os.getcwd().encode()' 2>/dev/null || { echo "error: this folder's path is not UTF-8; rename what is not, or clone it elsewhere" >&2; exit 1; }
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv: about 6 GB, some minutes"
	.venv/bin/python -m pip install --quiet --requirement requirements.lock
	.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	git rev-parse --git-dir >/dev/null 2>&1 || .venv/bin/dvc config --local core.no_scm true
	touch $@
