"""Say in one table what this machine is good for and whether it fits the config."""

from rule_job import rule_job

with rule_job(snakemake):
    from petrflow import stages

    stages.preflight(snakemake.config, snakemake.params.models)
