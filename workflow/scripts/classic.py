"""Write one split's annotations as the pickle that stock Paddle3D reads, from the store."""

from rule_job import rule_job

with rule_job(snakemake) as order:
    from petrflow import stages

    stages.classic(order=order, **snakemake.params.arguments)
