# `make` runs the demo, `make test` the tests, `make test-more` further cases of what those test, `make test-wide` those of
# more data, more faults and longer runs, `make test-numbers` the fast ones of what computes. All set up the environment
# first, once. `make clean` says what lies here and removes nothing. docs/install.md explains the variables.
PYTHON ?=
VENV = .venv
PIP = $(VENV)/bin/python -m pip
TORCH =
TORCH_INDEX =
# In order of preference: the first is tested most.
PYTHONS = python3.11 python3.12 python3.13 python3
# Paths are relative, and the shell writes the absolute one, so that blanks and signs in the folder's path are safe.
# Snakemake needs a cache, which lies in the folder where the user's home cannot be written, and the user's name.
CACHE = $${XDG_CACHE_HOME:-$$HOME/.cache}
in_venv = @echo '$(1)'; export PATH="$$PWD/$(VENV)/bin:$$PATH"; \
  { mkdir -p "$(CACHE)" && test -w "$(CACHE)"; } 2>/dev/null || export XDG_CACHE_HOME="$$PWD/.snakemake/cache"; \
  id -un >/dev/null 2>&1 || export USER="$${USER:-$$(id -u)}"; $(1)
# Sets $$python to one that runs (names of pyenv may not), can make an environment and is of a version that is tested.
find_python = for python in $(if $(PYTHON),"$(PYTHON)",$(PYTHONS)); do \
  "$$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && break; \
  found="$$found, $$python $$("$$python" -c 'import platform; print("is", platform.python_version())' 2>/dev/null || echo 'is not there')"; \
  python=; done; test -n "$$python" || { printf 'error: Python 3.11 to 3.13 with its module venv is needed, but %s; %s\n' \
  "$${found\#, }" "install one, or name it: make PYTHON=..." >&2; exit 1; }
# The lock in two parts of about the same work, PyTorch with what only its build with CUDA needs, and all else. Each has a
# pip of its own, at the same time, and bytecode is made by as many processes as there are cores. What is of another Python
# does not compile, and may lie there.
split = awk '/^[^ \#]/ {part = /^(torch|torchvision|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)==/ ? "torch" : "others"} \
  part {print > "$(VENV)/" part ".lock"}' requirements.lock
locked = VIRTUAL_ENV="$$PWD/$(VENV)" $(PIP) install --quiet --no-compile --no-deps --require-hashes --requirement $(VENV)/$(1).lock
both = $(call locked,torch) & one=$$!; $(call locked,others) & two=$$!; \
  trap 'kill $$one $$two 2>/dev/null' EXIT; trap 'exit 1' HUP INT TERM; wait $$one && wait $$two
compile = $(VENV)/bin/python -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib >/dev/null || true
# In place of the first part, what TORCH or TORCH_INDEX ask for.
torch = $(if $(TORCH),'torch==$(TORCH).*' torchvision,$$(sed -n 's/^\(torch==[^ ]*\).*/\1/p; s/^\(torchvision==[^ ]*\).*/\1/p' requirements.lock))
NUMBERS = tests/data tests/method tests/measure tests/training tests/settings tests/sources tests/analyses tests/stages \
  tests/engine/test_code.py tests/engine/test_records.py
pytest = python -m pytest --numprocesses 2 --dist worksteal --durations $(1) -m "$(2)"
export PYTHONUNBUFFERED := 1

.PHONY: demo test test-more test-wide test-numbers install place clean clean-results clean-cache clean-environment
demo: install
	$(call in_venv,snakemake)
	$(call in_venv,python -m mebm show)

# It prints 20, since the first ten all run the pipeline.
test: install
	$(call in_venv,ruff check .)
	$(call in_venv,ruff format --check .)
	$(call in_venv,$(call pytest,20,not gpu and not more and not wide))

test-more: install
	$(call in_venv,$(call pytest,10,more and not wide and not gpu))

test-wide: install
	$(call in_venv,$(call pytest,10,wide and not gpu))

test-numbers: install
	$(call in_venv,$(call pytest,10,not gpu and not slow) $(NUMBERS))

install: $(VENV)/.installed
	@test -z "$(PYTHON)" || { $(find_python); version='import sys; print("%d.%d" % sys.version_info[:2])'; \
	asked=$$("$$python" -c "$$version"); has=$$($(VENV)/bin/python -c "$$version"); test "$$asked" = "$$has" || { \
	echo "error: $(VENV) has Python $$has, and PYTHON=$(PYTHON) is Python $$asked; run \`make clean-environment\` first" >&2; exit 1; }; }

# Braces stop DVC's progress bars, a colon splits PATH, and in pip's scripts the others stand for something else.
place:
	@case "$$(pwd -P)" in *[\{\}:\"\`\$$]*) \
	printf 'error: %s: a path must not hold any of { } : " ` $$; move the folder, or clone it elsewhere\n' "$$(pwd -P)" >&2; \
	exit 1;; esac

# A folder without git (a source archive) still runs: DVC then works without it. An environment without pip was left half made.
$(VENV)/.installed: requirements.lock pyproject.toml | place
	@$(find_python); "$$python" -c 'import os; os.getcwd().encode()' 2>/dev/null || \
	{ echo "error: this folder's path is not UTF-8; rename what is not, or clone it elsewhere" >&2; exit 1; }; \
	$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || "$$python" -m venv --clear $(VENV)
	@echo "installing into $(VENV): about $(if $(TORCH_INDEX),1 GB without CUDA,6 GB), some minutes"
	@$(split)
	$(if $(TORCH)$(TORCH_INDEX),$(call locked,others),$(both))
	$(if $(TORCH)$(TORCH_INDEX),VIRTUAL_ENV="$$PWD/$(VENV)" $(PIP) install --quiet --no-compile $(if $(TORCH_INDEX),--index-url '$(TORCH_INDEX)') $(torch))
	@$(compile)
	VIRTUAL_ENV="$$PWD/$(VENV)" $(PIP) install --quiet --no-deps --no-build-isolation --editable .
	git rev-parse --git-dir >/dev/null 2>&1 || $(VENV)/bin/dvc config --local core.no_scm true
	touch $@

clean clean-results clean-cache clean-environment:
	@python=$(VENV)/bin/python; $$python -c '' 2>/dev/null || { $(find_python); }; \
	"$$python" -m mebm.engine.clean $(patsubst clean-%,%,$(filter clean-%,$@))
