# pilum - the commands of a fresh clone. Each installs what it needs first.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: help setup demo check check-all build bench fuzz check-neon clean

JOBS ?= $(shell nproc)
# Ninja where there is one; a folder configured before keeps its generator.
export CMAKE_GENERATOR ?= $(if $(shell command -v ninja),Ninja,Unix Makefiles)
PYTHON ?= python3
export PYTHON JOBS

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 18

setup: ## install everything for all targets (Debian packages as root, .venv)
	@tools/setup.sh all

build: ## the release build: build/pilum, the libraries, the Python package
	@tools/setup.sh build
	@tools/build.sh release

demo: ## index a table of real vectors and look at the neighbours
	@tools/setup.sh demo
	@tools/build.sh release pilum
	@.venv/bin/python examples/demo.py

check: ## every test but the long matrix
	@tools/setup.sh all
	@tools/check.sh

check-all: ## every test, with the long matrix
	@tools/setup.sh all
	@tools/check.sh --all

bench: ## benchmarks against the peers (BENCH_ARGS="--quick"): a JSON line per run and a table
	@tools/setup.sh all
	@tools/build.sh release
	@.venv/bin/python bench/bench.py $(BENCH_ARGS)

fuzz: ## the fuzzers, FUZZ_SECONDS (60) each; installs clang
	@tools/setup.sh fuzz
	@tools/fuzz.sh

check-neon: ## the kernels for AArch64, in an emulator; installs a cross compiler
	@tools/setup.sh neon
	@tools/check_neon.sh

clean: ## remove everything that was built
	rm -rf build
