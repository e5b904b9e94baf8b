PYTHON ?= python3
BIN := .venv/bin
SOURCES := video models pretrain index retrieval tests benchmarks src/reelscan/__init__.py .ci/setup_environment.py

.PHONY: setup demo test lint format coverage build clean

setup:            ## make .venv and install everything into it (does nothing when done)
	@$(PYTHON) .ci/setup_environment.py

demo: setup       ## corpus, pretraining, index, evaluation and three searches, in minutes on a CPU
	@$(BIN)/reelscan demo

test: setup       ## every test
	@$(BIN)/python -m pytest -n 2 --dist worksteal

lint: setup       ## style, types, layering
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy

format: setup     ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

coverage: setup   ## every test, with the share of lines they run
	@$(BIN)/python -m pytest -n 2 --dist worksteal --cov=reelscan --cov-report=term

build: setup      ## sdist and wheel into dist/
	@$(BIN)/python -m build

clean:
	rm -rf .venv build dist src/reelscan.egg-info demo-run
