# `make help` lists the targets. The README's two commands are `make demo` and `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# Tests wait for mounts and servers most of the time: more of them at once than there are processors.
PYTEST_ALL := $(PYTEST) -n $(shell expr $$(nproc) + 1) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup setup-tests demo fmt lint types test unit conformance mount s3 gcs azure check soak bench man clean

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: ## Install what icefs needs into .venv (asks Debian for FUSE, uv for Python)
	@bash scripts/setup.sh dev

setup-tests:
	@bash scripts/setup.sh tests

demo: ## Write, commit, look back and settle a conflict, narrated
	@bash scripts/setup.sh demo
	@$(BIN)/python scripts/demo.py

fmt: setup ## Format the code
	@$(BIN)/ruff format -q . && $(BIN)/ruff check -q --fix .

lint: setup ## ruff, formatting, imports, layers, spelling, prose
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .
	@$(BIN)/python scripts/check_imports.py
	@$(BIN)/lint-imports --no-cache | tail -n 4
	@$(BIN)/codespell icefs tests scripts README.md Makefile
	@$(BIN)/python scripts/lint_prose.py

types: setup ## mypy --strict
	@$(BIN)/mypy

test: setup-tests ## All tests (FUSE and an S3 server are started by the tests)
	@$(PYTEST_ALL)

unit: setup ## Tests without kernel and network
	@$(PYTEST) tests/unit tests/property

conformance: setup-tests ## Tests against the official library
	@$(PYTEST) tests/conformance

mount: setup-tests ## Tests on real mounts
	@$(PYTEST) tests/mount tests/views

s3: setup-tests ## Tests against a real S3 server
	@$(PYTEST) tests/s3

gcs: setup-tests ## Tests against an emulator of Google Cloud Storage
	@$(PYTEST) tests/gcs

azure: setup-tests ## Tests against an emulator of Azure Blob Storage
	@$(PYTEST) tests/azure

check: lint types test ## Everything CI runs

soak: setup-tests ## The generating tests, as deep as they go (some hours; in a copy, so that you can go on)
	@$(BIN)/python -m tests.support.soak $(SOAK)

bench: setup ## Measure, against a do-nothing file system and the official library
	@$(BIN)/python -m tests.benchmarks

man: setup ## Write the manual pages to man/ ('man -M man icefs' shows the first)
	@$(BIN)/icefs help --man man

clean: ## Remove caches and the virtual environment
	rm -rf $(VENV) man .mypy_cache .ruff_cache .pytest_cache .hypothesis .demo
