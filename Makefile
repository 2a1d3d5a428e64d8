# `make run`: everything, from nothing. `make test`: the proof. Both set up what is missing: uv beside the project, then the locked environment.
.DEFAULT_GOAL := run
SHELL := /bin/bash

# Empty: the Python of .venv, the first that tools/pythons.sh finds, or one that uv downloads.
PYTHON ?=
BOOTSTRAP := .bootstrap
UV ?= $(BOOTSTRAP)/bin/uv
ENVIRONMENT := .venv/.petrflow-synced
SNAKEMAKE := .venv/bin/snakemake
# A mirror of PyPI for the environment, kept once it was named (docs/gpu.md); in the environment of tools/set_up.sh, not on its command line.
INDEX ?=
export INDEX
CONFIG ?=
TARGET ?= all
ARGS ?=
CONFIG_ARGUMENTS := $(if $(CONFIG),--configfile $(CONFIG))

.PHONY: run gpu test test-faults test-cluster test-pythons slurm lint coverage format visualdl serve status left preflight doctor report generate site clean help

run: $(ENVIRONMENT)  ## make everything the config names (CONFIG=file, TARGET=all)
	$(SNAKEMAKE) --cores all $(TARGET) $(CONFIG_ARGUMENTS) $(ARGS)

gpu:  ## put Paddle's GPU build into the environment, where it stays (PADDLE=auto, cu126, cu129; cpu goes back)
	PYTHON="$(PYTHON)" UV="$(UV)" PADDLE="$(or $(PADDLE),auto)" PADDLE_INDEX="$(PADDLE_INDEX)" ADD_GROUPS="$(ADD_GROUPS)" tools/set_up.sh
	@touch $(ENVIRONMENT)

test: $(ENVIRONMENT)  ## the proof, in at most 20 minutes on 2 cores
	.venv/bin/python -m pytest $(ARGS)

test-faults: $(ENVIRONMENT)  ## the long forms: kills, full disks, corruption
	.venv/bin/python -m pytest -m slow $(ARGS)

test-cluster: slurm  ## the workflow on a real Slurm of two nodes, as root (Debian: slurm-wlm slurmdbd munge mariadb-server bindfs)
	PETRFLOW_CLUSTER=1 .venv/bin/python -m pytest -n 0 -v tests/cluster $(ARGS)

test-pythons: $(ENVIRONMENT)  ## the proof on every Python that fits, each in its own environment; seconds of each
	UV="$(UV)" tools/test_pythons.sh $(ARGS)

slurm:  ## add the executor for a Slurm cluster to the environment (then: --workflow-profile profiles/slurm)
	PYTHON="$(PYTHON)" UV="$(UV)" ADD_GROUPS="slurm $(ADD_GROUPS)" tools/set_up.sh

lint: $(ENVIRONMENT)  ## style, types, layers, spelling
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/snakefmt --check Snakefile workflow
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo
	.venv/bin/codespell

coverage: $(ENVIRONMENT)  ## the proof, and how much of the library its own processes run; reported, not enforced
	.venv/bin/python -m pytest --cov --cov-report=term:skip-covered $(ARGS)

format: $(ENVIRONMENT)  ## put style right where a tool can
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
	.venv/bin/snakefmt Snakefile workflow

visualdl: $(ENVIRONMENT)  ## curves in the browser (PORT=8040)
	.venv/bin/python -m petrflow.reports.curves --logdir results --port $(or $(PORT),8040)

status: $(ENVIRONMENT)  ## where every run stands: stage, epoch, time left, metrics, cost (WATCH=1 goes on)
	.venv/bin/python -m petrflow.reports.status $(if $(WATCH),--watch)

left: $(ENVIRONMENT)  ## what is left to do, why, and how long it took last time
	.venv/bin/python workflow/left.py $(TARGET) $(CONFIG_ARGUMENTS)

serve: $(ENVIRONMENT)  ## the model service that Xtreme1 calls, on a run's exported model (RUN=default, CONFIG=file)
	.venv/bin/python -m petrflow.prediction.server $(or $(RUN),default) $(CONFIG_ARGUMENTS) $(ARGS)

preflight doctor report: $(ENVIRONMENT)  ## is this machine fit; is the data fit; the page over all runs
	$(SNAKEMAKE) --cores all $@ $(CONFIG_ARGUMENTS) $(ARGS)

generate: $(ENVIRONMENT)  ## docs/config.md from the schema, envs/ from uv.lock, docs/images/dag.png from the rules
	.venv/bin/python tools/config_page.py && .venv/bin/python tools/messages.py && .venv/bin/python tools/conda_environments.py
	@command -v dot > /dev/null || { echo "docs/images/dag.png was left as it is: drawing it needs Graphviz (apt-get install graphviz)" >&2; exit 1; }
	set -o pipefail; $(SNAKEMAKE) all --cores 1 --forceall --rulegraph dot $(CONFIG_ARGUMENTS) 2> /dev/null | dot -Tpng -Gdpi=80 > .dag.png && mv .dag.png docs/images/dag.png

clean:  ## remove what tools leave behind; never data or results
	rm -rf .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .coverage .snakemake/log .snakemake/scripts

HELP := Run:run,left,status,visualdl,report,serve Check:preflight,doctor Set-up:gpu,slurm,clean Develop:test,test-faults,test-cluster,test-pythons,coverage,lint,format,generate,site
help:  ## these lines
	@awk -v groups="$(HELP)" -f tools/help.awk $(MAKEFILE_LIST)

site: $(ENVIRONMENT)  ## the pages as a site that works from disk: site/index.html
	.venv/bin/python tools/site.py

$(ENVIRONMENT): pyproject.toml uv.lock
	PYTHON="$(PYTHON)" UV="$(UV)" ADD_GROUPS="$(ADD_GROUPS)" tools/set_up.sh
	@touch $@
