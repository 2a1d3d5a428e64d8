"""Fetch published weights, check their checksum and that they hold arrays and nothing else."""

from rule_job import rule_job

with rule_job(snakemake) as order:
    from petrflow import stages

    from source_marks import weights_source

    source = weights_source(snakemake.config, snakemake.wildcards.key)
    stages.weights(source, config=snakemake.config, order=order, **snakemake.params.arguments)
