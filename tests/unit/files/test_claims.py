"""One writer for a folder that several machines reach, where locks do not pass between them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from petrflow.errors import Locked
from petrflow.files import claims
from petrflow.files.claims import OWNER_FILE, claim

BEAT = 0.1


def elsewhere(folder: Path, beat: int = 1) -> None:
    """An owner on another machine."""
    owner = {"owner": "0badcafe-17-99-a1", "beat": beat, "host": "far", "pid": 17, "job": "42"}
    (folder / OWNER_FILE).write_text(json.dumps(owner))


def test_a_claim_leaves_nothing_behind(tmp_path: Path) -> None:
    with claim(tmp_path, BEAT) as mine:
        mine.require()
        assert json.loads((tmp_path / OWNER_FILE).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_live_process_of_this_machine_is_not_replaced(tmp_path: Path) -> None:
    with claim(tmp_path, BEAT), pytest.raises(Locked, match=f"process {os.getpid()}"), claim(tmp_path, BEAT):
        pass


def test_a_dead_process_of_this_machine_is_replaced_at_once(tmp_path: Path) -> None:
    code = f"import os, pathlib; from petrflow.files.claims import claim; c = claim(pathlib.Path({str(tmp_path)!r})); c.__enter__(); os._exit(0)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / OWNER_FILE).exists()
    start = time.monotonic()
    with claim(tmp_path, 60.0):
        assert time.monotonic() - start < 30.0


def test_a_silent_owner_elsewhere_is_replaced(tmp_path: Path) -> None:
    elsewhere(tmp_path)
    with claim(tmp_path, BEAT) as mine:
        mine.require()


def test_a_beating_owner_elsewhere_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(tmp_path)
    sleep = time.sleep

    def beat(seconds: float) -> None:
        elsewhere(tmp_path, beat=2)
        sleep(seconds)

    monkeypatch.setattr(claims.time, "sleep", beat)
    with pytest.raises(Locked, match=r"process 17 on far \(Slurm job 42\), which is alive"), claim(tmp_path, BEAT):
        pass


def test_who_was_replaced_writes_no_more(tmp_path: Path) -> None:
    with claim(tmp_path, 60.0) as mine:
        elsewhere(tmp_path)
        with pytest.raises(Locked, match="taken over by process 17 on far"):
            mine.require()
    assert json.loads((tmp_path / OWNER_FILE).read_text())["host"] == "far", "the other one's file was taken away"


# ------------------------------------------------------------------------------------------------ two real mounts

WRITER = """
import sys, time
from pathlib import Path
from petrflow.files import lock
from petrflow.files.claims import claim
folder = Path(sys.argv[1])
with lock(folder / "lock"):
    print("locked", flush=True)
    with claim(folder, 0.3) as mine:
        print("owner", flush=True)
        while not (folder / "end").exists():
            mine.require()
            (folder / sys.argv[2]).write_text(str(time.monotonic_ns()))
            time.sleep(0.05)
"""


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[list[Path]]:
    """One folder, mounted twice: each mount has locks of its own."""
    if os.geteuid() != 0 or not Path("/dev/fuse").exists() or shutil.which("bindfs") is None:
        pytest.skip("two mounts of one folder need root, /dev/fuse and bindfs")
    (tmp_path / "folder").mkdir()
    mounted = [tmp_path / "first", tmp_path / "second"]
    done = []
    try:
        for path in mounted:
            path.mkdir()
            if subprocess.run(
                ["bindfs", "--no-allow-other", tmp_path / "folder", path], capture_output=True, check=False
            ).returncode:
                pytest.skip("bindfs cannot mount here")
            done.append(path)
        yield mounted
    finally:
        for path in done:
            subprocess.run(["umount", "-l", path], check=False)


def start(mount: Path, name: str, new_machine: bool) -> subprocess.Popen[str]:
    """Start a writer, with host name and process numbers of its own where it stands for another machine."""
    command = [sys.executable, "-c", WRITER, str(mount), name]
    if new_machine:
        command = [
            "unshare",
            "--uts",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            'hostname other; exec "$@"',
            "-",
            *command,
        ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_machines_whose_locks_do_not_meet_never_both_write(mounts: list[Path], tmp_path: Path) -> None:
    first = start(mounts[0], "by-first", new_machine=False)
    try:
        assert [first.stdout.readline().strip() for _ in range(2)] == ["locked", "owner"]
        second = start(mounts[1], "by-second", new_machine=True)
        out, error = second.communicate(timeout=60)
        assert "locked" in out, "the lock passed between the mounts: this test shows nothing here"
        assert "is alive: wait for it" in error and second.returncode
        assert not (tmp_path / "folder" / "by-second").exists()

        first.send_signal(signal.SIGSTOP)
        third = start(mounts[1], "by-third", new_machine=True)
        assert [third.stdout.readline().strip() for _ in range(2)] == ["locked", "owner"]
        written = (tmp_path / "folder" / "by-first").read_text()
        first.send_signal(signal.SIGCONT)
        _, error = first.communicate(timeout=60)
        assert "taken over by process" in error and first.returncode
        assert (tmp_path / "folder" / "by-first").read_text() == written, "it wrote after it was replaced"
        (tmp_path / "folder" / "end").touch()
        assert third.wait(30) == 0
    finally:
        for each in (first,):
            if each.poll() is None:
                each.send_signal(signal.SIGCONT)
                each.kill()
