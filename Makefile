# Every target works from a fresh clone by itself: each depends on `setup`, which is a no-op when
# neither pyproject.toml nor constraints.txt changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

TIER ?= easy
BACKBONE ?= clip
SEEDS ?= 1

.PHONY: setup browser quickstart demo lint test bench clean

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

# The page for what the quickstart made: words or example boxes find objects in your pictures.
demo: setup
	$(BIN)/python demo/app.py --open

# The tests of the demo use Debian's Chromium. In CI, where a missing one is a failure, it is
# installed; elsewhere those tests are skipped and this says what is missing.
browser:
	@command -v chromium >/dev/null \
		|| if [ -n "$$CI" ]; then apt-get update -qq && \
			DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; \
		else echo "no chromium: the browser tests are skipped (Debian: apt-get install chromium)"; fi

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint browser
	$(BIN)/pytest tests/test_import_layers.py
	$(BIN)/pytest --doctest-modules owlkit
	$(BIN)/pytest --ignore tests/test_import_layers.py

bench: setup
	$(BIN)/python tools/benchmark.py all

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
