# `make help` lists the targets. Each target first installs what it needs into .venv.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# Applies to every pip call below and to pip's build environments: an unpinned torch may pull gigabytes.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

CXX_SOURCES = $(shell find cpp examples tests -name '*.cpp' -o -name '*.h')

.PHONY: help venv demo format check test test-full test-peers tidy tsan fuzz cpp bench bench-native bench-deploy \
  bench-inference bench-training docs models parity layouts hooks clean

help:
	@echo "Start here"
	@echo "  make demo          convert, export and run a real network on a photograph, in Python and C++"
	@echo "  make test          run the tests (7 to 8 minutes on two cores)"
	@echo "  make check         check format, lint and types (half a minute)"
	@echo "  make cpp           build build/cpp/segnets-run and the Python module segnets_native"
	@echo "While working"
	@echo "  make format        format Python and C++"
	@echo "  make hooks         run the checks before each commit (pre-commit)"
	@echo "  make tidy          lint the C++ with clang-tidy (minutes)"
	@echo "  make docs          regenerate docs/models.md, parity.md and layouts.md (installs the other projects)"
	@echo "Longer tests"
	@echo "  make test-full     run all combinations of networks and cases (more than an hour)"
	@echo "  make test-peers    compare with timm, SMP, mmsegmentation and transformers (installs them)"
	@echo "  make tsan          run many threads on one model under ThreadSanitizer"
	@echo "  make fuzz          read a million damaged files (about an hour); EXECUTIONS=10000 for a short run"
	@echo "Benchmarks"
	@echo "  make bench         compare speed with torchvision"
	@echo "  make bench-native  compare C++ with Python on one export, and measure scaling over threads"
	@echo "  make bench-inference  measure inference from images to masks (IMAGES=DIR for your own images,"
	@echo "                        LRASPP_WEIGHTS=FILE for a trained network in addition to random ones)"
	@echo "  make bench-training   compare training steps with torchvision's loop"
	@echo "  make bench-deploy  compare exports with torchvision, ONNX Runtime and OpenVINO (hours)"

venv: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "installing PyTorch and the tools into $(VENV), which takes a few minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev,demo]'
	@touch $@

demo: venv
	$(BIN)/python examples/demo.py

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix --quiet --select I .
	$(BIN)/clang-format -i $(CXX_SOURCES)

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run --Werror $(CXX_SOURCES)
# Two processes save a third of the time. On a busy machine they may not start within mypy's limit: status 2.
	$(BIN)/mypy --num-workers 2 || { [ $$? -eq 2 ] && $(BIN)/mypy; }
	$(BIN)/mypy cpp/python/segnets_native.pyi

hooks: venv
	$(BIN)/pre-commit install

# Two processes with one thread each are faster than one process with two threads.
test: venv
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-full: venv
	$(BIN)/python -m pytest --full

# The other projects are installed for these targets only.
$(VENV)/.installed-peers: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev,demo,peers]'
	@touch $@

# Apart, because OpenCV would share its modules with a project of the other environment.
build/opencv/.installed: constraints.txt
	$(PYTHON) -m venv build/opencv
	build/opencv/bin/python -m pip install --quiet opencv-python-headless
	@touch $@

test-peers: $(VENV)/.installed-peers build/opencv/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/peers

docs: models parity layouts

models: venv
	$(BIN)/python -m benchmarks.models --write
	$(BIN)/python -m benchmarks.options --write

parity: $(VENV)/.installed-peers
	$(BIN)/python -m tests.peers.table --write

layouts: $(VENV)/.installed-peers
	$(BIN)/python -m tests.peers.layouts --write

CONFIGURE = $(BIN)/cmake -S cpp -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) \
  -DCMAKE_PREFIX_PATH="$$($(BIN)/python -c 'import torch; print(torch.utils.cmake_prefix_path)')"
# Folder that `import segnets_native` searches.
SITE_PACKAGES ?= $(shell $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')

cpp: venv
	$(CONFIGURE) -B build/cpp -DCMAKE_BUILD_TYPE=Release \
	  -DSEGNETS_BUILD_PYTHON=AUTO -DPython_EXECUTABLE=$(abspath $(BIN)/python)
	$(BIN)/cmake --build build/cpp
	$(BIN)/cmake --install build/cpp --component python --prefix "$(SITE_PACKAGES)"

tsan: venv
	$(BIN)/python -m pytest --full tests/cpp/test_threads.py

# clang-tidy needs its own build folder. Without Python headers, it skips the Python module.
$(VENV)/.installed-tidy: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev,demo,tidy]'
	@touch $@

tidy: $(VENV)/.installed-tidy
	$(CONFIGURE) -B build/tidy -DCMAKE_EXPORT_COMPILE_COMMANDS=ON -DSEGNETS_BUILD_TESTS=ON -DSEGNETS_BUILD_EXAMPLES=ON \
	  -DSEGNETS_UNITY_BUILD=OFF -DSEGNETS_BUILD_PYTHON=AUTO -DPython_EXECUTABLE=$(abspath $(BIN)/python)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/run-clang-tidy.py -quiet -j 2 -p build/tidy

bench: venv
	$(BIN)/python -m benchmarks.core

bench-native: cpp
	$(BIN)/python -m benchmarks.deploy.native

bench-training: venv
	$(BIN)/python -m benchmarks.training.speed

bench-inference: venv
	$(BIN)/python -m benchmarks.inference.speed $(if $(IMAGES),--images $(IMAGES)) \
		$(if $(LRASPP_WEIGHTS),--lraspp-weights $(LRASPP_WEIGHTS))

# Takes hours on an otherwise idle machine. It resumes an interrupted run, and replaces the recorded results at the end.
bench-deploy: venv
	$(BIN)/python -m pip install --quiet --editable '.[dev,demo,bench]'
	$(BIN)/python -m benchmarks.deploy.speed --out build/deploy.json
	rm -f benchmarks/results/deploy_*.json
	mv build/deploy.json benchmarks/results/deploy.json
	$(BIN)/python -m benchmarks.deploy.page

# Atheris has wheels for Python 3.11 to 3.13. Otherwise, the other engines take over its share of the executions.
$(VENV)/.installed-fuzz: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[dev,demo,fuzz]'
	@touch $@

EXECUTIONS ?= 1000000
FUZZ_SEED ?= 0
fuzz: $(VENV)/.installed-fuzz
	$(BIN)/python -m tests.fuzz --executions $(EXECUTIONS) --seed $(FUZZ_SEED)

clean:
	rm -rf build .demo .pytest_cache .mypy_cache .ruff_cache
