"""Write the page over all runs."""

from rule_job import rule_job

with rule_job(snakemake) as order:
    from petrflow import stages

    stages.report(order=order, **snakemake.params.arguments)
