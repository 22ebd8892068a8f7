# `make demo` and `make test` set everything up by themselves; they need python3 (3.11 or newer) and git.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
ARGS   ?=

.PHONY: help setup demo test test-full bench bench-quick soak lint format clean
help:
	@echo "make demo        a server, a slow uplink, a gateway and ten devices on this machine"
	@echo "make test        the test suite (ARGS=... goes to pytest)"
	@echo "make test-full   the slow cases with the real mender-client"
	@echo "make bench       side by side with nginx, Caddy and Varnish (ARGS='--case NAME --json')"
	@echo "make bench-quick its main cases in a minute"
	@echo "make soak        devices against faults for ten minutes, and a verdict"
	@echo "make lint        ruff, mypy, import rules"
	@echo "make format      let ruff format the code"

setup: $(READY)
$(READY): pyproject.toml scripts/setup
	@PYTHON="$(PYTHON)" scripts/setup $(VENV)
	@touch $@

demo: $(READY)
	@$(BIN)/mender-gateway demo $(ARGS)

test: $(READY)
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -n 4 --dist worksteal -m "not full" $(ARGS)
	@$(BIN)/python -m coverage combine -q && $(BIN)/python -m coverage report --skip-covered --skip-empty | tail -40

test-full: $(READY)
	$(BIN)/python -m pytest -n 6 --dist worksteal -m full --timeout 1500 $(ARGS)

bench: $(READY)
	@$(BIN)/python -m benchmarks $(ARGS)

bench-quick: $(READY)
	@$(BIN)/python -m benchmarks --quick-set $(ARGS)

# 100 devices, faults every second, a disk smaller than what they ask for; SECONDS=600 by default
soak: $(READY)
	$(BIN)/python -m tests.soak --seconds $(or $(SECONDS),600) $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info src/*.egg-info .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis
