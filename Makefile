# The words of this project; CI runs them.
PYTHON ?= python
BIN := $(if $(findstring /,$(PYTHON)),$(dir $(PYTHON)))

.PHONY: fmt check test docs bench

fmt:            ## format the code and fix what the linter can fix
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

check:          ## linter, formatting, types on three platforms, import contracts
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy --platform win32 src
	$(PYTHON) -m mypy --platform darwin src
	$(BIN)lint-imports --no-logo --no-cache

test:           ## all tests that need no GPU, without the slow ones
	$(PYTHON) -m pytest

docs:           ## build the site in site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict --quiet

bench:          ## time whole processes beside timm
	$(PYTHON) benchmarks/predict.py
