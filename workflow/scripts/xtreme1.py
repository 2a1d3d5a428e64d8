"""Turn an Xtreme1 export into a nuScenes root, and have the doctor look at it."""

from pathlib import Path

from petrflow.doctor import examine
from petrflow.xtreme1 import prepare
from rule_job import rule_job

with rule_job(snakemake):
    root = Path(snakemake.output.complete).parent
    prepare(snakemake.params.dataset, root)
    if snakemake.params.dataset.get("doctor", True):
        examine(root, root / "doctor")
