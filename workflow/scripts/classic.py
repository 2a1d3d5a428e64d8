"""Write one split's annotations as the pickle that stock Paddle3D reads, from the store."""

from pathlib import Path

from petrflow.annotations import write_classic
from rule_job import rule_job

with rule_job(snakemake):
    write_classic(Path(snakemake.input.complete).parent, Path(snakemake.input.store), Path(snakemake.output.pkl))
