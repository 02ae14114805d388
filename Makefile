# `make demo` and `make test` set up what they need in .venv and do everything; nothing is installed elsewhere.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
INPUTS := pyproject.toml constraints.txt

.PHONY: demo serve check test lint bench loadtest gpu-check manifests-check audit sbom fuzz clean

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 12) else f"Veridict needs Python 3.11 or 3.12, this is {v[0]}.{v[1]}: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.serve: $(VENV)/bin/python $(INPUTS)
	$(PIP) -e '.[server,ui]'
	touch $@

$(VENV)/.dev: $(VENV)/.serve $(INPUTS)
	$(PIP) -e '.[server,ui,train,explain,engines,load,dev]'
	@command -v chromium >/dev/null || echo 'No Chromium: the browser tests of veridict ui will be skipped (Debian: apt-get install chromium)'
	touch $@

demo: $(VENV)/.serve
	$(BIN)/veridict demo --output build/demo

serve: $(VENV)/.serve
	$(BIN)/veridict serve

# As many processes as cores, up to a number; tests/conftest.py says which files stay together. All tests in two processes
# took 14 GB of memory, so `make test` uses two at most; make test PARALLEL= uses one.
SEVERAL := -n logical --dist loadgroup --no-loadscope-reorder --maxprocesses
PARALLEL ?= $(SEVERAL) 2

# For daily work: everything but the tests marked slow.
check: $(VENV)/.dev lint
	$(BIN)/python -m pytest $(SEVERAL) 4 -m "not slow"

# Everything, with the coverage of all packages: child processes and Triton's Python models are measured too.
test: $(VENV)/.dev lint
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=term --cov-fail-under=90

# mypy sees the packages under their installed names through links.
lint: $(VENV)/.dev
	mkdir -p build/typing/veridict
	for name in client forensics export explain deploy loadtests; do ln -sfn ../../../$$name build/typing/veridict/$$name; done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p veridict.client -p veridict.forensics -p veridict.export -p veridict.explain -p veridict.deploy -p veridict.loadtests

bench: $(VENV)/.dev
	$(PIP) -e '.[bench]'
	$(BIN)/veridict bench

loadtest: $(VENV)/.dev
	$(BIN)/veridict loadtest overload --report build/loadtest.html

# The full TensorRT is gigabytes, so it is fetched only where there is a GPU, and brings the CUDA runtime that it needs.
# For a driver of CUDA 12: make gpu-check TENSORRT=tensorrt-cu12
TENSORRT ?= tensorrt

gpu-check: $(VENV)/.dev
	if nvidia-smi -L >/dev/null 2>&1 && ! $(BIN)/python -c 'import tensorrt; tensorrt.Builder' >/dev/null 2>&1; then $(PIP) $(TENSORRT); fi
	$(BIN)/veridict gpu-check

# New files go to build/fuzz; a finding is written to build/fuzz as well and ends the run.
FUZZ_SECONDS ?= 600

fuzz: $(VENV)/.dev
	$(PIP) -e '.[fuzz]'
	mkdir -p build/fuzz/corpus
	$(BIN)/python -m veridict.loadtests.hostile.fuzz build/fuzz/corpus tests/fuzz/corpus -max_len=8000 -timeout=20 -rss_limit_mb=2048 -artifact_prefix=build/fuzz/ -max_total_time=$(FUZZ_SECONDS)

# checkov has many pins of its own, so it gets an environment of its own. Also needs kubectl, which pip cannot install.
build/checkov/bin/checkov:
	$(PYTHON) -m venv build/checkov
	build/checkov/bin/python -m pip --disable-pip-version-check install --quiet 'checkov>=3.2'

manifests-check: $(VENV)/.dev build/checkov/bin/checkov
	$(BIN)/python -m pytest tests/deploy/kubernetes

# The packages of the images, by their lock files. Needs the network of the vulnerability service (osv.dev).
audit: $(VENV)/.dev
	$(BIN)/veridict audit --lock deploy/docker/locks/triton.txt deploy/docker/locks/worker.txt deploy/docker/locks/torch-cpu.txt

sbom: $(VENV)/.dev
	mkdir -p build
	$(BIN)/veridict sbom --extras server --output build/sbom.json

clean:
	rm -rf $(VENV) build
