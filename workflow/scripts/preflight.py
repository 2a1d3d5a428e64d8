"""Say in one table what this machine is good for and whether it fits the config."""

from pathlib import Path

from petrflow.config import load_yaml
from petrflow.preflight import main
from rule_job import rule_job

with rule_job(snakemake):
    main(snakemake.params.config, {run: load_yaml(Path(path)) for run, path in snakemake.params.models.items()})
