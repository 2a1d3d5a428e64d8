"""Render a synthetic nuScenes root from the config's settings for one data set."""

from rule_job import rule_job

with rule_job(snakemake) as order:
    from petrflow import stages

    stages.synthetic(
        snakemake.config["datasets"][snakemake.wildcards.dataset], order=order, **snakemake.params.arguments
    )
