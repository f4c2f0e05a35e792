# make demo: set up and run the main job.  make test: set up and run the tests.
# make notebooks: run all notebooks, fail on any error or warning.  make notebooks-save: the same, and save their outputs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test notebooks notebooks-save lint clean

demo: $(VENV)/.installed
	$(BIN)/python -m minirlhf demo --overwrite

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

notebooks: $(VENV)/.installed-dev
	$(BIN)/python notebooks/run_all.py

notebooks-save: $(VENV)/.installed-dev
	$(BIN)/python notebooks/run_all.py --save

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .

# A second call finds these marks newer than the requirements and installs nothing.
$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements-reviews.txt $(VENV)/.installed
	$(BIN)/python -m pip install -q -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) runs
