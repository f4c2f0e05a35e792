# make demo            set up and run the main job
# make test            set up and run the tests
# make format          format the code and fix what the linter can fix
# make lint            check style, format and types, change nothing
# make notebooks       run all notebooks; fail on any error or warning
# make notebooks-save  the same, and save their outputs
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test format lint notebooks notebooks-save clean

demo: $(VENV)/.installed
	$(BIN)/python -m minirlhf demo --overwrite

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

notebooks: $(VENV)/.installed-dev
	$(BIN)/python notebooks/run_all.py

notebooks-save: $(VENV)/.installed-dev
	$(BIN)/python notebooks/run_all.py --save

# These marks are newer than the requirements after an installation, so a second call installs nothing.
$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -r requirements.txt
	touch $@

# Editable (-e): the tests run the code of this folder, not a copy.
$(VENV)/.installed-dev: pyproject.toml setup.py $(VENV)/.installed
	$(BIN)/python -m pip install -q -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) runs build dist *.egg-info
