# Tasks API. `make` alone lists the targets.
#
# The first target that needs .venv creates it (deploy/environment.sh). A later target creates it again if it is broken,
# was interrupted or has moved, and installs the packages again if pyproject.toml or the lock file has changed. All
# paths are relative, so the name of the project's folder may have spaces.

.DEFAULT_GOAL := help
.PHONY: help run dev demo reset test chaos guards bench compare format lint lock clean environment-run environment-dev environment-bench

# The Python to use instead of the first that fits: make test PYTHON=python3.13
PYTHON ?=
# The commit with which `make compare` compares the current code.
BASE ?=
# More arguments for the command of a target: make test ARGS="-k batching -x"
ARGS ?=
UV ?= uv

help: ## list the targets
	@echo 'make TARGET [PYTHON=python3.13] [ARGS="more arguments"]'
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-7s %s\n", $$1, $$2 }' Makefile

# If make itself is killed, `up` sees that its parent has changed, and stops.
run: environment-run ## set everything up and run the whole stack in the foreground
	@TASKS_API_PARENT=$$PPID exec .venv/bin/tasks-api up $(ARGS)

dev: environment-run ## the same; restart API and worker when a Python file changes, and wait for no task then
	@TASKS_API_PARENT=$$PPID STOP_SECONDS=$${STOP_SECONDS:-0} exec .venv/bin/tasks-api up --reload $(ARGS)

demo: environment-run ## post 10,000 tasks while its own servers are killed, then count them; takes a minute
	@exec .venv/bin/python examples/demo.py $(ARGS)

reset: environment-run ## delete the data of the embedded servers; asks first (with ARGS=--yes it does not ask)
	@exec .venv/bin/tasks-api reset $(ARGS)

test: environment-dev ## set everything up and run the tests (ARGS goes to pytest)
	@exec .venv/bin/python -m pytest $(ARGS)

chaos: environment-dev ## run mixed work under random faults, then check each answer (SEED=7 SECONDS=180 BROKER=valkey)
	@exec .venv/bin/python -m tests.chaos $(if $(SEED),--seed '$(SEED)') $(if $(SECONDS),--seconds '$(SECONDS)') \
		$(if $(BROKER),--broker '$(BROKER)') $(ARGS)

guards: environment-dev ## remove each guard in a copy; its test must fail (ARGS="alarm" for those with this word in the title)
	@exec .venv/bin/python -m tests.support.guards $(ARGS)

bench: environment-bench ## measure the service and its peers, in ten minutes (ARGS="--rows post,done --rounds 3")
	@exec .venv/bin/python -m benchmarks $(ARGS)

compare: environment-bench ## compare the speed of the current code and a commit (BASE=31cce39 ARGS="--rows post,done")
	@exec .venv/bin/python -m benchmarks.compare '$(BASE)' $(ARGS)

format: environment-dev ## format the code, and fix what the linter can fix
	@.venv/bin/ruff check --quiet --fix-only . && exec .venv/bin/ruff format .

lint: environment-dev ## check lock files, format, lint, sizes, types, import layers, dead code, dependencies, migrations
	@failed=; \
	check() { echo "-- $$1"; shift; "$$@" || failed=1; }; \
	check locks .venv/bin/python deploy/check_locks.py; \
	check format .venv/bin/ruff format --check .; \
	check lint .venv/bin/ruff check .; \
	check sizes .venv/bin/python deploy/check_sizes.py; \
	check types .venv/bin/python -m mypy; \
	check layers .venv/bin/lint-imports --no-logo; \
	check 'dead code' .venv/bin/vulture; \
	check dependencies .venv/bin/deptry --no-ansi .; \
	check "the service's dependencies" .venv/bin/deptry --no-ansi --optional-dependencies-dev-groups dev,bench backend; \
	check migrations .venv/bin/python -m tests.support.migrations_in_step; \
	test -z "$$failed"

lock: export UV := $(UV)
lock: ## write requirements/*.txt from pyproject.toml (ARGS=--upgrade: with the newest versions)
	@exec deploy/lock.sh $(ARGS)

clean: ## remove .venv and the caches; the data of the embedded servers (.data) stays
	@rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -prune -exec rm -rf {} +

# Passed in the environment and not in the command, so that the value may contain quotes.
environment-run environment-dev environment-bench: export PYTHON := $(PYTHON)

environment-run:
	@exec deploy/environment.sh run

environment-dev:
	@exec deploy/environment.sh dev

environment-bench:
	@exec deploy/environment.sh bench
