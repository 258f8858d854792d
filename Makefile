# make help lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test coverage lint docs figures bench clean
PYTHON ?=
export PYTHON
WORKERS ?= logical

VENV := .venv
BIN := $(VENV)/bin
READY_TO_RUN := $(VENV)/.installed-run
READY_TO_TEST := $(VENV)/.installed-dev
SUITE = $(BIN)/python -m pytest --numprocesses=$(WORKERS) --maxprocesses=4 --dist=worksteal --durations=15
TREES := src tests benchmarks scripts notebooks

help:  ## List the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY_TO_TEST)  ## Prepare .venv with everything that the tests need (PYTHON=... chooses the interpreter)

$(READY_TO_RUN): pyproject.toml scripts/setup
	scripts/setup run

$(READY_TO_TEST): pyproject.toml scripts/setup
	scripts/setup dev

demo: $(READY_TO_RUN)  ## Generate a sheet of prompts with the default model into demo.png
	$(BIN)/pochade generate --sheet demo.png --seed 7 \
	  "red apple, openmoji style" "cat face, noto style" "sunglasses, twemoji style" "butterfly, fluent 3d style" \
	  "blue heart, emojione style" "sun with face, fluent 3d style" "rocket, twemoji style" "house, fluent 3d style" \
	  "grinning face, noto blob style" "pizza, fluent flat style" "carrot, openmoji style" "umbrella, noto style" \
	  "fox" "deciduous tree" "snowman" "red heart"

lint: $(READY_TO_TEST)  ## Check style, types and import contracts
	$(BIN)/ruff check $(TREES)
	$(BIN)/ruff format --check $(TREES)
	$(BIN)/basedpyright
	$(BIN)/lint-imports

test: lint  ## Everything that must hold: lint, then the test suite (WORKERS=... processes)
	$(SUITE)

coverage: $(READY_TO_TEST)  ## The test suite with its coverage, which takes half as long again
	$(SUITE) --cov --cov-report=term

docs: $(READY_TO_TEST)  ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

figures:  ## Write the measured figures into README.md and docs
	$(firstword $(wildcard $(BIN)/python) python3) scripts/figures.py

bench: $(READY_TO_TEST)  ## Measure speed and memory on this machine, into docs/benchmarks (minutes)
	mkdir -p docs/benchmarks
	for family in lrf lira iris microforge; do \
	  $(BIN)/python benchmarks/denoiser_step.py --family $$family || exit 1; \
	done
	$(BIN)/python benchmarks/exported_step.py
	$(BIN)/python benchmarks/lira.py
	$(BIN)/python benchmarks/cifar10_training.py
	$(BIN)/python benchmarks/scans.py
	$(BIN)/python benchmarks/grid_mixers.py
	$(BIN)/python benchmarks/startup.py --json docs/benchmarks/startup.json

clean:  ## Remove what the other targets made, but for data and runs
	rm -rf $(VENV) site build dist demo.png .coverage .pytest_cache .ruff_cache .hypothesis .import_linter_cache
