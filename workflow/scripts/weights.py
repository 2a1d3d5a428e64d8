"""Fetch published weights and check their checksum."""

from pathlib import Path

from petrflow.download import fetch
from rule_job import rule_job

with rule_job(snakemake):
    fetch(snakemake.params.source, Path(snakemake.output[0]))
