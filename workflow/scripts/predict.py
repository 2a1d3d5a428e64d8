"""Run a run's trained model over a data set and leave what it finds."""

from rule_job import rule_job

with rule_job(snakemake) as order:
    from petrflow import stages

    stages.predict(order=order, **snakemake.params.arguments)
