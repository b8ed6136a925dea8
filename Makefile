# The words of this project; CI runs these and nothing else.
PYTHON ?= python

.PHONY: fmt check test bench

fmt:            ## format, and mend what the linter can
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

check:          ## linter, format, types
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test:           ## all tests that need no GPU
	$(PYTHON) -m pytest

bench:          ## whole processes against the peer (needs timm)
	$(PYTHON) benchmarks/predict.py
