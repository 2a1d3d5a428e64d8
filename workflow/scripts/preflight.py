"""Print what this machine is good for, and fail when it cannot do what the config asks for."""

from pathlib import Path

import yaml

from petrflow.preflight import main
from rule_job import rule_job

with rule_job(snakemake):
    models = {run: yaml.safe_load(Path(path).read_text()) for run, path in snakemake.params.models.items()}
    main(snakemake.params.config, models)
