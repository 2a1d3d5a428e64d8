"""Turn an Xtreme1 export into a nuScenes root."""

from pathlib import Path

from petrflow.xtreme1 import import_export
from rule_job import rule_job

with rule_job(snakemake):
    import_export(Path(snakemake.output.complete).parent, snakemake.params.dataset)
