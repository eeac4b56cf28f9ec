# Every target sets up what it needs in .venv; a machine needs make and Python 3.11 or newer.

PYTHON ?= python3
UV_VERSION := 0.13.8
# Extra arguments for the command behind test, test-fast, bench, loss, soak, takeover, fuzz, lock, up
# and sizes, as in `make test ARGS=-x`.
ARGS ?=

SPEECH := .cache/speech
SOURCES := contracts services tests benchmarks examples
UV := .venv/bin/uv
UV_STAMP := .venv/.uv-$(UV_VERSION)
RUNTIME := .venv/.runtime
DEV := .venv/.dev

# uv reads no pip configuration, so a machine whose pip uses a mirror hands the mirror on.
WITH_INDEX := index="$${PIP_INDEX_URL:-$$(.venv/bin/python -m pip config get global.index-url 2>/dev/null)}"; \
	if [ -n "$$index" ]; then export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$index}"; fi;
# `uv pip sync` would remove the packages of the other lock, hence `install`.
INSTALL := $(WITH_INDEX) $(UV) pip install --python .venv/bin/python
COMPILE := $(WITH_INDEX) $(UV) pip compile --quiet --universal --generate-hashes --no-annotate \
	--no-emit-index-url --no-emit-package speechbus-contracts \
	--custom-compile-command "make lock" $(ARGS)
# Of images, one lock for each extra that a Dockerfile's SERVICE or EXTRAS may name. All take the
# versions that are tested.
IMAGE_EXTRAS := correlator ctranslate2 ingest local operator simulate transcriber translator

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-fast format lint types imports check bench loss soak takeover fuzz lock schema speech secrets up sizes clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(DEV) ## install everything that development needs into .venv
	@echo "ready: .venv/bin/speechbus; to check each commit, run .venv/bin/pre-commit install"

demo: $(RUNTIME) speech ## stream real speech through the whole system and show the transcript
	@exec .venv/bin/speechbus dev --demo

# Three at a time on two cores, since most tests wait for processes; a file's tests share fixtures
# and stay together. `ARGS=-n0` runs them one by one, as for a debugger.
test: $(DEV) speech ## run all tests, the fast ones first
	@echo "testing: environment .venv, recordings $(SPEECH), settings pyproject.toml"
	@.venv/bin/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

test-fast: $(DEV) ## run the tests that start no process
	@.venv/bin/pytest tests/unit tests/conformance $(ARGS)

format: $(DEV) ## rewrite the sources in the one format
	@.venv/bin/ruff check --fix-only --quiet $(SOURCES)
	@.venv/bin/ruff format $(SOURCES)

lint: $(DEV) ## check the sources' format and rules (ruff)
	@.venv/bin/ruff check $(SOURCES)
	@.venv/bin/ruff format --check $(SOURCES)

types: $(DEV) ## check the types (mypy and pyright, both strict)
	@.venv/bin/mypy
	@.venv/bin/pyright

imports: $(DEV) ## check which package may import which
	@.venv/bin/lint-imports --no-cache --no-logo

check: lint types imports test ## everything that CI requires

soak: $(DEV) ## let anything break for 30 minutes, then read the stored transcript
	@.venv/bin/python -m benchmarks.soak $(ARGS)

takeover: $(DEV) ## measure how soon another worker reads the streams of one that is gone
	@.venv/bin/python -m benchmarks.takeover $(ARGS)

fuzz: $(DEV) ## send garbage to every parser and every door for 10 minutes
	@.venv/bin/python -m benchmarks.fuzz $(ARGS)

loss: $(DEV) ## measure what is lost, doubled or late when something breaks
	@.venv/bin/python -m benchmarks.loss $(ARGS)

bench: $(DEV) speech ## measure cost and latency per stream
	@.venv/bin/python -m benchmarks.cost $(ARGS)

lock: $(UV_STAMP) ## resolve the dependencies again (all to the newest: ARGS=--upgrade)
	@$(COMPILE) --extra all --output-file requirements.lock pyproject.toml
	@$(COMPILE) --extra all --group dev --constraint requirements.lock --output-file requirements-dev.lock pyproject.toml
	@for extra in $(IMAGE_EXTRAS); do \
	  $(COMPILE) --extra $$extra --constraint requirements-dev.lock --output-file deploy/locks/$$extra.lock pyproject.toml || exit 1; \
	done
	@$(COMPILE) --constraint requirements-dev.lock --output-file deploy/locks/build.lock deploy/locks/build.in

schema: $(RUNTIME) ## write the JSON Schema files of the contracts, and of the Helm chart's values
	@.venv/bin/speechbus schema --write
	@.venv/bin/python -m tests.support.chart_schema

speech: $(RUNTIME) ## fetch the speech recordings for the demo and the tests
	@.venv/bin/python -m speechbus_cli.speech --cache $(SPEECH)

secrets: ## make passwords and keys for docker compose, once
	@sh deploy/compose/make-secrets.sh

up: secrets ## start the whole system in containers (docker compose)
	@docker compose up --build $(ARGS)

sizes: $(DEV) ## build each image's environment here and print its size
	@.venv/bin/python -m benchmarks.image_sizes $(ARGS)

clean: ## remove .venv, .cache and all that tools left behind
	@rm -rf .venv .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find contracts services tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(UV_STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Speechbus needs Python 3.11 or newer, and '$(PYTHON)' is not." >&2; \
	  echo "Name one that is: make PYTHON=python3.12 ..." >&2; exit 1; }
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || { \
	  echo "creating .venv with $$($(PYTHON) --version)"; \
	  $(PYTHON) -m venv --clear .venv || { rm -rf .venv; \
	    echo "'$(PYTHON)' cannot create virtual environments (Debian, Ubuntu: apt install python3-venv)." >&2; \
	    exit 1; }; }
	@echo "installing uv $(UV_VERSION)"
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

$(RUNTIME): $(UV_STAMP) requirements.lock pyproject.toml contracts/pyproject.toml
	@echo "installing what runs (requirements.lock)"
	@$(INSTALL) --require-hashes -r requirements.lock
	@$(INSTALL) --no-deps -e ./contracts -e .
	@touch $@

$(DEV): $(RUNTIME) requirements-dev.lock
	@echo "installing what development needs (requirements-dev.lock)"
	@$(INSTALL) --require-hashes -r requirements-dev.lock
	@touch $@
