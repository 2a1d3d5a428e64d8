"""Check a nuScenes root's images and build the annotation stores of both splits from its tables,
which are read once.
"""

from rule_job import rule_job

with rule_job(snakemake) as order:
    from petrflow import stages

    stages.annotate(order=order, **snakemake.params.arguments)
