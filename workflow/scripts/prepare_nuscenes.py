"""Bring nuScenes, or data in its form, to its place: linked from a folder, or fetched, extracted
and verified.
"""

from rule_job import rule_job

with rule_job(snakemake) as order:
    from petrflow import stages

    stages.nuscenes(
        snakemake.config["datasets"][snakemake.wildcards.dataset], order=order, **snakemake.params.arguments
    )
