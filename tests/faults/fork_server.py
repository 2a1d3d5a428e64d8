"""Start a training in a moment instead of in the seconds that importing Paddle takes: a process that has imported it forks one a line.

``python fork_server.py`` reads JSON lines ``{"request": path, "log": path, "fault": {...}, "parts": "fake" | "real"}`` and answers each
with ``{"pid": n}`` when the training has begun and ``{"status": n}`` when it has ended (exit code, or minus the signal).

A fault is ``{"at": name of a function in POINTS, "count": n, "when": "before" | "after", "signal": "KILL" | "TERM"}``: the training
sends itself the signal around its n-th call of that function.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[2]))

import visualdl  # noqa: F401

import petrflow.evaluation.evaluate
import petrflow.model  # noqa: F401
from petrflow.training import parts as training_parts
from petrflow.training import train
from tests.helpers import fake_training

POINTS = {
    "step": ("tests.helpers.fake_training", "FakeModel.losses"),
    "update": ("paddle.optimizer", "AdamW.step"),
    "step of any model": ("petrflow.training.train", "take_step"),
    "submission": ("petrflow.evaluation.evaluate", "write_submission"),
    "evaluation": ("tests.helpers.fake_training", "FakeModel.forward"),
    "snapshot": ("petrflow.training.train", "capture"),
    "checkpoint bytes": ("petrflow.training.checkpoint", "_chunks"),
    "fsync": ("os", "fsync"),
    "rename": ("os", "replace"),
    "removal": ("petrflow.training.checkpoint", "remove"),
    "scalars": ("petrflow.training.log", "Scalars.add"),
    "weights file": ("petrflow.weights.pdparams", "save_pdparams"),
    "folder rename": ("pathlib", "Path.rename"),
}


def arm(at: str, count: int, when: str = "before", **options: Any) -> None:
    """Make this process signal itself around the ``count``-th call of a function."""
    module, name = POINTS[at]
    owner: Any = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    original = getattr(owner, last)
    calls = 0

    def faulty(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        hit = calls == count
        if hit and when == "before":
            os.kill(os.getpid(), getattr(signal, "SIG" + options.get("signal", "KILL")))
        result = original(*arguments, **keywords)
        if hit and when == "after":
            os.kill(os.getpid(), getattr(signal, "SIG" + options.get("signal", "KILL")))
        return result

    setattr(owner, last, faulty)


def run(order: dict[str, Any]) -> int:
    """Train in this (forked) process."""
    os.setsid()
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    plain = train.train
    make_parts = fake_training.fake_parts if order.get("parts", "fake") == "fake" else training_parts.petrflow_parts
    train.train = lambda request: plain(request, make_parts)
    if order.get("fault"):
        arm(**order["fault"])
    return train.main(["--request", order["request"]])


def main() -> None:
    """Serve until the input ends."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = run(json.loads(line))
            except SystemExit as stop:
                code = int(stop.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                # not os._exit at once: the writer of a checkpoint may be at work, and a real interpreter waits for it
                import threading

                for thread in threading.enumerate():
                    if thread.name == "checkpoint":
                        thread.join()
                os._exit(code)
        print(json.dumps({"pid": child}), flush=True)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main()
