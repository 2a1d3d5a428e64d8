"""Check a nuScenes root's images and build the annotation stores of both splits from its tables, which are read once."""

from pathlib import Path

from petrflow.annotations import annotate
from rule_job import rule_job

with rule_job(snakemake):
    annotate(
        Path(snakemake.input.complete).parent,
        {split: Path(snakemake.output[split]) for split in ("train", "val")},
    )
