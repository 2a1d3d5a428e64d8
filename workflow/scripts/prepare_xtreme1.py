"""Turn an Xtreme1 export into a nuScenes root, and let the doctor look at it before anything is
built on it.
"""

from rule_job import rule_job

with rule_job(snakemake) as order:
    from petrflow import stages

    stages.xtreme1(snakemake.config["datasets"][snakemake.wildcards.dataset], order=order, **snakemake.params.arguments)
