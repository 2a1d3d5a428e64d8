"""Fetch published weights, check their checksum and that they hold arrays and nothing else."""

from pathlib import Path

from petrflow.fetch.download import fetch
from petrflow.weights.pdparams import load_pdparams
from rule_job import rule_job

with rule_job(snakemake):
    fetch(snakemake.params.source, Path(snakemake.output[0]), check=load_pdparams)
