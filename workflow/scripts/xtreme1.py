"""Turn an Xtreme1 export into a nuScenes root, and let the doctor look at it before anything is built on it."""

from pathlib import Path

from petrflow.doctor.examine import examine
from petrflow.sources.xtreme1.prepare import prepare
from rule_job import rule_job

with rule_job(snakemake):
    root = Path(snakemake.output.complete).parent
    prepare(snakemake.params.dataset, root)
    if snakemake.params.dataset["doctor"]:
        examine(root, Path("results") / snakemake.wildcards.dataset / "doctor")
