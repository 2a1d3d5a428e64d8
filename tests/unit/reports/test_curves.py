"""The curves that training leaves are what VisualDL serves, and the tunnel points at the port that is served."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from petrflow.errors import PetrflowError
from petrflow.reports import curves as visualdl
from petrflow.training.log import Scalars


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _get(port: int, path: str) -> Any:
    # The server (2.5.3) answers 500 to a client without this header; browsers send it.
    request = urllib.request.Request(f"http://localhost:{port}{path}", headers={"Accept-Language": "en"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()


def test_the_page_is_served_with_the_scalars_that_training_wrote(tmp_path: Path) -> None:
    scalars = Scalars()
    for step in range(1, 6):
        scalars.add(step, {"Training/loss": 10.0 / step})
    log = tmp_path / "run" / "train" / "visualdl"
    log.mkdir(parents=True)
    scalars.mirror(log)
    scalars.close()
    port = _free_port()
    command = [sys.executable, "-m", "petrflow.reports.curves", "--logdir", str(tmp_path), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    page = _get(port, "/app/scalar")
                    break
                except OSError:
                    assert server.poll() is None and time.monotonic() < deadline
                    time.sleep(0.3)
            assert b"VisualDL" in page
            tags = json.loads(_get(port, "/app/api/scalar/tags"))["data"]
            assert tags["tags"] == [["Training/loss"]]
            (run,) = tags["runs"]
            rows = json.loads(_get(port, f"/app/api/scalar/list?run={run}&tag=Training/loss"))["data"]
            assert [row[1] for row in rows] == [1, 2, 3, 4, 5]
            assert [row[2] for row in rows] == pytest.approx([10.0, 5.0, 10 / 3, 2.5, 2.0], rel=1e-5)
        finally:
            server.terminate()
            said = server.communicate(timeout=20)[0]
    assert f"http://localhost:{port}/app" in said and f"-L {port}:localhost:{port}" in said


def test_the_tunnel_names_the_address_and_port_that_ssh_came_in_by() -> None:
    command = visualdl.tunnel_command(8040, {"SSH_CONNECTION": "10.0.0.9 50000 203.0.113.7 30022"})
    assert command.startswith("ssh -p 30022 -N -L 8040:localhost:8040 ") and command.endswith("@203.0.113.7")
    assert "ADDRESS-OF-THIS-MACHINE" in visualdl.tunnel_command(8040, {})


def test_a_taken_port_is_one_sentence_with_the_remedy() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PetrflowError, match="make visualdl PORT="):
            visualdl.check_port("127.0.0.1", taken.getsockname()[1])
