# Everything happens in .venv; `make` needs Python 3.11 to 3.13 and nothing else.
# The first one that runs and is recent enough; a name on the PATH alone may be an empty shim.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null \
	&& echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test lint tests bench-results bench-ingest bench-loop bench-models bench-worklist torture outcomes clean
setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (a few minutes the first time) …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/sentinode demo

test: lint tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Much of their time the tests wait for processes and timers: more of them at once than cores.
PYTEST_PROCESSES ?= 3
tests: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(PYTEST_PROCESSES) --dist loadfile --no-loadscope-reorder

# Objects of a 300-slice volume, beside dcmqi; the last line is one JSON object.
bench-results: $(STAMP)
	@$(BIN)/python benchmarks/results_bench.py

# Instances a second at the door, beside DCMTK, Orthanc and pynetdicom; the last line is JSON.
bench-ingest: $(STAMP)
	@$(BIN)/python benchmarks/ingest_bench.py

# Studies through the whole node beside a bare loop of the model; the last line is one JSON object.
bench-loop: $(STAMP)
	@$(BIN)/python benchmarks/loop_bench.py

# Queries of a ledger with a million instances, beside Orthanc; the last line is one JSON object.
bench-worklist: $(STAMP)
	@$(BIN)/python benchmarks/worklist.py

# Our inference beside PyTorch float32 and ONNX Runtime, same weights; ARGUMENTS="--data FOLDER".
bench-models: $(STAMP)
	@$(BIN)/python benchmarks/models_bench.py $(ARGUMENTS)

# Faults at random moments, then an audit: ARGUMENTS="--seed 7"; the last line is one JSON object.
torture: $(STAMP)
	@$(BIN)/python benchmarks/torture.py $(ARGUMENTS)

# What becomes of every file: FOLDERS="one two", default pydicom's own test files.
outcomes: $(STAMP)
	@$(BIN)/python benchmarks/outcomes.py $(FOLDERS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
