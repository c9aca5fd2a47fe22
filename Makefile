# make demo: the embedded recipe end to end, on any machine with Python 3.11 or newer.
# make scorer: VLMEvalKit, which scores benchmarks, in an environment of its own.
# make test: what CI runs; pages are looked at where there is a Chromium (.ci/install-chromium), else skipped.
# All make .venv first; PYTHON=python3.12 chooses another interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
INSTALLED := $(VENV)/.installed
TESTABLE := $(VENV)/.testable
SCORER := .venv-scorer
SCORER_INSTALLED := $(SCORER)/.installed
PURELIB := import sysconfig; print(sysconfig.get_path("purelib"))

.PHONY: demo scorer test clean

# torch first and pinned, so that a CPU build that is at hand is taken before anything asks for another one.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: sailctl needs Python 3.11 or newer; choose one with: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# DeepSpeed without its compiled kernels: the tests run it on the CPU, where it needs none. Ray for two local workers.
$(TESTABLE): $(INSTALLED)
	DS_BUILD_OPS=0 $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[deepspeed,ray]'
	touch $@

# VLMEvalKit and what it imports, beside .venv's packages: a path file lends it torch and the rest of them.
$(SCORER_INSTALLED): $(INSTALLED) scripts/scorer-requirements.txt
	$(BIN)/python -m venv --clear $(SCORER)
	$(BIN)/python -c '$(PURELIB)' > "$$($(SCORER)/bin/python -c '$(PURELIB)')/sailctl-venv.pth"
	$(SCORER)/bin/pip install --quiet --disable-pip-version-check --no-deps -r scripts/scorer-requirements.txt
	touch $@

scorer: $(SCORER_INSTALLED)

demo: $(INSTALLED)
	PATH="$(BIN):$$PATH" recipes/tiny/run.sh

test: $(TESTABLE) $(SCORER_INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist loadfile $(PYTEST_FLAGS)

clean:
	rm -rf $(VENV) $(SCORER) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
