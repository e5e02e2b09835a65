# Everything a fresh machine needs: `make demo` runs the main job, `make test` passes the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Oversubscribed threads make everything ten times slower on small machines.
export OMP_NUM_THREADS ?= 1
export RAY_AUTH_MODE ?= disabled
export TOKENIZERS_PARALLELISM := false

.PHONY: install demo test test-slow test-lowest chaos fuzz gpu check fix lock clean

install: $(READY)

$(READY): pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip==26.3
	$(BIN)/python -m pip install -q -c requirements.lock -e . --group dev
	touch $@

demo: $(READY)
	rm -rf demo
	$(BIN)/python -m jobs.make_shapes demo/data --images 48 --images-per-shard 16 --seed 7
	$(BIN)/labeler vocabulary check demo/data/vocabulary.txt --model models/shapes --max-tokens 128
	$(BIN)/labeler label configs/demo.yaml
	$(BIN)/labeler status demo/run --verify
	$(BIN)/labeler evaluate demo/run --annotations demo/data/annotations.json --groups demo/data/groups.yaml
	$(BIN)/labeler export demo/run --to coco --threshold 0.3
	$(BIN)/labeler preview configs/demo.yaml --images 12 --threshold 0.3 --png demo/preview.png
	find demo/run -type f | grep -v '/.tmp/' | sort

test: $(READY)
	$(BIN)/python -m pytest -m "not slow and not chaos" -n 2 --dist loadgroup

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

# The same with the oldest versions that pyproject.toml admits, in an environment of its own.
test-lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install -q --upgrade pip==26.3
	.venv-lowest/bin/python -m pip install -q -c requirements.lowest -e . --group dev
	.venv-lowest/bin/python -m pytest -m "not slow and not chaos" -n 2 --dist loadgroup

# A job on a cluster of several nodes, killed in every way; each test prints a line with what it found.
chaos: $(READY)
	$(BIN)/python -m pytest -m chaos -s tests/test_chaos.py

# Ten minutes of made-up and damaged bytes against all that reads strangers' files.
fuzz: $(READY)
	$(BIN)/python -m tests.fuzz --minutes 10

# What only a GPU can show: kernels, half precision and graphs on it, then the table of docs/speed.md (15 minutes or so).
gpu: $(READY)
	$(BIN)/python -m pytest --noconftest -s tests/gpu_checks.py
	$(BIN)/python -m benchmarks.forward --output benchmarks/results/forward-gpu.json

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Versions of what is installed now become the versions that everybody installs.
lock: $(READY)
	(echo "# Exact versions that the tests pass with; the Makefile installs with these. Refresh: make lock"; \
	 $(BIN)/python -m pip list --format=freeze | grep -viE '^(labeler|pip|setuptools)==' | sed 's/+cpu//' | sort -f) > requirements.lock

clean:
	rm -rf demo .pytest_cache .mypy_cache .ruff_cache
