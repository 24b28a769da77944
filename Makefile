# Everything a person or CI does with this checkout. `make help` lists it.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test static check validate bench clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make .venv with everything that is needed, pinned.

# torch first, by its exact version: a range would bring another build and gigabytes of CUDA packages.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo]' --group dev
	@touch $@

demo: setup ## Record, verify and replay a real training; write demo/report.html.
	rm -rf demo
	$(BIN)/memaudit demo --out demo

test: setup ## Run all tests.
	$(BIN)/python -m pytest -n 2 --dist loadfile

static: setup ## Format, lint and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: static test ## Everything CI checks: static, and all tests (docs in step with the code among them).

validate: setup ## The longer studies, whose figures stand in docs/.
	$(BIN)/python -m pytest -n 2 --dist loadfile -m validate

bench: setup ## The benchmarks, whose tables stand in docs/.
	$(BIN)/python benchmarks/record.py
	$(BIN)/python benchmarks/diff.py
	$(BIN)/python benchmarks/replay.py

clean: ## Remove what the other targets made.
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
