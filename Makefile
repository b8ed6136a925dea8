# The words of this project; CI runs them.
PYTHON ?= python
BIN := $(if $(findstring /,$(PYTHON)),$(dir $(PYTHON)))

.PHONY: fmt check lint types contracts test docs bench

fmt:            ## format the code and fix what the linter can fix
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

check: lint types contracts ## linter, formatting, types on three platforms, import contracts

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types: types-linux types-win32 types-darwin

types-linux:
	$(PYTHON) -m mypy

types-%:        # a cache of its own, as each platform has other types
	$(PYTHON) -m mypy --platform $* --cache-dir .mypy_cache/$* src

contracts:
	$(BIN)lint-imports --no-logo --no-cache

test:           ## all tests that need no GPU, without the slow ones
	$(PYTHON) -m pytest

docs:           ## build the site in site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet

bench:          ## time whole processes beside timm
	$(PYTHON) benchmarks/predict.py
