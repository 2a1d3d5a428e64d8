"""Write the averaged gradients of the first step of a request, from this process's share of the batch, and its share of the val split."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from petrflow.machine import processes
from petrflow.machine.device import use_device
from petrflow.training_parts import _predict_share, petrflow_parts
from petrflow.training_request import Request

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--request", type=Path)
    path = parser.parse_args().request
    request = Request.read(path)
    use_device(request.settings.device)
    processes.initialize()
    parts = petrflow_parts(request)
    parts.model.train()
    parts.model.seed_step(0, 0, 0)
    losses = parts.model.losses(next(iter(parts.loader.epoch(0))))
    sum(losses.values()).backward()
    processes.average_gradients([p for p in parts.model.parameters() if not p.stop_gradient])
    rank = processes.rank()
    gradients = {name: p.grad.numpy() for name, p in parts.model.named_parameters() if p.grad is not None}
    np.savez(path.with_name(f"gradients-{rank}.npz"), **gradients)
    tokens = sorted(_predict_share(request, parts.model))
    path.with_name(f"tokens-{rank}.json").write_text(json.dumps(tokens))
