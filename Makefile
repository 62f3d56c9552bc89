# The commands of this project. `make demo` and `make test` need git, make and Python ≥ 3.11 with venv, nothing else.

VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help venv demo test lint proto clean

help:
	@echo 'make demo    a cluster on this machine, its leader killed under load'
	@echo 'make test    all tests'
	@echo 'make lint    ruff and mypy'
	@echo 'make venv    the virtual environment that the others use, in $(VENV)'
	@echo 'make proto   the generated code, anew from proto/*.proto'
	@echo 'make clean   removes $(VENV) and all caches'

venv: $(READY)

# The newest tested Python, or the one in PYTHON. An interpreter without venv or pip (Debian splits them off) is named.
$(READY): setup.cfg pyproject.toml
	@set -e; found=; \
	for candidate in $(or $(PYTHON),python3.14 python3.13 python3.12 python3.11 python3); do \
	  $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
	  $$candidate -c 'import venv, ensurepip' >/dev/null 2>&1 || { without_venv=$$candidate; continue; }; \
	  found=$$candidate; break; \
	done; \
	if [ -z "$$found" ]; then \
	  if [ -n "$$without_venv" ]; then echo "$$without_venv has no venv: sudo apt-get install $$without_venv-venv" >&2; \
	  else echo 'no Python 3.11 or newer found: sudo apt-get install python3 python3-venv, or name one: make PYTHON=/path/to/python' >&2; fi; \
	  exit 1; \
	fi; \
	echo "Setting up $(VENV) with $$($$found --version)"; \
	$$found -m venv --clear $(VENV); \
	$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[dev]'; \
	touch $@

demo: $(READY)
	@$(BIN)/python -m bench demo

test: $(READY)
	@$(BIN)/python -m pytest --quiet --numprocesses 2 --dist loadgroup $(ARGS)

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

proto: $(READY)
	@$(BIN)/python -m grpc_tools.protoc -I. --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy \
	  --python_out=. --mypy_out=. proto/*.proto

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
