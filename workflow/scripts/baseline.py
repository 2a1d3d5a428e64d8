"""Score a run's weights on the validation split before any training; without weights, those that training starts from."""

from pathlib import Path

from petrflow.stages import baseline
from rule_job import rule_job, schedule_of

with rule_job(snakemake):
    baseline(
        model_file=Path(snakemake.input.model),
        weights=Path(snakemake.input.weights) if snakemake.input.weights else None,
        store_path=Path(snakemake.input.store),
        root=Path(snakemake.input.complete).parent,
        out_dir=Path(snakemake.output.metrics).parent,
        schedule=schedule_of(snakemake),
        expect=snakemake.params.expect,
    )
