"""Export a run's best model and prove that it computes what the eager one does."""

from rule_job import rule_job

with rule_job(snakemake) as order:
    from petrflow import stages

    stages.export(order=order, **snakemake.params.arguments)
