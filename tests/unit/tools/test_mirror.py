"""`make INDEX=…` installs what the lock names, with its checksums, from an index that the lock does not name.

uv itself installs here. The index that the lock was made with answers nothing any more.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.unit.tools.test_gpu_build import REPOSITORY, UV, wheel

PROJECT = """
[project]
name = "stand-in"
version = "1"
requires-python = ">=3.11,<3.14"
dependencies = ["needed==1"]
[dependency-groups]
slurm = ["cluster==1"]
[tool.uv]
package = false
"""


def write_index(folder: Path) -> None:
    """Write the page of one package: its wheels with their checksums, as PyPI and its mirrors have them."""
    links = [
        f"{path.name}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}" for path in sorted(folder.glob("*.whl"))
    ]
    (folder / "index.html").write_text("".join(f'<a href="{link}">{link.partition("#")[0]}</a>' for link in links))


@contextmanager
def serving(folder: Path, asked: list[str]) -> Iterator[str]:
    """Serve a folder of this machine as an index; note what is asked for."""

    class Noting(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Noting, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/simple"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.skipif(not UV.exists(), reason="uv is not beside this project: it was set up in another way")
def test_the_locked_environment_comes_from_the_mirror_and_stays_with_it(tmp_path: Path) -> None:
    project, served = tmp_path / "project", tmp_path / "served"
    shutil.copytree(REPOSITORY / "tools", project / "tools")
    (project / "pyproject.toml").write_text(PROJECT)
    for name in ("needed", "cluster"):
        wheel(served / "simple", name, "1", name, "")
        wheel(served / "simple", name, "2", name, "")  # newer than the lock: not taken
        write_index(served / "simple" / name)
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "NO_PROXY": "127.0.0.1",
        "UV": str(UV),
        "UV_HTTP_RETRIES": "0",
        "PYTHON": os.path.realpath(sys.executable),
    }

    def set_up(cache: str, **variables: str) -> subprocess.CompletedProcess[str]:
        added = {"UV_CACHE_DIR": str(tmp_path / cache)} | variables
        return subprocess.run(
            ["tools/set_up.sh"], cwd=project, env=environment | added, capture_output=True, text=True, check=False
        )

    def installed() -> set[str]:
        return {path.name for path in (project / ".venv").rglob("*.dist-info")}

    with serving(served, []) as origin:
        subprocess.run(
            [UV, "lock", "--python", environment["PYTHON"], "--default-index", origin],
            cwd=project, env=environment | {"UV_CACHE_DIR": str(tmp_path / "cache-0")}, check=True, capture_output=True,
        )  # fmt: skip
    lock = (project / "uv.lock").read_bytes()
    assert set_up("cache-1").returncode != 0  # the addresses in the lock lead nowhere now

    asked: list[str] = []
    with serving(served, asked) as mirror:
        done = set_up("cache-2", INDEX=mirror)
        assert done.returncode == 0, done.stderr
        assert installed() == {"needed-1.dist-info"}
        assert any(path.endswith("needed-1-py3-none-any.whl") for path in asked)
        again = set_up("cache-3", ADD_GROUPS="slurm")  # the mirror was kept
        assert again.returncode == 0, again.stderr
        assert installed() == {"needed-1.dist-info", "cluster-1.dist-info"}
        assert (project / "uv.lock").read_bytes() == lock

        shutil.rmtree(project / ".venv")
        wheel(served / "simple", "needed", "1", "needed", "another = 'content'")
        write_index(served / "simple" / "needed")
        refused = set_up("cache-4")
        assert refused.returncode != 0
        assert "hash" in refused.stderr.lower()
        assert "needed-1.dist-info" not in installed()


def test_an_index_that_is_no_address_is_refused(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "tools", tmp_path / "tools")
    environment = {"PATH": "/usr/bin:/bin", "INDEX": "tsinghua"}
    done = subprocess.run(
        ["tools/set_up.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("INDEX must be the address of a package index")
    assert len(done.stderr.splitlines()) == 1
