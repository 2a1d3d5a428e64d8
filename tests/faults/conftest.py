"""Fixtures of the fault tests: trainings that start in a moment and end by accident."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


class Trainings:
    """Trainings of one test, forked from a process that has Paddle imported."""

    def __init__(self) -> None:
        self.under_way = False
        self.server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fork_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        )

    def start(self, folder: Path, fault: dict[str, Any] | None = None, parts: str = "fake") -> int:
        """Start the training that ``folder`` describes; return its process id."""
        order = {
            "request": str(folder / "request.json"),
            "log": str(folder / "log.txt"),
            "fault": fault,
            "parts": parts,
        }
        assert self.server.stdin and self.server.stdout
        if self.under_way:  # a test failed before it heard of its training's end
            self.wait()
        self.under_way = True
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        return int(json.loads(self.server.stdout.readline())["pid"])

    def wait(self) -> int:
        """Return the exit status of the training under way; minus the signal when it was killed."""
        assert self.server.stdout
        self.under_way = False
        return int(json.loads(self.server.stdout.readline())["status"])

    def run(self, folder: Path, fault: dict[str, Any] | None = None, parts: str = "fake") -> int:
        """Train; return the exit status."""
        self.start(folder, fault, parts)
        return self.wait()


@pytest.fixture(scope="session")
def trainings() -> Iterator[Trainings]:
    """Starts trainings from their request files."""
    trainings = Trainings()
    yield trainings
    assert trainings.server.stdin
    trainings.server.stdin.close()
    trainings.server.wait(10)


@pytest.fixture(scope="session")
def calm(trainings: Trainings, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Returns the results of a training of the same settings that nothing happened to."""
    from tests.helpers.fake_training import make_request, results

    known: dict[str, dict[str, Any]] = {}

    def get(model: dict[str, Any] | None = None, **schedule: Any) -> dict[str, Any]:
        key = json.dumps([model, schedule], sort_keys=True)
        if key not in known:
            folder = tmp_path_factory.mktemp("calm")
            make_request(folder, model, **schedule)
            assert trainings.run(folder) == 0, (folder / "log.txt").read_text()
            known[key] = results(folder)
        return known[key]

    return get
