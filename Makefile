# Every target works from a fresh clone by itself: each depends on `setup`, which is a no-op when
# neither pyproject.toml nor constraints.txt changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

TIER ?= easy
BACKBONE ?= clip
SEEDS ?= 1

.PHONY: setup quickstart lint test bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--constraint constraints.txt trackers  # which takes the headless OpenCV as well
	touch $(STAMP)

# The main job on the embedded data set; TIER=hard for harder scenes, SEEDS=3 for mean and spread,
# BACKBONE=dino for an image tower that learns from the pictures alone.
quickstart: setup
	$(BIN)/python tools/quickstart.py --tier $(TIER) --seeds $(SEEDS) --backbone $(BACKBONE)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest tests/test_import_layers.py
	$(BIN)/pytest --doctest-modules owlkit
	$(BIN)/pytest --ignore tests/test_import_layers.py

bench: setup
	$(BIN)/python tools/benchmark.py all

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
