"""Write a run's detections in a data set as results that Xtreme1 takes."""

from rule_job import rule_job

with rule_job(snakemake) as order:
    from petrflow import stages

    stages.prelabel(order=order, **snakemake.params.arguments)
