"""Train a run from its weights, or go on from its last checkpoint in results/{run}/state."""

import sys
from pathlib import Path

from petrflow.stages import train
from rule_job import rule_job, schedule_of

with rule_job(snakemake):
    out_dir = Path(snakemake.output.history).parent
    state_dir = out_dir.parent / "state"
    code = train(
        state_dir / "request.json",
        run=snakemake.wildcards.run,
        model_config=Path(snakemake.input.model),
        schedule=schedule_of(snakemake),
        train_store=Path(snakemake.input.train),
        val_store=Path(snakemake.input.val),
        root=Path(snakemake.input.complete).parent,
        state_dir=state_dir,
        out_dir=out_dir,
        weights=Path(snakemake.input.weights) if snakemake.input.weights else None,
    )
    sys.exit(code)
