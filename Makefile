# `make demo` and `make test` need Python 3.11 and nothing else: the first run makes .venv, the next ones find it.
PYTHON ?= $(shell command -v python3.11 || command -v python3 || command -v python)
BIN := .venv/bin
TIDY := recipes data_prep evaluation slurm tests benchmarks setup_environment.py

.PHONY: demo test docs setup

demo: setup
	@$(BIN)/granite41 run phase1..sft --size tiny --on local --run-dir runs/demo

test: setup
	@echo "== ruff and mypy"
	@$(BIN)/ruff check $(TIDY)
	@$(BIN)/ruff format --check $(TIDY)
	@$(BIN)/mypy
	@echo "== fast tests: the plain layer and the maths"
	@$(BIN)/pytest -m fast -n 2 --dist worksteal
	@echo "== tests that train, export, evaluate and generate"
	@$(BIN)/pytest -m 'not fast' -n 2 --dist loadfile --no-loadscope-reorder

# the pages of docs/ that follow from recipes and facts
docs: setup
	@$(BIN)/python -m recipes.planning.pages

setup:
	$(if $(PYTHON),,$(error no Python found: install Python 3.11, or name it with PYTHON=/path/to/python3.11))
	@$(PYTHON) setup_environment.py
