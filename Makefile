# Tasks API. `make` alone lists what there is.
#
# All of it lives in .venv, made by whichever target needs it first and made again or brought up to date when it is
# broken, was interrupted, has moved, or is older than pyproject.toml and the lock files. Paths are relative
# throughout, so the project may lie in a folder whose name has spaces.

.DEFAULT_GOAL := help
.PHONY: help run demo reset test chaos guards bench compare format lint lock clean environment-run environment-dev environment-bench

# The Python to use instead of the first that fits: make test PYTHON=python3.13
PYTHON ?=
# The commit whose code is the old one of make compare.
BASE ?=
# More arguments for the command behind a target: make test ARGS="-k batching -x"
ARGS ?=
UV ?= uv

help: ## list the targets
	@echo 'make TARGET [PYTHON=python3.13] [ARGS="more arguments"]'
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-7s %s\n", $$1, $$2 }' Makefile

# If make itself is killed, `up` sees that its parent has changed, and stops.
run: environment-run ## set everything up and run the whole stack in the foreground
	@TASKS_API_PARENT=$$PPID exec .venv/bin/tasks-api up $(ARGS)

demo: environment-run ## see 10,000 tasks survive killed servers, in a minute, on servers of its own
	@exec .venv/bin/python examples/demo.py $(ARGS)

reset: environment-run ## throw away the data of the embedded servers, after a question (ARGS=--yes: without)
	@exec .venv/bin/tasks-api reset $(ARGS)

test: environment-dev ## set everything up and run the tests (ARGS goes to pytest)
	@exec .venv/bin/python -m pytest $(ARGS)

chaos: environment-dev ## break everything under work, then check each answer (SEED=7 SECONDS=180 BROKER=valkey)
	@exec .venv/bin/python -m tests.chaos $(if $(SEED),--seed '$(SEED)') $(if $(SECONDS),--seconds '$(SECONDS)') \
		$(if $(BROKER),--broker '$(BROKER)') $(ARGS)

guards: environment-dev ## take each guard out, in a copy, and see its test fail (ARGS="alarm" for those with this word in the title)
	@exec .venv/bin/python -m tests.support.guards $(ARGS)

bench: environment-bench ## measure the budget beside the peers, in ten minutes (ARGS="--rows post,done --rounds 3")
	@exec .venv/bin/python -m benchmarks $(ARGS)

compare: environment-bench ## compare the speed of a commit with the code as it is (BASE=31cce39 ARGS="--rows post,done")
	@exec .venv/bin/python -m benchmarks.compare '$(BASE)' $(ARGS)

format: environment-dev ## format the code, and repair what the linter can
	@.venv/bin/ruff check --quiet --fix-only . && exec .venv/bin/ruff format .

lint: environment-dev ## check lock files, format, lint, types, import layers, migrations in step with models
	@failed=; \
	check() { echo "-- $$1"; shift; "$$@" || failed=1; }; \
	check locks .venv/bin/python deploy/check_locks.py; \
	check format .venv/bin/ruff format --check .; \
	check lint .venv/bin/ruff check .; \
	check types .venv/bin/python -m mypy; \
	check layers .venv/bin/lint-imports --no-logo; \
	check migrations .venv/bin/python -m tests.support.migrations_in_step; \
	test -z "$$failed"

# The first lock binds the others, so all of them always agree and can share one .venv.
lock: ## write requirements/*.txt anew from pyproject.toml (ARGS=--upgrade: to the newest versions)
	@command -v '$(UV)' >/dev/null || { echo 'make lock needs uv: pip install uv' >&2; exit 1; }
	@compile() { \
		'$(UV)' pip compile --quiet --universal --generate-hashes --python-version 3.11 --group build \
			--no-emit-index-url --no-emit-find-links --annotation-style line \
			--custom-compile-command 'make lock' pyproject.toml "$$@" $(ARGS); \
	}; \
	compile --extra embedded --extra dev -o requirements/dev.txt && \
	compile --extra embedded -c requirements/dev.txt -o requirements/embedded.txt && \
	compile -c requirements/dev.txt -o requirements/run.txt && \
	compile --extra embedded --extra dev --extra bench -c requirements/dev.txt -o requirements/bench.txt
	@if grep -n '://' requirements/*.txt; then echo 'A lock file names a host.' >&2; exit 1; fi

clean: ## remove .venv and the caches; what the embedded servers keep in .data stays
	@rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -prune -exec rm -rf {} +

environment-run:
	@$(call environment,run)

environment-dev:
	@$(call environment,dev)

environment-bench:
	@$(call environment,bench)

# Prints "3.12 whole" for a Python that will do, "3.12 bare" for one without venv, nothing for any other.
define probe
import sys, importlib.util as u; \
fits = sys.implementation.name == "cpython" and (3, 11) <= sys.version_info[:2] <= (3, 14); \
whole = all(map(u.find_spec, ("venv", "ensurepip"))); \
print(*["%d.%d" % sys.version_info[:2], "whole" if whole else "bare"] if fits else [])
endef

# $(call environment,run|dev|bench): see to it that .venv has what that needs.
#
# A stamp in .venv holds the project's path and the checksum of what .venv was made from: contents and not times, which
# a checkout or a copy changes. Stamps go before pip starts and come back when it has ended well, so a .venv without
# one was interrupted. The packages of bench contain those of dev, which contain those of run.
define environment
set -u; \
fail() { [ ! -t 2 ] || printf '\r\033[K' >&2; echo "$$*" >&2; exit 1; }; \
wanted() { echo "$$(pwd -P) $$(cat pyproject.toml "$$1" | cksum)"; }; \
origin() { "$$1" -c 'import sys; print(sys.version, sys.base_prefix)' 2>/dev/null; }; \
installed() { ls -d .venv/lib/python*/site-packages/*.dist-info 2>/dev/null | wc -l; }; \
progress() { \
	while kill -0 $$$$ 2>/dev/null; do \
		printf '\r  %s of %s fetched, %s installed ' "$$(grep -c '(from -r' .venv/install.log)" \
			"$$((packages - $$(grep -c '^Ignoring' .venv/install.log)))" "$$(($$(installed) - before))" >&2; \
		sleep 0.3; \
	done; \
}; \
run=requirements/embedded.txt; dev=requirements/dev.txt; bench=requirements/bench.txt; \
\
case $$(.venv/bin/python -c '$(probe)' 2>/dev/null) in *whole) usable=yes ;; *) usable= ;; esac; \
if [ -n '$(PYTHON)' ] && [ "$$(origin '$(PYTHON)')" != "$$(origin .venv/bin/python)" ]; then usable=; fi; \
if [ "$$usable" ] && [ "$$(wanted $$$(1))" = "$$(cat .venv/stamp-$(1) 2>/dev/null)" ]; then exit 0; fi; \
case $$(cat .venv/stamp-* 2>/dev/null) in "$$(pwd -P) "*) ;; *) usable= ;; esac; \
\
if [ -z "$$usable" ]; then \
	python=; bare=; \
	if [ -n '$(PYTHON)' ]; then set -- '$(PYTHON)'; \
	else set -- python3 python3.14 python3.13 python3.12 python3.11 python; fi; \
	for candidate do \
		case $$("$$candidate" -c '$(probe)' 2>/dev/null) in \
			*whole) python=$$candidate; break ;; \
			*bare) bare=$${bare:-$$("$$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])')} ;; \
		esac; \
	done; \
	if [ -z "$$python" ]; then \
		[ -z "$$bare" ] || fail "Python $$bare lacks venv: install it (Debian, Ubuntu: apt-get install python$$bare-venv)."; \
		[ -z '$(PYTHON)' ] || fail 'PYTHON=$(PYTHON) is no CPython from 3.11 to 3.14.'; \
		fail 'No Python from 3.11 to 3.14 found: install one (Debian 12 and later: apt-get install python3 python3-venv), or name one: PYTHON=/path/to/python3.'; \
	fi; \
	echo "Making .venv with $$("$$python" --version) ..." >&2; \
	rm -rf .venv; \
	said=$$("$$python" -m venv .venv 2>&1) || fail "Could not make .venv: $$(echo "$$said" | tail -n 1)"; \
fi; \
\
said=$$(.venv/bin/python deploy/check_locks.py 2>&1) || fail "$$said"; \
rm -f .venv/stamp-*; \
packages=$$(grep -c '==' "$$$(1)"); before=$$(installed); \
echo "Installing $$packages packages, which may take a minute (.venv/install.log) ..." >&2; \
:>.venv/install.log; \
if [ -t 2 ]; then progress & trap 'kill $$! 2>/dev/null; printf "\r\033[K" >&2' EXIT; fi; \
export PIP_USER=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1; \
{ \
	.venv/bin/python -m pip install --require-hashes -r "$$$(1)" && \
	.venv/bin/python -m pip install --no-index --no-deps --no-build-isolation --editable .; \
} >>.venv/install.log 2>&1 || \
	fail "Could not install the packages (is a package index in reach?): $$(grep -i error .venv/install.log | tail -n 1) (.venv/install.log has the rest)"; \
for each in run $(subst bench,dev bench,$(1)); do eval "wanted \$$$$each" >.venv/stamp-$$each; done
endef
