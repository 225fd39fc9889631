# Every target sets up what it needs: a virtual environment in .venv, pinned dependencies, the
# extension. PYTHON chooses the interpreter (>= 3.10).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# This version has no CUDA kernels; without this a CUDA torch would refuse the CPU build.
export XRISK_CUDA ?= 0

SOURCES := $(shell find csrc/core csrc/cpu csrc/torch -name '*.cpp' -o -name '*.h') setup.py csrc/sources.txt
STAMP_TORCH := $(VENV)/.torch
STAMP_DEMO := $(VENV)/.demo
STAMP_DEV := $(VENV)/.dev
STAMP_BUILD := $(VENV)/.build

.PHONY: demo test test-cpp test-python test-long bench lint format clean wheel

demo: $(STAMP_BUILD) $(STAMP_DEMO)
	$(BIN)/python -m xrisk_ext demo --output demo.png

test: test-cpp test-python

# Kernels and their C++ tests, without torch; then core/ as CUDA code where nvcc is there.
test-cpp: $(STAMP_DEV)
	cmake --preset default $(if $(CI),-DXRISK_WERROR=ON)
	cmake --build --preset default
	ctest --preset default
	@if command -v nvcc > /dev/null; then \
	  cmake --preset nvcc && cmake --build --preset nvcc; \
	else \
	  echo "nvcc not found: csrc/core was NOT compiled as CUDA code"; \
	fi

test-python: $(STAMP_BUILD) $(STAMP_DEV)
	$(BIN)/python -m pytest -q

# The fuzz tests again, on other examples every time: about a quarter of an hour.
test-long: $(STAMP_BUILD) $(STAMP_DEV)
	XRISK_HYPOTHESIS=long $(BIN)/python -m pytest -q python_tests/fuzz

bench: $(STAMP_BUILD) $(STAMP_DEV)
	$(BIN)/python -m benchmarks.report

lint: $(STAMP_BUILD) $(STAMP_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	git ls-files 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(STAMP_DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' | xargs $(BIN)/clang-format -i

wheel: $(STAMP_BUILD)
	$(BIN)/pip wheel --no-build-isolation --no-deps -w dist .

clean:
	rm -rf build dist *.egg-info xrisk_ext/*.so xrisk_ext/_build_config.json $(STAMP_BUILD)

$(STAMP_TORCH): requirements/build.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python >= 3.10 is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -r requirements/build.txt
	touch $@

# LibAUC asks for packages that its losses do not need, hence --no-deps.
$(STAMP_DEMO): requirements/demo.txt requirements/peers.txt $(STAMP_TORCH)
	$(BIN)/pip install -q -r requirements/demo.txt
	$(BIN)/pip install -q --no-deps -r requirements/peers.txt
	touch $@

$(STAMP_DEV): requirements/dev.txt $(STAMP_DEMO)
	$(BIN)/pip install -q -r requirements/dev.txt
	touch $@

$(STAMP_BUILD): $(SOURCES) pyproject.toml $(STAMP_TORCH)
	$(BIN)/pip install -q --no-build-isolation --no-deps -e .
	touch $@
