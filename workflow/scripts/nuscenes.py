"""Bring nuScenes, or data in its form, to its place: linked from a folder, or fetched, extracted and verified."""

from pathlib import Path

from petrflow.sources.nuscenes import prepare
from rule_job import rule_job

with rule_job(snakemake):
    prepare(snakemake.config["datasets"][snakemake.wildcards.dataset], Path(snakemake.output.complete).parent)
