"""Fetch published weights, check their checksum and that they hold arrays and nothing else."""

from pathlib import Path

from petrflow.fetch.download import fetch, public
from petrflow.weights.pdparams import load_pdparams
from rule_job import rule_job

with rule_job(snakemake):
    # The parameter's addresses are public; the config has them with their tokens.
    wanted = [
        run["weights"] for run in snakemake.config["runs"].values() if public(run["weights"]) == snakemake.params.source
    ]
    fetch(wanted[0], Path(snakemake.output[0]), check=load_pdparams)
