"""Write the averaged gradients of the first step of a request, from this process's share of the batch, and its share of the val split."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from petrflow.evaluation.evaluate import predict_share
from petrflow.machine import processes
from petrflow.machine.device import use_device
from petrflow.training.parts import petrflow_parts
from petrflow.training.request import Request

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--request", type=Path)
    path = parser.parse_args().request
    request = Request.read(path)
    processes.initialize(use_device(request.settings.device))
    parts = petrflow_parts(request)
    parts.model.train()
    parts.model.seed_step(0, 0, 0)
    losses = parts.model.losses(next(iter(parts.loader.epoch(0))))
    sum(losses.values()).backward()
    processes.average_gradients([p for p in parts.model.parameters() if not p.stop_gradient])
    rank = processes.rank()
    gradients = {name: p.grad.numpy() for name, p in parts.model.named_parameters() if p.grad is not None}
    np.savez(path.with_name(f"gradients-{rank}.npz"), **gradients)
    tokens = sorted(
        predict_share(
            parts.model,
            request.val_store,
            request.root,
            request.model_config,
            request.settings.batch_size,
            request.settings.num_workers,
        )
    )
    path.with_name(f"tokens-{rank}.json").write_text(json.dumps(tokens))
