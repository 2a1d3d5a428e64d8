"""Score a run's weights on the validation split before any training; without weights, those that
training starts from.
"""

from rule_job import rule_job

with rule_job(snakemake) as order:
    from petrflow import stages

    stages.baseline(order=order, **snakemake.params.arguments)
