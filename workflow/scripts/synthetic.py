"""Render a synthetic nuScenes root from the config's settings for one data set."""

from pathlib import Path

from petrflow.sources.synthetic import generate
from rule_job import rule_job

with rule_job(snakemake):
    generate(Path(snakemake.output.complete).parent, snakemake.params.dataset)
