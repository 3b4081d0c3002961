# `make demo`: the whole chain, for real, on the embedded model.   `make test`: all tests.   Both set themselves up.
PYTHON ?= python3
# CPU builds of torch, used only where the configured package index has none.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
WORKSPACE ?= workspace/demo
export PYTHON TORCH_CPU_INDEX
# Large tensors stay in the allocator instead of going back to the kernel after each operation; on CPUs this is worth
# a tenth of the training time. No effect on results.
export MALLOC_MMAP_MAX_ = 0
export MALLOC_TRIM_THRESHOLD_ = 20000000000
# Python keeps compiled modules, as it does unless told otherwise: each of a hundred commands that the tests start would
# compile all of them anew.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin

# Targets that end in -avx2 leave the wide vector instructions (AVX-512) alone, as a processor without them does: other
# kernels of torch, oneDNN, MKL, OpenBLAS and numpy, which round in other places.
NARROW := test-avx2 numerics-avx2 demo-avx2
$(NARROW): export ATEN_CPU_CAPABILITY = avx2
$(NARROW): export ONEDNN_MAX_CPU_ISA = AVX2
$(NARROW): export MKL_ENABLE_INSTRUCTIONS = AVX2
$(NARROW): export OPENBLAS_CORETYPE = Haswell
$(NARROW): export NPY_DISABLE_CPU_FEATURES = AVX512F,AVX512CD,AVX512_SKX,AVX512_CLX,AVX512_CNL,AVX512_ICL

.PHONY: help setup demo planted results test numerics lint docs campaign fuzz clean $(NARROW)

help:
	@echo "make demo        ingest, rollout, label, train, report on the embedded model; results in $(WORKSPACE)"
	@echo "make planted     verdicts on the demo's planted domains: ten studies of three seeds, ten null runs (an hour)"
	@echo "make results     ways to train side by side on known truth, written into docs/results.md (80 minutes)"
	@echo "make test        run all tests"
	@echo "make numerics    run the tests of the trainer's arithmetic"
	@echo "make test-avx2   run all tests without AVX-512, as on a processor that has none; numerics-avx2 and demo-avx2, too"
	@echo "make lint        ruff and mypy"
	@echo "make docs        the documentation as pages in site/; fails where a link leads nowhere"
	@echo "make campaign    kills, faults, damage and hostile input for every command that writes (CAMPAIGN_SECONDS a part)"
	@echo "make fuzz        random rows, texts and images for ten minutes (FUZZ_SECONDS)"
	@echo "make clean       delete .venv and the demo workspace"

setup:
	@scripts/setup full

demo: setup
	@$(BIN)/curate run recipes/runs/demo.yaml --workspace $(WORKSPACE)

planted: setup
	@$(BIN)/curate run recipes/runs/planted.yaml --workspace workspace/planted
	@$(BIN)/python benchmarks/planted.py workspace/planted

results: setup
	@$(BIN)/python benchmarks/results.py workspace/results --write docs/results.md

# Files in their order: files of few tests would come last otherwise, and those are the long ones, for which the others
# would wait. One process more than two cores, because some tests wait for servers, disks and processes that end.
PYTEST := $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

test: setup
	@$(PYTEST)

# The tests of the trainer's arithmetic, which is where instruction sets differ.
NUMERICAL := training/test_plain bilevel/test_bilevel bilevel/test_hypergradient bilevel/test_ghost bilevel/test_exact \
  data/test_masks test_metrics model/test_precision

numerics: setup
	@$(PYTEST) $(NUMERICAL:%=tests/prm/%.py)

test-avx2: test

numerics-avx2: numerics

demo-avx2: WORKSPACE = workspace/demo-avx2
demo-avx2: demo

lint: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

fuzz: setup
	@FUZZ_SECONDS=$${FUZZ_SECONDS:-600} $(BIN)/pytest -s --timeout 1200 tests/fuzz

docs: setup
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "site/index.html"

campaign: setup
	@$(BIN)/python benchmarks/campaign --seconds $${CAMPAIGN_SECONDS:-3600}

clean:
	rm -rf .venv $(WORKSPACE)
