"""Build the annotation store of one split from a nuScenes root's tables."""

from pathlib import Path

from petrflow.annotations import build
from rule_job import rule_job

with rule_job(snakemake):
    build(Path(snakemake.input.complete).parent, snakemake.wildcards.split, Path(snakemake.output.store))
