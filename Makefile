# Everything that is run by hand or in CI. Each target makes the environment that it needs.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
BIN := .venv/bin
TEST_WORKERS ?= 2
OUT ?= runs/gpu
# Two runs of mypy: the project, and the example that is a separate project.
MYPY := $(BIN)/mypy && cd examples/subscriber && ../../$(BIN)/mypy
# Shows what coverage cannot see in the source: the order of functions that call each other through objects.
RECORDED_RUN := tests/loop/test_trace_order.py::test_a_run_triggers_each_event_in_the_declared_order

.DEFAULT_GOAL := help
.PHONY: help setup generate check lint typecheck test test-all test-matrix demo layouts bench gpu bench-quick bench-codegen bench-mypy clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: .venv/installed ## make the environment in .venv

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

generate: setup ## write all generated files, from catalogue.yaml and others
	$(BIN)/d9d-catalogue generate
	$(BIN)/d9d-catalogue generate --catalogue examples/subscriber/catalogue.yaml
	$(BIN)/d9d-catalogue generate --catalogue tests/mypy/cases/catalogue.yaml
	$(BIN)/d9d-catalogue schema > docs/catalogue.schema.json
	$(BIN)/python -m d9d_codegen.rules.page > docs/catalogue/rules.md
	$(BIN)/python tests/mypy/verification_page.py
	$(BIN)/python tests/typing/checker_page.py > docs/type-checkers.md
	$(BIN)/python tests/docs/config_page.py > docs/config.md
	$(BIN)/python tests/check/marked_table.py > codegen/d9d_check/marked.py

check: setup ## fail if a generated file or a loop does not match catalogue.yaml
	$(BIN)/d9d-catalogue check --import
	$(BIN)/d9d-catalogue check --import --catalogue examples/subscriber/catalogue.yaml
	$(BIN)/d9d-catalogue check --import --catalogue tests/mypy/cases/catalogue.yaml
	$(BIN)/d9d-catalogue coverage d9d
	$(BIN)/pytest --quiet $(RECORDED_RUN)

lint: setup ## ruff, and the rules of the catalogue
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/d9d-catalogue lint

typecheck: setup ## mypy, strict, with the project's own plugin
	$(MYPY)

test: check lint typecheck ## everything that CI runs
	@# This profile of hypothesis draws the same examples in each run; test-all draws new ones.
	$(BIN)/pytest --numprocesses $(TEST_WORKERS) -m "not slow" --hypothesis-profile ci
	$(BIN)/python benchmarks/quick.py

test-all: check lint typecheck ## make test, and the exhaustive variants
	$(BIN)/pytest --numprocesses $(TEST_WORKERS)

test-matrix: ## test the oldest and newest version of each dependency; JOBS="mypy-floor ..." chooses some
	$(PYTHON) .ci/matrix.py $(JOBS)

demo: setup ## generate, type-check, train and infer, in a few minutes
	$(BIN)/python examples/bytes_lm/demo.py

layouts: setup ## run one job in each layout of its processes; writes docs/layouts.md
	PYTHONPATH=tests/harness $(BIN)/python tests/distributed/layout_page.py > docs/layouts.md

bench: .venv-bench/installed ## compare bus, loop and startup with other libraries; writes docs/benchmarks
	@# A missed bound is on the page as well, so the others still run.
	status=0; \
	for each in bus loop startup gpu; do .venv-bench/bin/python -W ignore benchmarks/$$each.py || status=$$?; done; \
	.venv-bench/bin/python benchmarks/page.py; exit $$status

gpu: setup ## run all that needs a GPU, in ten minutes; writes OUT/report.md; DEVICE=cpu tries it out without one
	$(BIN)/python -W ignore benchmarks/gpu_report.py --output $(OUT) $(if $(DEVICE),--device $(DEVICE))

bench-quick: setup ## check bus and loop against bounds, in under a minute; fails at twice a bound
	$(BIN)/python benchmarks/quick.py

bench-codegen: .venv-bench/installed ## compare the compiler with others; writes docs/benchmarks/codegen.md
	.venv-bench/bin/python benchmarks/codegen.py

bench-mypy: setup ## measure what the mypy plugin adds to a run of mypy; writes docs/benchmarks/mypy.md
	$(BIN)/python benchmarks/mypy.py

.venv-bench/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	@touch $@

clean: ## remove the environment, caches and runs
	rm -rf .venv .venv-bench .venv-matrix .mypy_cache .ruff_cache .pytest_cache .hypothesis runs dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf examples/subscriber/.mypy_cache
