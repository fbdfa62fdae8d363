# Everything that a newcomer needs: `make demo`, `make test`. Each target installs what it uses into .venv first.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# In force for every pip call below, also in pip's own build environments: an unpinned torch may pull gigabytes.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help venv demo test test-full test-peers parity layouts check cpp tsan bench bench-native bench-deploy fuzz clean

help:
	@echo "make demo       convert, export and run a real network on a real photograph, in Python and C++"
	@echo "make test       the tests"
	@echo "make test-full  the tests with the complete products of networks and cases (more than an hour)"
	@echo "make test-peers the same weights in other projects' networks and in ours; installs these projects"
	@echo "make parity     docs/parity.md, the table of these comparisons, computed anew"
	@echo "make layouts    docs/layouts.md, what is converted from these projects, measured anew"
	@echo "make check      format, lint and types"
	@echo "make cpp        build/cpp/segnets-run and the Python module segnets_native, against torch's LibTorch"
	@echo "make tsan       many threads on one model under ThreadSanitizer"
	@echo "make fuzz       a million damaged files through the reader (about an hour); EXECUTIONS=10000 for a few"
	@echo "make bench      the benchmarks, side by side with torchvision"
	@echo "make bench-native  one export in Python and in C++, and its scaling over threads"
	@echo "make bench-deploy  exports beside torchvision, ONNX Runtime and OpenVINO; hours"

venv: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev,demo]'
	@touch $@

demo: venv
	$(BIN)/python examples/demo.py

# Two processes, one thread each: together faster than one process with two threads.
test: venv
	$(BIN)/python -m pytest -n 2 --dist loadfile $(WITHOUT_PEERS)

test-full: venv
	$(BIN)/python -m pytest --full $(WITHOUT_PEERS)

# What needs these projects is left to a target of its own, so that the tests need not install them; what needs
# torchvision alone runs with the other tests too.
WITH_TORCHVISION := $(patsubst %,tests/peers/test_%.py,torchvision coverage layouts_page)
WITHOUT_PEERS := $(patsubst %,--ignore=%,$(filter-out $(WITH_TORCHVISION),$(wildcard tests/peers/test_*.py)))

$(VENV)/.installed-peers: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev,demo,peers]'
	@touch $@

test-peers: $(VENV)/.installed-peers
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/peers

parity: $(VENV)/.installed-peers
	$(BIN)/python -m tests.peers.table --write

layouts: $(VENV)/.installed-peers
	$(BIN)/python -m tests.peers.layouts --write

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy cpp/python/segnets_native.pyi

CONFIGURE = $(BIN)/cmake -S cpp -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) \
  -DCMAKE_PREFIX_PATH="$$($(BIN)/python -c 'import torch; print(torch.utils.cmake_prefix_path)')"
# Where `import segnets_native` finds it.
SITE_PACKAGES ?= $(shell $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')

cpp: venv
	$(CONFIGURE) -B build/cpp -DCMAKE_BUILD_TYPE=Release \
	  -DSEGNETS_BUILD_PYTHON=AUTO -DPython_EXECUTABLE=$(abspath $(BIN)/python)
	$(BIN)/cmake --build build/cpp
	$(BIN)/cmake --install build/cpp --component python --prefix "$(SITE_PACKAGES)"

# A test like the others, but left out of `make test` for the minutes that the build takes.
tsan: venv
	$(BIN)/python -m pytest --full tests/cpp/test_threads.py

bench: venv
	$(BIN)/python -m benchmarks.core

bench-native: cpp
	$(BIN)/python -m benchmarks.deploy.native

# Hours, on a machine with nothing beside it; stopped, it goes on where it was. At its end it replaces what was kept.
bench-deploy: venv
	$(BIN)/python -m pip install --quiet --editable '.[dev,demo,bench]'
	$(BIN)/python -m benchmarks.deploy.speed --out build/deploy.json
	rm -f benchmarks/results/deploy_*.json
	mv build/deploy.json benchmarks/results/deploy.json
	$(BIN)/python -m benchmarks.deploy.page

# Atheris has wheels for Python 3.11 to 3.13; elsewhere its share of the executions goes to the other engines.
$(VENV)/.installed-fuzz: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev,demo,fuzz]'
	@touch $@

EXECUTIONS ?= 1000000
FUZZ_SEED ?= 0
fuzz: $(VENV)/.installed-fuzz
	$(BIN)/python -m fuzz --executions $(EXECUTIONS) --seed $(FUZZ_SEED)

clean:
	rm -rf build .demo .pytest_cache .mypy_cache .ruff_cache
