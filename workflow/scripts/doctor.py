"""Look at a data set's labels against its calibration and images, and say whether training on it makes sense."""

from pathlib import Path

from petrflow.doctor.examine import examine
from rule_job import rule_job

with rule_job(snakemake):
    stores = {"train": Path(snakemake.input.train), "val": Path(snakemake.input.val)}
    examine(Path(snakemake.input.complete).parent, Path(snakemake.output.report).parent, stores)
