"""Run a run's exported model over a validation scene and draw predicted and true boxes."""

from rule_job import rule_job

with rule_job(snakemake) as order:
    from petrflow import stages

    stages.demo(order=order, **snakemake.params.arguments)
