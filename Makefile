# `make run` and `make test` do all their set-up on a fresh machine.
PY := .venv/bin/python
PYTEST := $(PY) -m pytest
WORKERS ?= auto
TESTS ?= tests

# Tests start hundreds of programs, and each worker reads all tests: they keep the byte code, even where an image's
# environment says otherwise.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test compile check bench soak docs screenshots setup lock format clean
.DELETE_ON_ERROR:

setup: .venv/.ready

.venv/.ready: requirements.lock pyproject.toml scripts/setup
	scripts/setup

run: setup
	@trap : INT; .venv/bin/dogwatch up --quickstart || [ $$? -eq 130 ]  # Ctrl-C is how it ends

test: setup
	scripts/install-test-tools
	scripts/test $(WORKERS) $(TESTS)

# Where there is a C compiler; without one everything runs from its sources.
compile: setup
	scripts/compile --if-needed

check: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/vulture

format: setup
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

bench: compile
	scripts/install-test-tools
	$(PY) -m bench

soak: setup
	scripts/install-test-tools
	scripts/install-soak-peers
	scripts/install-vault
	$(PYTEST) $(TESTS) -m soak
	$(PYTEST) tests/integration/test_real_vault.py

docs: setup
	$(PY) scripts/docs.py

screenshots: setup
	$(PY) scripts/screenshots.py

lock:
	.venv/bin/uv pip compile -q --universal --python-version 3.11 --extra all --group dev --no-emit-index-url --no-emit-find-links --no-header pyproject.toml -o requirements.lock

clean:
	rm -rf .venv build dist
