# Two commands for a fresh machine: `make demo` and `make test`. Python 3.11 or later is all they need.
#
# VENV=path        where to install; several clones can share one environment. Spaces in paths are fine.
# PYTHON=python3.12, OUT=folder for the demo, CONSTRAINTS=file of versions
# CPU=1            torch from PyTorch's own index of CPU builds, without CUDA's libraries

PYTHON ?= python3
VENV ?= .venv
OUT ?= gradscope-demo
CONSTRAINTS ?= constraints.txt
CPU ?=
PIP_FLAGS ?= --quiet --disable-pip-version-check
BIN = $(VENV)/bin
CODE = gradscope cli tests analyses setup.py
FROM = $(if $(CPU),--extra-index-url https://download.pytorch.org/whl/cpu)
# What the oldest versions are tested with: recording, reading, judging, searching, the command line.
CORE = $(addprefix tests/,recorder/test_recorder.py recording/test_recording.py recorder/test_statistics.py \
	recorder/test_activations.py regularizers/test_penalties.py regularizers/test_steps.py diagnosis/test_judge.py \
	diagnosis/test_rules.py store/test_file.py store/test_append.py store/test_reading.py tolerance/test_posterior.py \
	tolerance/test_function.py cli/test_commands.py cli/test_inspect.py report/test_page.py)

.PHONY: demo docs install install-demo install-test test test-thorough test-slow test-oldest test-odd-path coverage \
	torture lint format types check dist clean
.DEFAULT_GOAL := demo

demo: install-demo
	"$(BIN)/gradscope" demo --out "$(OUT)"

# The stamp names this clone and what it was installed from: another clone or an edit installs again.
# All that `demo` brings is in `test`, and all of that in `dev`.
define install
	@stamp="$$(pwd) $$(cat pyproject.toml setup.py "$(CONSTRAINTS)" | cksum)"; \
	for have in $(1) $(2); do [ "$$(cat "$(VENV)/.gradscope-$$have" 2>/dev/null)" != "$$stamp" ] || exit 0; done; \
	set -e; \
	[ -x "$(BIN)/python" ] || "$(PYTHON)" -m venv "$(VENV)"; \
	echo "installing into $(VENV) (torch is large: minutes the first time)" >&2; \
	"$(BIN)/python" -m pip install $(PIP_FLAGS) $(FROM) --constraint "$(CONSTRAINTS)" --editable '.[$(1)]'; \
	printf '%s' "$$stamp" > "$(VENV)/.gradscope-$(1)"
endef

install-demo:
	$(call install,demo,test dev)

install-test:
	$(call install,test,dev)

install:
	$(call install,dev,)

test: install
	"$(BIN)/python" -m pytest -n 2 --dist worksteal -m "not slow and not thorough" --durations=15

# Tests that start, kill and starve real processes, take trainings to their end, compile: CI runs them as well.
test-thorough: install
	"$(BIN)/python" -m pytest -n 2 --dist worksteal -m "thorough and not slow" --durations=15

test-slow: install
	"$(BIN)/python" -m pytest -m slow

# The share of lines that `make test` runs, file by file, as the last line in all; what child processes run is not counted.
coverage: install
	"$(BIN)/python" -m pytest -n 2 --dist worksteal -m "not slow and not thorough" --cov=gradscope \
		--cov=gradscope_cli --cov-report=term:skip-covered

# The core on the lowest versions that pyproject.toml promises, in an environment of its own (Python 3.11).
test-oldest:
	"$(MAKE)" install-test VENV="$(VENV)-oldest" CONSTRAINTS=constraints-oldest.txt
	"$(VENV)-oldest/bin/python" -m pytest -n 2 -m "not slow" -p no:cacheprovider $(CORE)

# A handful of tests from a clone in a folder with a space in its name that only its owner may read, its .venv inside.
test-odd-path: install
	.ci/odd-path "$(abspath $(BIN))/python"

# The long campaign of faults, about half an hour; results in tests/torture/results.json.
torture: install
	"$(BIN)/python" -m tests.torture.run

# The documentation, into site/; warnings are errors. It reads from disk.
docs: install
	NO_MKDOCS_2_WARNING=1 "$(BIN)/python" -m mkdocs build --strict --quiet

lint: install
	"$(BIN)/ruff" check $(CODE)
	"$(BIN)/ruff" format --check $(CODE)

format: install
	"$(BIN)/ruff" check --fix $(CODE)
	"$(BIN)/ruff" format $(CODE)

types: install
	"$(BIN)/mypy"

check: lint types test test-thorough

# Wheel and sdist, into dist/; checked as an index checks them.
dist: install
	rm -rf dist build
	"$(BIN)/python" -m build --no-isolation
	"$(BIN)/python" -m twine check --strict dist/*

clean:
	rm -rf build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage gradscope-demo
	find gradscope cli tests analyses -name __pycache__ -type d -prune -exec rm -rf {} +
