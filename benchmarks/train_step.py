"""Time a training step (forward, losses, backward) against stock Paddle3D's, with the same weights on the same batch.

    python benchmarks/train_step.py                        # the tiny model, then the published one at 800x320
    python benchmarks/train_step.py petrv2_tiny --steps 20

Both sides run in processes of their own and take turns, so that whatever else the machine does falls on both alike. Dropout,
GridMask and what stock does not know (the dense head, a previous frame without gradient) are off: the two sides then
compute the same numbers, which the last line of each model says. Stock gets FLAGS_use_stride_kernel=0, without which it corrupts its heap.
On AMD processors stock runs twice: as pip installs it (``stock_seconds``, ``ratio``), and with the switch for MKL that petrflow sets
(petrflow/blas.py; ``switched_stock_seconds``, ``switched_ratio``). Losses and gradients are compared with the latter's, whose matrix products
round alike; on other processors there is no switch.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def comparable(model_config: dict[str, Any]) -> dict[str, Any]:
    """Return the model file without what draws at random or what stock does not know."""
    from tests.helpers.models import OUR_HEAD_KEYS

    config = json.loads(json.dumps(model_config))
    model = config["model"]
    model["use_grid_mask"] = False
    model["previous_frame_gradient"] = True
    for ours in OUR_HEAD_KEYS:
        model["pts_bbox_head"].pop(ours, None)
    layer = model["pts_bbox_head"]["transformer"]["decoder"]["transformerlayers"]
    layer["ffn_dropout"] = 0.0
    for attention in layer["attns"]:
        attention.update(attn_drop=0.0, drop_prob=0.0)
    return config


def work(side: str, folder: Path) -> None:
    """Answer each line of standard input with the seconds of one step; leave losses and gradients in ``folder``."""
    from tests.helpers.stock_model import build_stock, stock_samples

    request = pickle.loads((folder / "request.pkl").read_bytes())
    if side != "ours":
        model = build_stock(request["model_config"], request["cameras"])
        prepare, losses_of = stock_samples, lambda samples: model(samples)["loss"]
    else:
        from petrflow.model import build_model

        model = build_model(request["model_config"], request["cameras"])
        prepare, losses_of = dict, model.losses
    state = model.state_dict()
    for name, value in np.load(folder / "weights.npz").items():
        state[name].set_value(value)
    model.train()
    saved = False
    print("ready", flush=True)
    for _ in sys.stdin:
        inputs = prepare(request["batch"])
        start, used = time.perf_counter(), time.process_time()
        losses = losses_of(inputs)
        sum(losses.values()).backward()
        seconds, used = time.perf_counter() - start, time.process_time() - used
        if not saved:
            gradients = {n: p.grad.numpy() for n, p in model.named_parameters() if p.grad is not None}
            np.savez(folder / f"{side}.npz", **gradients)
            (folder / f"{side}.json").write_text(json.dumps({n: v.item() for n, v in losses.items()}))
            saved = True
        model.clear_gradients()
        print(seconds, used, flush=True)


def start(side: str, folder: Path, flags: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--side", side, "--folder", str(folder)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **flags}
    )
    while _answer(process) != "ready":
        pass
    return process


def _answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{process.args} ended with {process.wait()}")
    return line.strip()


def one_step(process: subprocess.Popen[str]) -> tuple[float, float]:
    """Return the seconds and the CPU seconds of one step."""
    assert process.stdin is not None
    process.stdin.write("step\n")
    process.stdin.flush()
    seconds, used = _answer(process).split()
    return float(seconds), float(used)


def differences(folder: Path, stock_side: str) -> tuple[float, float]:
    """Return the largest relative difference of losses and of gradients from those of one side of stock.

    A gradient's difference is relative to the largest gradient of its parameter or to a thousandth of the largest of
    all, whichever is larger: some biases have gradients that are zero but for rounding.
    """
    losses = [json.loads((folder / f"{side}.json").read_text()) for side in (stock_side, "ours")]
    if losses[0].keys() != losses[1].keys():
        raise SystemExit(f"The sides name different losses: {sorted(losses[0].keys() ^ losses[1].keys())}")
    loss = max(abs(losses[1][name] - value) / max(abs(value), 1e-6) for name, value in losses[0].items())
    stock, ours = (np.load(folder / f"{side}.npz") for side in (stock_side, "ours"))
    if set(stock) != set(ours):
        raise SystemExit(f"The sides train different parameters: {sorted(set(stock) ^ set(ours))}")
    largest = max(float(np.abs(stock[name]).max()) for name in stock)
    gradient = 0.0
    for name in stock:
        scale = max(float(np.abs(stock[name]).max()), 1e-3 * largest)
        gradient = max(gradient, float(np.abs(stock[name] - ours[name]).max()) / scale)
    return loss, gradient


def measure(name: str, steps: int, batch_size: int, cameras: int) -> dict[str, Any]:
    """Time one model file and return the line of JSON."""
    import paddle

    from petrflow.machine.mkl import SWITCH
    from petrflow.model import build_model
    from tests.helpers.models import fake_batch, read_model_config

    config = comparable(read_model_config(name))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paddle.seed(0)
        weights = {key: value.numpy() for key, value in build_model(config).state_dict().items()}
        np.savez(folder / "weights.npz", **weights)
        request = {
            "model_config": config,
            "cameras": cameras,
            "batch": fake_batch(config, batch_size=batch_size, cameras=cameras, boxes=30),
        }
        (folder / "request.pkl").write_bytes(pickle.dumps(request))
        alive = {"FLAGS_use_stride_kernel": "0"}
        flags = {"stock": {**alive, SWITCH: ""}, "switched": alive, "ours": {}}
        if SWITCH not in os.environ:  # petrflow has set it by now where it makes a difference
            del flags["switched"]
        seconds: dict[str, list[tuple[float, float]]] = {side: [] for side in flags}
        # A model that takes a single step is one that memory does not hold three times.
        groups = [[side] for side in flags] if steps == 1 else [list(flags)]
        for group in groups:
            sides = {side: start(side, folder, flags[side]) for side in group}
            for step in range(steps + (steps > 1)):
                for side, process in sides.items():
                    taken = one_step(process)
                    if step or steps == 1:  # the first step warms up, unless it is all there is time for
                        seconds[side].append(taken)
                    print(f"{name} step {step} {side}: {taken[0]:.3f} s, {taken[1]:.3f} s of CPU", file=sys.stderr)
            for process in sides.values():
                process.communicate()
        alike = "switched" if "switched" in flags else "stock"
        loss, gradient = differences(folder, alike)
    taken, used = ({side: statistics.median(pair[k] for pair in seconds[side]) for side in flags} for k in (0, 1))
    return {
        "model": name,
        "batch_size": batch_size,
        "cameras": cameras,
        "stock_seconds": round(taken["stock"], 4),
        "seconds": round(taken["ours"], 4),
        "ratio": round(taken["stock"] / taken["ours"], 3),
        "switched_stock_seconds": round(taken[alike], 4),
        "switched_ratio": round(taken[alike] / taken["ours"], 3),
        "cpu_seconds": {side: round(value, 4) for side, value in used.items()},
        "max_rel_loss_diff": float(f"{loss:.2g}"),
        "max_rel_grad_diff": float(f"{gradient:.2g}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["petrv2_tiny", "petrv2_vovnet_gridmask_p4_800x320"])
    parser.add_argument("--steps", type=int, default=10, help="timed steps of a tiny model; the published one takes 1")
    parser.add_argument("--cameras", type=int, default=6, help="of one frame")
    parser.add_argument("--side", choices=("stock", "switched", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        work(arguments.side, arguments.folder)
        return
    lines = []
    for name in arguments.models:
        tiny = "tiny" in name
        lines.append(measure(name, arguments.steps if tiny else 1, 2 if tiny else 1, arguments.cameras))
    print(
        f"{'model':34} {'stock s':>8} {'s':>8} {'ratio':>6} {'switched s':>10} {'ratio':>6} {'loss diff':>10} {'grad diff':>10}"
    )
    for line in lines:
        print(
            f"{line['model']:34} {line['stock_seconds']:8.3f} {line['seconds']:8.3f} {line['ratio']:6.2f} "
            f"{line['switched_stock_seconds']:10.3f} {line['switched_ratio']:6.2f} "
            f"{line['max_rel_loss_diff']:10.1e} {line['max_rel_grad_diff']:10.1e}"
        )
    for line in lines:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
