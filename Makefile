# Everything a newcomer types. Needs python3 (3.11 or newer, with venv), git and make; `make env` gets the rest.
PYTHON ?= python3
UV_VERSION := 0.13.8
JOBS ?= 2
ARGS ?=

# Nothing of a surrounding environment may leak into ours.
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH
export UV_PROJECT_ENVIRONMENT := .venv
export UV_PYTHON_DOWNLOADS := never
# Every stage is a fresh process: let none of them compile its imports again.
export UV_COMPILE_BYTECODE := 1

PY := .venv/bin/python
# Stages call `python`: let it be ours. Quoted, since the project's path may hold spaces.
OURS := PATH="$(CURDIR)/.venv/bin:$$PATH"

.PHONY: help env demo repro test lint format bench fsck params
.DEFAULT_GOAL := help

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' Makefile | awk -F'|' '{ printf "%-12s %s\n", $$1, $$2 }'

env: .venv/.installed  ## install every dependency, at the versions of uv.lock, into .venv

demo: .venv/.installed  ## run the whole benchmark on the built-in world and write the report
	$(OURS) $(PY) -m tools.repro --jobs $(JOBS) $(ARGS)
	@echo "The report: $(CURDIR)/report/index.html"

repro: demo  ## the same for any benchmark and targets (ARGS: targets, --gpus 0,1; JOBS: stages at a time)

test: .venv/.installed  ## run the tests (ARGS: further arguments of pytest, JOBS: processes)
	$(OURS) OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) $(ARGS)

lint: .venv/.installed  ## check style, import contract and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	.venv/bin/lint-imports
	$(PY) -m mypy zslib stages tools

format: .venv/.installed  ## put the code into the house's format
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: .venv/.installed  ## time the hot paths against their alternatives
	$(OURS) $(PY) -m benchmarks $(ARGS)

fsck: .venv/.installed  ## hash every object of the DVC cache again (ARGS=--delete: remove what is damaged)
	$(PY) -m zslib.cli fsck $(ARGS)

params: .venv/.installed  ## write params.yaml from conf/ (ARGS="benchmark=voc12 ...": another choice)
	$(PY) -m tools.compose_params $(ARGS)

# uv.lock names files on pypi.org. Behind a mirror that only pip knows, pip installs the same versions.
# No $(MAKE) in the rule below: make runs such lines even under -n.
define pip_sync
$(PY) -m uv export --frozen --quiet --no-emit-project --output-file .venv/requirements.txt && \
$(PY) -m pip install --quiet --require-hashes --requirement .venv/requirements.txt && \
$(PY) -m pip install --quiet --no-deps --editable .
endef

.venv/.installed: uv.lock pyproject.toml
	@test ! -L .venv || { echo ".venv is a link to another folder's environment; remove it, and this folder gets its own"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit("$(PYTHON) is too old: 3.11 or newer, please (make env PYTHON=...)" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(PY) -m uv sync --frozen --python $(PY) || { $(pip_sync); }
	@touch $@
