"""Write the page over all runs."""

from pathlib import Path

from petrflow.reports.page import write_report
from rule_job import rule_job

with rule_job(snakemake):
    runs = snakemake.params.runs
    write_report({name: Path("results") / name for name in runs}, Path(snakemake.output[0]), runs)
