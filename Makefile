# surefoot. `make run` and `make test` are all that a fresh machine needs: both set up first.
#   make run ARGS="--seed 3"      make test ARGS="-k safety"      make bench QUICK=1
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := run

UV_VERSION := 0.13.9
PYTHON := .venv/bin/python
UV := $(PYTHON) -m uv
PRESET ?= walker-broken-ankle
ARGS ?=
QUICK ?=
export UV_HTTP_TIMEOUT ?= 300

# The stamp's name says what was installed and where, so that a set-up that is still right costs nothing.
PLUGINS := $(wildcard deploy/plugins/*/pyproject.toml)
STAMP := .venv/.installed-$(shell { cat requirements.lock pyproject.toml $(PLUGINS); pwd; } | cksum | tr ' ' -)
LOCK_FLAGS := --no-emit-index-url --no-emit-find-links --override overrides.txt --no-header --no-annotate
BENCHMARKS = $(filter-out report,$(basename $(notdir $(shell grep -l '__main__' benchmarks/*.py))))

.PHONY: setup run test check bench bench-peers clean lock

setup: $(STAMP)

run: setup
	$(PYTHON) deploy/run_agent.py $(PRESET) $(ARGS)

# One thread a worker: two workers with two threads each would fight over two cores.
test: setup
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 $(ARGS)

check: setup
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m pyright
	$(PYTHON) -m pytest tests/test_architecture.py tests/test_structure.py

bench: setup
	for name in $(BENCHMARKS); do $(PYTHON) -m "benchmarks.$$name" $(if $(QUICK),--quick) $(ARGS); done
	$(PYTHON) -m benchmarks.report

# Other people's planners, which are compared with in environments of their own: six gigabytes.
bench-peers: setup
	$(PYTHON) -m venv .venv-peers
	$(UV) pip install --quiet --python .venv-peers/bin/python stable-worldmodel==0.1.1 imageio opencv-python-headless safetensors transformers accelerate gguf xllamacpp==2026.10.11549
	$(PYTHON) -m benchmarks.latent_planning $(if $(QUICK),--quick) $(ARGS)
	$(PYTHON) -m benchmarks.goal_peers $(if $(QUICK),--quick) $(ARGS)

# Keeps the pins that still fit; delete requirements.lock first to take the newest of everything.
lock: setup
	$(UV) pip compile --quiet $(LOCK_FLAGS) requirements-dev.in -o requirements.lock

clean:
	rm -rf .venv .venv-peers build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP):
	@echo "setting up .venv from requirements.lock"
	ready='import sys; sys.exit(sys.version_info[:2] != (3, 12) or sys.prefix != sys.argv[1])'
	if ! $(PYTHON) -c "$$ready" "$$PWD/.venv" 2>/dev/null; then
	    usable='import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 12))'
	    found=
	    for python in python3.12 python3 "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.12*/bin/python3.12; do
	        if "$$python" -c "$$usable" 2>/dev/null; then found=$$python; break; fi
	    done
	    if [ -z "$$found" ]; then
	        echo "surefoot needs Python 3.12 with its venv module; tried python3.12, python3 and pyenv's 3.12" >&2
	        exit 1
	    fi
	    "$$found" -m venv --clear .venv
	fi
	$(PYTHON) -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(UV) pip install --quiet --python $(PYTHON) --no-deps -r requirements.lock
	$(UV) pip install --quiet --python $(PYTHON) --no-deps --no-build-isolation --editable . $(PLUGINS:%/pyproject.toml=--editable %)
	rm -f .venv/.installed-*
	touch $@
