"""Export a run's best model and prove that it computes what the eager one does."""

from pathlib import Path

from petrflow.stages import export
from rule_job import rule_job, schedule_of

with rule_job(snakemake):
    export(
        model_file=Path(snakemake.input.model),
        weights=Path(snakemake.input.best),
        store_path=Path(snakemake.input.store),
        root=Path(snakemake.input.complete).parent,
        out_dir=Path(snakemake.output.parity).parent,
        schedule=schedule_of(snakemake),
    )
