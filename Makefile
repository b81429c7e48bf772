# The commands a user types. Everything else is in the modules they call.
.PHONY: demo test lint lab down clean set-up bench generate

PYTHON := .venv/bin/python

set-up:
	@sh tools/set-up.sh

demo: set-up  ## the main job in the lab, from nothing to failover; KEEP=1 leaves the lab up
	@$(PYTHON) -m lab demo $(if $(KEEP),--keep)

lab: set-up  ## bring the lab up and leave it up
	@$(PYTHON) -m lab up

down: set-up
	@$(PYTHON) -m lab down

test: set-up lint  ## every test
	@$(PYTHON) -m pytest

lint: set-up
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

generate: set-up  ## rewrite what is generated from the sources: CRDs
	@$(PYTHON) -m cli generate

clean:
	@if [ -x $(PYTHON) ]; then $(PYTHON) -m lab down || true; fi
	rm -rf .venv .lab build *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage*
