# `make demo` and `make test` need git, make and Python 3.11 or newer; everything else they fetch, checked against requirements/*.lock.

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV ?= .venv
# Name one to use it: make test PYTHON=/path/to/python3
PYTHON ?=
# Arguments for pytest: make test TESTS=tests/unit/cdn
TESTS ?=
PYTEST_PROCESSES ?= auto
DEMO_ARGUMENTS ?=
FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 600
UV_VERSION := 0.13.9
# What is started again and again is compiled once, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE

# The first Python that really runs (a pyenv shim may exist and fail), is new enough and can make environments; else one that cannot,
# so that bootstrap.py says what is missing.
CANDIDATES := "$(VENV)/bin/python" python3.13 python3.12 python3.11 python3 /usr/bin/python3 /usr/local/bin/python3 python3.14 python
define find_python
python="$(PYTHON)"; \
for needs in "import ensurepip, venv" "pass"; do for candidate in $(CANDIDATES); do \
	[ -n "$$python" ] && break; \
	"$$candidate" -c "import sys; assert sys.version_info >= (3, 11); $$needs" >/dev/null 2>&1 && python="$$candidate"; \
done; done; \
if [ -z "$$python" ]; then \
	echo "setup: no Python 3.11 or newer was found; install one (Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install python)," \
		"or name it with make PYTHON=/path/to/python3" >&2; exit 1; \
fi
endef

.PHONY: help
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: venv
venv:  ## make .venv with everything development needs
	@$(find_python); "$$python" requirements/bootstrap.py "$(VENV)" requirements/dev.lock

.PHONY: runtime
runtime:  ## make .venv with what cdn needs to run
	@$(find_python); "$$python" requirements/bootstrap.py "$(VENV)" requirements/runtime.lock

.PHONY: demo
demo: runtime  ## run a whole network on this machine and put it to the test (DEMO_ARGUMENTS=--keep leaves it running)
	@"$(VENV)/bin/cdn" demo $(DEMO_ARGUMENTS)

.PHONY: test
test: venv  ## run the tests (TESTS=path for some of them)
	@"$(VENV)/bin/python" -m pytest -q -n $(PYTEST_PROCESSES) $(TESTS)

.PHONY: check
check: lint types contracts docs test  ## everything a change must pass

.PHONY: lint
lint: venv  ## style and likely mistakes
	@echo "lint: ruff"
	@"$(VENV)/bin/ruff" format --check --quiet . || { echo "lint: run 'make format'" >&2; "$(VENV)/bin/ruff" format --check .; exit 1; }
	@"$(VENV)/bin/ruff" check --quiet .

.PHONY: types
types: venv  ## types, strictly
	@echo "types: mypy --strict"
	@"$(VENV)/bin/mypy"

.PHONY: contracts
contracts: venv  ## who may import whom
	@echo "contracts: import-linter"
	@"$(VENV)/bin/lint-imports" --no-logo

.PHONY: docs
docs: venv  ## links, tables and examples in the documents are true
	@echo "docs: tests/docs"
	@"$(VENV)/bin/python" -m pytest -q tests/docs

.PHONY: format
format: venv  ## bring the code into shape
	@"$(VENV)/bin/ruff" check --quiet --fix-only .
	@"$(VENV)/bin/ruff" format .

.PHONY: fuzz
fuzz: venv  ## feed every parser garbage, FUZZ_SECONDS each (default 60)
	@for target in tests/fuzz/fuzz_*.py; do \
		name=$${target##*/}; "$(VENV)/bin/python" -m tests.fuzz.$${name%.py} $(FUZZ_SECONDS) || exit 1; \
	done

.PHONY: bench
bench: venv  ## answer the questions in benchmarks/
	@for question in benchmarks/*.py; do \
		case "$$question" in */_*) continue;; esac; \
		echo "== $$question"; "$(VENV)/bin/python" "$$question" || exit 1; \
	done

.PHONY: soak
soak: venv  ## repeat the tests that use processes and sockets for SOAK_SECONDS (default 600)
	@end=$$(( $$(date +%s) + $(SOAK_SECONDS) )); rounds=0; \
	while [ "$$(date +%s)" -lt "$$end" ]; do \
		"$(VENV)/bin/python" -m pytest -q -x -n $(PYTEST_PROCESSES) tests/integration tests/scenarios tests/property || exit 1; \
		rounds=$$((rounds + 1)); \
	done; echo "soak: $$rounds rounds passed"

.PHONY: test-all-pythons
test-all-pythons:  ## run the tests with every Python from 3.11 that is here
	@for version in 3.11 3.12 3.13; do \
		found=; \
		for candidate in python$$version "$$HOME"/.pyenv/versions/$$version.*/bin/python /usr/bin/python$$version; do \
			[ -z "$$found" ] && "$$candidate" -c "import ensurepip" >/dev/null 2>&1 && found="$$candidate"; \
		done; \
		if [ -z "$$found" ]; then echo "== Python $$version is not here: skipped"; continue; fi; \
		echo "== Python $$version ($$found)"; \
		$(MAKE) test PYTHON="$$found" VENV=.venv-$$version || exit 1; \
	done

.PHONY: lock
lock:  ## choose versions anew from pyproject.toml (UPGRADE=1 for the newest)
	@$(find_python); [ -x .venv-lock/bin/uv ] || { "$$python" -m venv .venv-lock && .venv-lock/bin/pip install --quiet uv==$(UV_VERSION); }
	@for lock in runtime:build dev:dev; do \
		name=$${lock%%:*}; file=requirements/$$name.lock; \
		[ "$$name" = dev ] && constraint="--constraint requirements/runtime.lock" || constraint=; \
		.venv-lock/bin/uv pip compile pyproject.toml --group "$${lock##*:}" $$constraint --output-file "$$file" \
			--universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet $(if $(UPGRADE),--upgrade) || exit 1; \
		{ echo "# Made by \`make lock\` from pyproject.toml; install with pip install --require-hashes -r $$file"; cat "$$file"; } > "$$file.new"; \
		mv "$$file.new" "$$file"; \
	done

.PHONY: clean
clean:  ## remove environments, caches and builds
	@rm -rf .venv .venv-* build dist ./*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
