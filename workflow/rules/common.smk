# What all rules share: the checked config, names for wildcards, and where a run's model file and weights are.

import os
import sys

sys.path.insert(0, str(Path(workflow.basedir) / "src"))
sys.path.insert(0, str(Path(workflow.basedir) / "workflow"))

import guard
from petrflow import config as settings
from petrflow.errors import PetrflowError
from petrflow.fetch.download import public
from petrflow.files import fingerprint

if workflow.is_main_process:
    guard.enter(Path(".snakemake"))
    guard.pass_signals_on()

# Rules run a Python script and nothing else; without `exec` some shells stay in between and die of signals meant for the script.
shell.prefix("set -euo pipefail; exec ")

try:
    CONFIG = settings.validate(
        config, settings.load_schema(Path(workflow.basedir) / "workflow/schemas/config.schema.yaml")
    )
    config.update(CONFIG)  # scripts see the defaults too
    MODELS = {
        run: settings.model_path(entry["model"], [Path("config/models"), Path(workflow.basedir) / "config/models"])
        for run, entry in CONFIG["runs"].items()
    }
except PetrflowError as error:
    sys.exit(f"The configuration has a mistake.\n{error}")

RUNS = list(CONFIG["runs"])
SPLITS = ["train", "val"]
USED_DATASETS = sorted({run["dataset"] for run in CONFIG["runs"].values()})
# Asking for a report or a picture of the DAG names no cores.
CORES = workflow.resource_settings.cores or os.cpu_count()
ENVIRONMENT = f"{workflow.basedir}/envs/{CONFIG['environment']}.yaml"
CPU_ENVIRONMENT = f"{workflow.basedir}/envs/cpu.yaml"


def one_of(names):
    """A wildcard constraint: exactly these names, or none at all."""
    return "|".join(re.escape(name) for name in sorted(names)) or "(?!)"


wildcard_constraints:
    run=one_of(RUNS),
    dataset=one_of(CONFIG["datasets"]),
    split=one_of(SPLITS),


def dataset(wildcards):
    """The config of a rule's data set, its URLs without what is personal in them: Snakemake prints parameters and keeps them as metadata.
    Scripts find the whole of it in `snakemake.config`."""
    return public(CONFIG["datasets"][wildcards.dataset])


def export_mark(wildcards):
    """Changes when an Xtreme1 export does, whose files are no inputs: there are too many of them."""
    # Imports numpy and Pillow: only where there is such a data set.
    from petrflow.sources.xtreme1.prepare import source_mark

    return source_mark(dataset(wildcards), Path("data") / wildcards.dataset)


def run(wildcards):
    """The config of a rule's run."""
    return CONFIG["runs"][wildcards.run]


def model_file(wildcards):
    return str(MODELS[wildcards.run])


def weights_key(weights):
    """Names fetched weights by address and checksum, not by a token, which may expire and be renewed."""
    return fingerprint(public(weights))[:12]


def weights_file(wildcards):
    """A run's weights as a file: none, a path as it stands, or where a URL is fetched to."""
    weights = run(wildcards)["weights"]
    if isinstance(weights, dict):
        return f"data/weights/{weights_key(weights)}/model.pdparams"
    return weights or []


def store(split):
    """An input function: the annotation store of one split of a run's data set."""
    return lambda wildcards: f"results/{run(wildcards)['dataset']}/annotations/{split}.arrow"


def complete(wildcards):
    return f"data/{run(wildcards)['dataset']}/.complete.json"


def gpus(wildcards):
    """GPUs that a run takes: `auto` counts as one, so that two runs never meet on it."""
    schedule = run(wildcards)["schedule"]
    return 0 if schedule["device"] == "cpu" else schedule["devices"]


EXPENSIVE = {"baseline", "train", "export", "demo"}


onstart:
    jobs = [job for job in workflow.dag.needrun_jobs() if job.rule.name in EXPENSIVE]
    if jobs and workflow.local_exec:
        runs = {job.wildcards.run: CONFIG["runs"][job.wildcards.run] for job in jobs}
        for name in set(runs) - {job.wildcards.run for job in jobs if job.rule.name == "train"}:
            # Evaluating a large model on a CPU is slow, but it ends; only training takes weeks.
            runs[name] = runs[name] | {"schedule": runs[name]["schedule"] | {"allow_slow_cpu": True}}
        offered = workflow.global_resources.get("gpu")
        for job in jobs:
            if offered is not None and gpus(job.wildcards) > offered.value:
                wanted = gpus(job.wildcards)
                sys.exit(
                    f"runs.{job.wildcards.run}.schedule.devices asks for {wanted} GPUs and this workflow was given {offered.value}: "
                    f"add --resources gpu={wanted}, or lower devices. Nothing was started."
                )
        uses_conda = "conda" in {
            str(method.name).lower() for method in workflow.deployment_settings.deployment_method
        }
        python = f"{jobs[0].conda_env.address}/bin/python" if uses_conda else sys.executable
        if not guard.check_machine(CONFIG | {"runs": runs}, MODELS, python):
            sys.exit("Nothing was started.")
