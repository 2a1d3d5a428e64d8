"""Train a run from its weights, or go on from its last checkpoint in results/{run}/state."""

from rule_job import rule_job

with rule_job(snakemake) as order:
    from petrflow import stages

    stages.train(order=order, **snakemake.params.arguments)
