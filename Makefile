# `make profile` and `make test` each set everything up on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.ready

GPU_VENV := .venv-gpu
GPU_EXTRAS ?= gpu,tensorrt,tensorrt-rtx,loadgen,cluster,dev

.PHONY: help profile test test-gpu gpu-report fast lint bench docs figures nightly locks clean
.DEFAULT_GOAL := help

help:
	@echo "make profile  measure the five micro backbones on this machine, and report"
	@echo "make test     lint, types, import contracts, and the tests"
	@echo "make nightly  every promise at micro and tiny, and the tests that are too long"
	@echo "make test-gpu the tests that need an NVIDIA GPU, and a summary to paste"
	@echo "make gpu-report  with a GPU: tests, the main table and a page, and one block to paste"
	@echo "make fast     the tests that take seconds"
	@echo "make bench    the benchmarks"
	@echo "make docs     the documentation as a site, in docs/_build"
	@echo "make figures  tables and pictures in prose, from results/"
	@echo "make locks    what CI and the containers install, by hash, written again"
	@echo "make clean    remove the environment"

# CI takes exactly what locks/ci.txt lists, by hash; elsewhere there are other wheels, GPUs, Pythons.
ifdef CI
INSTALL = $(BIN)/python -m pip install --quiet --no-compile --no-deps --require-hashes \
		--requirement locks/ci.txt \
	&& $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
else
INSTALL = $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt \
		--editable '.[cpu,loadgen,openvino,tensorrt-rtx,cluster,postgres,dev]'
endif

$(SETUP): pyproject.toml constraints.txt locks/ci.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL)
	@$(BIN)/python -m compileall -q -j 0 -x "/tests?/|/testing/" $(VENV)/lib >/dev/null || true  # pip would, on one processor
	@touch $@

profile: $(SETUP)
	$(BIN)/stmdeploy profile
	$(BIN)/stmdeploy report

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile

test: lint
	.ci/browser
	.ci/postgres
	$(BIN)/python -m pytest --numprocesses 6 --dist worksteal --durations 15 -m "not nightly"

# What is too long for CI; promises go on where they were stopped. Ends in one summary.
nightly: $(SETUP)
	$(BIN)/python -m tests.nightly

locks:
	.ci/lock

# Where an NVIDIA GPU is; ends in a summary to paste. Its environment has torch with CUDA.
test-gpu:
	$(PYTHON) -m venv $(GPU_VENV)
	$(GPU_VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[$(GPU_EXTRAS)]'
	$(GPU_VENV)/bin/python -m pytest -m gpu tests/gpu

# For whoever has a GPU: about 20 minutes, and one block to paste into an issue.
gpu-report:
	$(PYTHON) -m venv $(GPU_VENV)
	$(GPU_VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[$(GPU_EXTRAS)]'
	$(GPU_VENV)/bin/python -m benchmarks.gpu_report

fast: $(SETUP)
	$(BIN)/python -m pytest

bench: $(SETUP)
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.export
	$(BIN)/python -m benchmarks.lowering micro tiny
	$(BIN)/python -m benchmarks.lowering --task detection
	$(BIN)/python -m benchmarks.masks
	$(BIN)/python -m benchmarks.efficiency
	$(BIN)/python -m benchmarks.measuring
	$(BIN)/python -m benchmarks.kills
	$(BIN)/python -m benchmarks.checking
	$(BIN)/python -m benchmarks.dispatch
	$(BIN)/python -m benchmarks.engines
	$(BIN)/python -m benchmarks.rivals

docs: $(SETUP)
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build
	@echo "open docs/_build/index.html"

# Tables and pictures in prose, from the results in the repository.
figures: $(SETUP)
	$(BIN)/python -m docs.figures

clean:
	rm -rf docs/_build docs/reference
	rm -rf $(VENV) $(GPU_VENV) *.egg-info
