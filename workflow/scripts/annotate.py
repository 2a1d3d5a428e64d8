"""Build the annotation stores of both splits from a nuScenes root's tables, which are read once."""

from pathlib import Path

from petrflow.annotations import build_all
from rule_job import rule_job

with rule_job(snakemake):
    build_all(Path(snakemake.input.complete).parent, {split: Path(path) for split, path in snakemake.output.items()})
