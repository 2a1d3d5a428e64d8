"""Look at a data set's labels against its calibration and images, and say whether training on it
makes sense.
"""

from rule_job import rule_job

with rule_job(snakemake) as order:
    from petrflow import stages

    stages.doctor(order=order, **snakemake.params.arguments)
