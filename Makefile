# Every target sets up what it needs: a virtual environment in .venv, pinned dependencies, the
# extension. PYTHON chooses the interpreter (>= 3.10).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# On CI byte code is made when something is first imported: most of what torch brings never is.
INSTALL := $(BIN)/pip install -q $(if $(CI),--no-compile)
OUTER_PATH := $(PATH)
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The pinned torch is a CPU build; `make gpu-check` builds with CUDA.
export XRISK_CUDA ?= 0
ifdef CI
export XRISK_WERROR ?= 1
endif

SOURCES := $(shell find csrc/core csrc/cpu csrc/torch -name '*.cpp' -o -name '*.h') setup.py csrc/sources.txt
# What the extension's build left: the C++ tests are linked with the kernels that are shipped.
OBJECTS := -DXRISK_OBJECTS=$(CURDIR)/build/objects
# How many tests run at a time; builds follow MAX_JOBS and CMAKE_BUILD_PARALLEL_LEVEL.
export JOBS ?= $(shell nproc)
STAMP_TORCH := $(VENV)/.torch
STAMP_DEMO := $(VENV)/.demo
STAMP_DEV := $(VENV)/.dev
STAMP_DOCS := $(VENV)/.docs
STAMP_BUILD := $(VENV)/.build

.PHONY: setup build demo test test-cpp test-simt test-nvcc test-python test-long test-sanitize test-threads \
  test-valgrind test-planted test-wheel bench gpu-check docs lint format clean wheel

setup: $(STAMP_DEV) $(STAMP_DOCS)

build: $(STAMP_BUILD)

demo: $(STAMP_BUILD) $(STAMP_DEMO)
	$(BIN)/python -m xrisk_ext demo --output demo.png

test: test-cpp test-simt test-nvcc test-python

# The kernels' C++ tests, without torch, on the objects of the extension.
test-cpp: $(STAMP_BUILD) $(STAMP_DEV)
	cmake --preset default $(OBJECTS) $(if $(CI),-DXRISK_WERROR=ON)
	cmake --build --preset default
	ctest --preset default -j $(JOBS)

# Where nvcc is there: whether all CUDA code compiles, and the ops on it. (The preset nvcc optimizes.)
# On CI without the kernels' tests, which g++ compiles for test-simt.
test-nvcc: $(STAMP_DEV)
	@if command -v nvcc > /dev/null; then \
	  cmake --preset nvcc-quick -DXRISK_NVCC_TESTS=$(if $(CI),OFF,ON) && cmake --build --preset nvcc-quick; \
	else \
	  echo "nvcc not found: csrc/core and csrc/cuda were NOT compiled with nvcc"; \
	fi
	.ci/cuda_layer

# The CUDA kernels on the host, under several schedules: with sanitizers, then with the race detector.
# Needs the headers of the CUDA toolkit; without them it skips, or fails if XRISK_REQUIRE_SIMT=1.
SIMT := simt-asan simt-race
test-simt: $(STAMP_DEV)
	@set -e; for preset in $(SIMT); do \
	  cmake --preset $$preset $(if $(CI),-DXRISK_WERROR=ON -DXRISK_LINES=OFF) > /dev/null; \
	  cmake --build --preset $$preset; \
	  ctest --preset $$preset -j $(JOBS); \
	done

test-python: $(STAMP_BUILD) $(STAMP_DEV)
	$(BIN)/python -m pytest -q -n $(patsubst 1,0,$(JOBS)) --dist worksteal

# AddressSanitizer and UBSan: the C++ tests, and the extension under the Python tests.
test-sanitize: $(STAMP_DEV)
	.ci/sanitize

# ThreadSanitizer on the parallel paths, on std::thread, which it understands (OpenMP it does not).
test-threads: $(STAMP_DEV)
	cmake --preset tsan
	cmake --build --preset tsan --target test_threads test_threads_embeddings test_threads_lists
	ctest --preset tsan -R threads

test-valgrind: $(STAMP_BUILD) $(STAMP_DEV)
	cmake --preset default $(OBJECTS) $(if $(CI),-DXRISK_WERROR=ON)
	cmake --build --preset default
	.ci/valgrind

# Whether the fast tests bite: plants two dozen bugs, one at a time, each of which must make a test
# fail. Minutes; not part of .ci/run.
test-planted: $(STAMP_DEV)
	$(BIN)/python .ci/planted.py

# The wheel in a clean environment, and the errors promised to whoever installs.
test-wheel: wheel
	$(BIN)/python .ci/test_wheel.py dist/*.whl

# The fuzz tests again, on other examples every time, and the CUDA kernels under more schedules: about
# half an hour.
test-long: $(STAMP_BUILD) $(STAMP_DEV)
	$(MAKE) test-simt SIMT=simt
	XRISK_HYPOTHESIS=long $(BIN)/python -m pytest -q python_tests/fuzz

bench: $(STAMP_BUILD) $(STAMP_DEV)
	$(BIN)/python -m xrisk_ext bench

# On a machine with a GPU, with the Python that has torch with CUDA there; nothing is installed.
gpu-check:
	PATH='$(OUTER_PATH)' $(PYTHON) benchmarks/gpu_check.py

# The site: docs/_build/html/index.html. Warnings are errors, so is a reference that leads nowhere.
docs: $(STAMP_BUILD) $(STAMP_DOCS)
	$(BIN)/python -m sphinx -q -W --keep-going docs docs/_build/html

lint: $(STAMP_BUILD) $(STAMP_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(STAMP_DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' | xargs $(BIN)/clang-format -i

# What another version left in build/lib would be packed, too.
wheel: $(STAMP_BUILD)
	rm -rf dist build/lib.* build/bdist.*
	$(BIN)/pip wheel -q --no-build-isolation --no-deps -w dist .

clean:
	rm -rf build dist docs/_build *.egg-info xrisk_ext/*.so xrisk_ext/_build_config.json $(STAMP_BUILD)

$(STAMP_TORCH): requirements/build.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python >= 3.10 is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -r requirements/build.txt
	touch $@

# LibAUC asks for packages that its losses do not need, hence --no-deps.
$(STAMP_DEMO): requirements/demo.txt requirements/peers.txt $(STAMP_TORCH)
	$(INSTALL) -r requirements/demo.txt
	$(INSTALL) --no-deps -r requirements/peers.txt
	touch $@

$(STAMP_DEV): requirements/dev.txt $(STAMP_DEMO)
	$(INSTALL) -r requirements/dev.txt
	touch $@

$(STAMP_DOCS): requirements/docs.txt $(STAMP_TORCH)
	$(INSTALL) -r requirements/docs.txt
	touch $@

$(STAMP_BUILD): $(SOURCES) pyproject.toml $(STAMP_TORCH)
	$(BIN)/pip install -q --no-build-isolation --no-deps -e .
	touch $@
