# Setup of a fresh machine: `make demo` runs the main job, `make test` runs the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UV := $(BIN)/uv
RESOLVE := env -u UV_FIND_LINKS $(UV) pip compile -q --universal --python-version 3.11

# Oversubscribed threads make everything ten times slower on small machines.
export OMP_NUM_THREADS ?= 1
export RAY_AUTH_MODE ?= disabled
export TOKENIZERS_PARALLELISM := false
# Bytecode is kept: every process of a test or of Ray would compile all that it imports otherwise.
export PYTHONDONTWRITEBYTECODE :=

TOOLS := .venv-tools
DOCS_BIN := .venv-docs/bin

.PHONY: install demo test test-fast test-slow test-lowest test-package test-tools chaos fuzz gpu check fix lock check-lock check-deploy reference docs clean

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
	$(BIN)/python -m pytest -m "not slow and not chaos" -n 2 --dist worksteal

# The tests of files that need no Ray, Chromium, torch or GPU kernel (tests/needs.py reads that from their text), for a
# check between two edits. Ray has no folder here, so a file that starts one fails.
test-fast: export RAY_TMPDIR := /proc/none
test-fast: $(READY)
	$(BIN)/python -m pytest -m "not slow and not chaos and not ray and not browser and not torch and not triton" -n 2 --dist worksteal

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

# The same with the oldest versions that pyproject.toml allows, in a separate environment.
test-lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install -q --upgrade pip==26.3
	.venv-lowest/bin/python -m pip install -q -c requirements.lowest -e . --group dev
	.venv-lowest/bin/python -m pytest -m "not slow and not chaos" -n 2 --dist worksteal

# Wheel and sdist as users get them: built, inspected, installed outside the repository, and used there.
test-package: $(UV)
	$(BIN)/python -m tests.package --uv $(abspath $(UV))

# Open exports with the packages of their tools, each in a separate environment.
test-tools: $(READY)
	rm -rf $(TOOLS)/exports
	$(PYTHON) -m venv $(TOOLS)/label-studio
	$(PYTHON) -m venv $(TOOLS)/datumaro
	$(PYTHON) -m venv $(TOOLS)/labelme
	$(TOOLS)/label-studio/bin/python -m pip install -q label-studio-sdk==2.1.2 cvat-sdk==2.80.0 globox==2.9.0
	$(TOOLS)/datumaro/bin/python -m pip install -q datumaro==1.13.12
	$(TOOLS)/labelme/bin/python -m pip install -q numpy pillow loguru tifffile imgviz PyQt5
	$(TOOLS)/labelme/bin/python -m pip install -q --no-deps labelme==6.3.1
	$(BIN)/python -m tests.tools.write_exports $(TOOLS)/exports
	$(TOOLS)/label-studio/bin/python tests/tools/open_label_studio.py $(TOOLS)/exports
	$(TOOLS)/label-studio/bin/python tests/tools/open_globox.py $(TOOLS)/exports
	$(TOOLS)/datumaro/bin/python tests/tools/open_datumaro.py $(TOOLS)/exports
	LOGURU_LEVEL=WARNING $(TOOLS)/labelme/bin/python tests/tools/open_labelme.py $(TOOLS)/exports

# A job on a cluster of several nodes, killed in every way; each test prints a line with its result.
chaos: $(READY)
	$(BIN)/python -m pytest -m chaos -s tests/test_chaos.py tests/test_chaos_elastic.py

# Feed generated and damaged bytes to every reader of untrusted files for ten minutes.
fuzz: $(READY)
	$(BIN)/python -m tests.fuzz --minutes 10

# Checks that need a GPU, in twelve minutes at most: correctness, then speed. OUT=FOLDER for the results (gpu_out);
# SMALL=1 runs all parts at a small size on a CPU. Without an environment: python3 -m benchmarks.gpu --output FOLDER
gpu: $(READY)
	$(BIN)/python -m benchmarks.gpu --output $(or $(OUT),gpu_out) $(if $(SMALL),--small)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(UV): $(READY)
	$(BIN)/python -m pip install -q uv==0.13.9

# Resolved for the public index, every platform and Python, independent of installed packages and local wheels.
# Versions stay as they are if possible; `make lock UPGRADE=--upgrade` raises all, UPGRADE="-P NAME" one.
lock: $(UV)
	$(RESOLVE) --all-extras --group dev --no-annotate $(UPGRADE) \
	  --custom-compile-command "make lock  (uv pip compile --universal; torch is held in pyproject.toml)" \
	  pyproject.toml -o requirements.lock

# Check that the lock fits pyproject.toml, that pip accepts it, and that each line has a wheel on every platform.
check-lock: $(UV)
	cp requirements.lock $(VENV)/requirements.lock
	$(RESOLVE) --all-extras --group dev --no-annotate --no-header pyproject.toml -o $(VENV)/requirements.lock
	grep -v '^#' requirements.lock | diff - $(VENV)/requirements.lock
	env -u PIP_FIND_LINKS -u PIP_EXTRA_INDEX_URL -u PIP_CONSTRAINT PIP_CONFIG_FILE=/dev/null \
	  $(BIN)/python -m pip install -q --dry-run --ignore-installed -c requirements.lock -e . --group dev
	$(RESOLVE) --no-deps --format pylock.toml requirements.lock -o $(VENV)/pylock.toml
	$(BIN)/python -m tests.lock_wheels $(VENV)/pylock.toml

# Check deploy/kuberay-rayjob.yaml against KubeRay's schema. CRD is the output of `kubectl get crd rayjobs.ray.io -o yaml`
# on a cluster with KubeRay.
check-deploy: $(READY)
	$(BIN)/python -m tests.crd --crd "$(CRD)" deploy/kuberay-rayjob.yaml

# The pages of docs/reference that are made of the source: the config's keys, the commands, the Python API.
reference: $(READY)
	$(BIN)/python -m tests.docs_pages

# The docs site, into .docs/site: read it with `python3 -m http.server -d .docs/site`. A link or an anchor that leads
# nowhere is an error. Its packages have an environment of their own: labeler's need not be installed.
docs: .venv-docs/.ready
	$(DOCS_BIN)/python -m tests.docs_site .docs/pages
	$(DOCS_BIN)/zensical build --strict --clean

.venv-docs/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-docs
	$(DOCS_BIN)/python -m pip install -q --upgrade pip==26.3
	$(DOCS_BIN)/python -m pip install -q --group docs
	touch $@

clean:
	rm -rf demo .docs .pytest_cache .mypy_cache .ruff_cache
