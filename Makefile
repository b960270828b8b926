# Two commands for a fresh machine: `make demo` and `make test`. Python 3.11 or later is all they need.
# VENV=path lets several clones share one environment; it is quoted everywhere, so spaces are fine.

PYTHON ?= python3
VENV ?= .venv
OUT ?= gradscope-demo
BIN = $(VENV)/bin
PIP_FLAGS ?= --quiet --disable-pip-version-check
CODE = gradscope cli tests analyses

.PHONY: demo docs install test test-slow torture lint format types check clean
.DEFAULT_GOAL := demo

demo: install
	"$(BIN)/gradscope" demo --out "$(OUT)"

# The stamp names this clone and what it was installed from: another clone or an edit installs again.
install:
	@stamp="$$(pwd) $$(cat pyproject.toml constraints.txt | cksum)"; \
	if [ "$$(cat "$(VENV)/.gradscope" 2>/dev/null)" != "$$stamp" ]; then \
		set -e; \
		[ -x "$(BIN)/python" ] || "$(PYTHON)" -m venv "$(VENV)"; \
		echo "installing into $(VENV) (torch is large: a few minutes the first time)" >&2; \
		"$(BIN)/python" -m pip install $(PIP_FLAGS) --constraint constraints.txt --editable '.[dev]'; \
		printf '%s' "$$stamp" > "$(VENV)/.gradscope"; \
	fi

test: install
	"$(BIN)/python" -m pytest -n 2 -m "not slow"

test-slow: install
	"$(BIN)/python" -m pytest -m slow

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

check: lint types test

clean:
	rm -rf build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis gradscope-demo
	find gradscope cli tests analyses -name __pycache__ -type d -prune -exec rm -rf {} +
