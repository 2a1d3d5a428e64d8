"""Run a run's exported model over a validation scene and draw predicted and true boxes."""

from pathlib import Path

from petrflow.stages import demo
from rule_job import rule_job, schedule_of

with rule_job(snakemake):
    demo(
        model_file=Path(snakemake.input.model),
        exported=Path(snakemake.input.parity).parent,
        store_path=Path(snakemake.input.store),
        root=Path(snakemake.input.complete).parent,
        out_dir=Path(snakemake.output.video).parent,
        schedule=schedule_of(snakemake),
        settings=snakemake.params.demo,
    )
