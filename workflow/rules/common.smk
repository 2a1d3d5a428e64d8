# What all rules share: the checked config, the plan of its stages, and what stands between Snakemake and its user.

import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir) / "src"))
sys.path.insert(0, str(Path(workflow.basedir) / "workflow"))

import hooks
from petrflow import config as settings
from petrflow.errors import PetrflowError

if workflow.is_main_process:
    hooks.enter(Path(".snakemake"))

# Rules run a Python script and nothing else; without `exec` some shells stay in between and die of signals meant for the script.
shell.prefix("set -euo pipefail; exec ")

try:
    # Read here and not by Snakemake, which keeps no lines and takes the last of two equal keys.
    if not workflow.configfiles:
        workflow.configfiles.append("config/config.yaml")
    folders = [Path("config/models"), Path(workflow.basedir) / "config/models"]
    CONFIG = hooks.read_config(workflow, folders)
    config.clear()
    config.update(CONFIG)  # scripts see the defaults too
    MODELS = {name: settings.model_path(entry["model"], folders) for name, entry in CONFIG["runs"].items()}
    PLAN = hooks.plan_stages(CONFIG, MODELS, save=workflow.is_main_process)
except PetrflowError as error:
    sys.exit(f"The configuration has a mistake.\n{error}")

# Asking for a report or a picture of the DAG names no cores.
CORES = workflow.resource_settings.cores or os.cpu_count()
ENVIRONMENT = f"{workflow.basedir}/envs/{CONFIG['environment']}.yaml"
CPU_ENVIRONMENT = f"{workflow.basedir}/envs/cpu.yaml"
CAPTIONS = {name: workflow.current_basedir.join(f"../report/{name}.rst") for name in hooks.CAPTIONS}

if workflow.is_main_process:
    hooks.attach(workflow, PLAN)


def one_of(names):
    """A wildcard constraint: exactly these names, or none at all."""
    return "|".join(re.escape(name) for name in sorted(names)) or "(?!)"


wildcard_constraints:
    run=one_of(CONFIG["runs"]),
    dataset=one_of(CONFIG["datasets"]),
    split=one_of(["train", "val"]),
    key="[0-9a-f]{12}",
    fingerprint="[0-9a-f]{16}",


# Inputs and outputs of all rules are receipts: see workflow/plan.py and workflow/targets.py.


def receipts(*names):
    """Receipts of every stage of some names."""
    return [str(stage.receipt) for stage in PLAN.all() if stage.name in names or stage.kind in names]


def stage_of(name):
    """A function that gives the stage of a rule's job; names may hold the job's wildcards."""

    def find(wildcards):
        subject = wildcards.get("run") or wildcards.get("dataset") or wildcards.get("key") or name
        return PLAN.stage(name.format(**wildcards), subject)

    return find


def before(name):
    """An input function: receipts of the stages whose results a stage reads."""
    return lambda wildcards: PLAN.inputs(name.format(**wildcards), stage_of(name)(wildcards).subject)


def order(name):
    """What the job is to make, and of what: goes into the receipt."""
    return lambda wildcards: stage_of(name)(wildcards).order()


def log_of(name):
    """The job's log. No `log:` of the rule: Snakemake would want the fingerprint in its name."""
    return lambda wildcards: str(stage_of(name)(wildcards).log)


def arguments(name):
    """What the stage's function is called with."""
    return lambda wildcards: PLAN.arguments(name.format(**wildcards), stage_of(name)(wildcards).subject)


def gpus(wildcards):
    """GPUs that a run takes: `auto` counts as one, so that two runs never meet on it."""
    schedule = CONFIG["runs"][wildcards.run]["schedule"]
    return 0 if schedule["device"] == "cpu" else schedule["devices"]


def shown_in_report(wildcards):
    """Results that `snakemake --report` shows, as inputs of what it is asked for: no rule declares them as outputs."""
    return [] if workflow.execution_settings is not None else hooks.report_inputs(PLAN, CAPTIONS)


onstart:
    hooks.before_first_job(workflow, PLAN, MODELS, gpus)


onerror:
    hooks.after_failure(workflow, PLAN)
