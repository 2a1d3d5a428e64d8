"""Files appear whole or not at all, locks die with their process, and a full disk is a sentence."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from petrflow.errors import CannotWrite, Locked, PetrflowError
from petrflow.files import (
    atomic,
    atomic_dir,
    atomic_path,
    fingerprint,
    lock,
    locks,
    owners,
    patient_lock,
    read_json,
    require_space,
    sha256_file,
    sweep_stale,
    temporary_path,
    write_atomic,
    write_json,
)
from petrflow.files.provenance import input_fingerprint, provenance


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Run Python in a process of its own and wait for its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


# ------------------------------------------------------------------------------------------------------------------ atomic writes


def test_a_file_is_written_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_atomic(tmp_path / "new" / "a.txt", "äöü")
    write_atomic(tmp_path / "new" / "a.txt", b"again")
    assert (tmp_path / "new" / "a.txt").read_bytes() == b"again"
    assert names(tmp_path / "new") == ["a.txt"]


def test_a_failing_body_leaves_the_old_file_as_it_was(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a.png", "old")
    with pytest.raises(ValueError, match="body"), atomic_path(tmp_path / "a.png") as temporary:
        assert temporary.suffix == ".png"
        temporary.write_text("half")
        raise ValueError("body")
    assert (tmp_path / "a.png").read_text() == "old"
    assert names(tmp_path) == ["a.png"]


def test_a_folder_is_replaced_as_one(tmp_path: Path) -> None:
    for content in ("1", "2"):
        with atomic_dir(tmp_path / "set") as folder:
            (folder / f"file{content}").write_text(content)
    assert names(tmp_path / "set") == ["file2"]
    with pytest.raises(ValueError, match="body"), atomic_dir(tmp_path / "set") as folder:
        (folder / "half").write_text("")
        raise ValueError("body")
    assert names(tmp_path / "set") == ["file2"]
    assert names(tmp_path) == ["set"]


def test_a_name_of_the_longest_length_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 120 + ".json")
    write_json(path, {})
    assert read_json(path) == {}


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    process = start(
        """
        import sys, time
        from pathlib import Path
        from petrflow.files import atomic_dir, atomic_path
        folder = Path(sys.argv[1])
        with atomic_path(folder / "big.bin") as a, atomic_dir(folder / "set") as b:
            a.write_bytes(bytes(1000)); (b / "x").write_text("")
            print("ready", flush=True)
            time.sleep(60)
        """,
        str(tmp_path),
    )
    assert len(names(tmp_path)) == 2
    assert sweep_stale(tmp_path) == []  # its writer lives
    process.send_signal(signal.SIGKILL)
    process.wait()
    write_atomic(tmp_path / "other.txt", "")
    atomic._swept_folders.clear()
    write_atomic(tmp_path / "other.txt", "")
    assert names(tmp_path) == ["other.txt"]


def test_a_folder_that_was_being_replaced_when_its_writer_died_is_put_back(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "precious").write_text("")
    retired = temporary_path(tmp_path / "set", ".old")
    machine, _, _ = retired.name.split(atomic.TEMPORARY_MARK)[1].split("-", 2)
    # The name as a process wrote it that no longer exists.
    (tmp_path / "set").rename(tmp_path / f".set{atomic.TEMPORARY_MARK}{machine}-{2**22 + 5}-77-0.old")
    sweep_stale(tmp_path)
    assert names(tmp_path / "set") == ["precious"]


def test_temporaries_of_another_machine_go_by_age(tmp_path: Path) -> None:
    young, old = (tmp_path / f".{name}{atomic.TEMPORARY_MARK}deadbeef-1-1-0.tmp" for name in ("young", "old"))
    young.write_text("")
    old.write_text("")
    os.utime(old, (time.time() - 2 * owners.FOREIGN_STALE_SECONDS,) * 2)
    (tmp_path / ".petrflow-looks-like-one").write_text("")
    sweep_stale(tmp_path)
    assert names(tmp_path) == [".petrflow-looks-like-one", young.name]


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A disk of two megabytes, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode:
        pytest.skip("this user may not mount a small disk")
    os.sync()
    yield folder  # type: ignore[misc]
    subprocess.run(["umount", str(folder)], check=False)


def test_a_full_disk_is_named_with_path_need_and_what_is_free(small_disk: Path) -> None:
    write_atomic(small_disk / "old.bin", b"old")
    with pytest.raises(
        PetrflowError, match=r"old\.bin: the disk is full; it needs 4,000,000 bytes and [\d,]+ bytes .* are free"
    ):
        write_atomic(small_disk / "old.bin", bytes(4_000_000))
    assert names(small_disk) == ["old.bin"]
    assert (small_disk / "old.bin").read_bytes() == b"old"
    with pytest.raises(PetrflowError, match="the disk is full"), atomic_dir(small_disk / "set") as folder:
        (folder / "large").write_bytes(bytes(4_000_000))
    assert names(small_disk) == ["old.bin"]


def test_a_disk_that_may_only_be_read_is_said_before_the_work(small_disk: Path) -> None:
    (small_disk / "data").mkdir()
    remounted = subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], capture_output=True, check=False)
    if remounted.returncode:
        pytest.skip("this user may not remount a disk")
    for write in (atomic_dir, atomic.atomic_path):
        with pytest.raises(
            PetrflowError, match=r"Could not write .*set: Read-only file system\. Make the folder writable"
        ):
            with write(small_disk / "data" / "set"):
                pytest.fail("the work began")


def test_a_full_disk_is_named_wherever_it_strikes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(PetrflowError, match=r"a\.bin: the disk is full; it needs 3 bytes"):
        write_atomic(tmp_path / "a.bin", b"abc")
    monkeypatch.undo()
    assert names(tmp_path) == []


def test_folders_that_cannot_be_flushed_are_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flush = os.fsync

    def bucket(descriptor: int) -> None:  # as a mounted bucket answers
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        flush(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", bucket)
    write_atomic(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").read_text() == "x"


def test_no_hard_link_is_ever_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", lambda *_arguments: pytest.fail("a hard link"))
    write_atomic(tmp_path / "a", "")
    with atomic_dir(tmp_path / "b"):
        pass
    with lock(tmp_path / "c"):
        pass


def test_too_little_space_is_said_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(PetrflowError, match=r"Unpacking x needs 1024\.0 TB under .* free at least"):
        require_space(tmp_path / "not" / "yet", 1 << 50, "Unpacking x")
    require_space(tmp_path, 1, "a byte")


# ------------------------------------------------------------------------------------------------------------------ JSON, fingerprints


def test_the_same_object_gives_the_same_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": np.float32(1.5), "a": {2, 1}, "p": Path("x"), "n": float("nan")})
    write_json(tmp_path / "b.json", {"n": float("nan"), "p": "x", "a": [1, 2], "b": 1.5})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert sha256_file(tmp_path / "a.json") == sha256_file(tmp_path / "b.json")


def test_equal_settings_have_equal_fingerprints_and_others_do_not() -> None:
    assert fingerprint({"a": 1.0, "b": (1, 2)}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": True})
    assert fingerprint({"a": "1"}) != fingerprint({"a": 1})
    assert fingerprint({"a": None}) != fingerprint({})


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_a_broken_json_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(PetrflowError, match=r"x\.json is not valid JSON"):
        read_json(tmp_path / "x.json")


def test_provenance_appears_only_for_a_stage_that_succeeded(tmp_path: Path) -> None:
    (tmp_path / "input").write_text("x")
    with pytest.raises(ValueError), provenance(tmp_path / "provenance.json", {"file": tmp_path / "input"}):
        raise ValueError
    assert not (tmp_path / "provenance.json").exists()
    with provenance(
        tmp_path / "provenance.json", {"file": tmp_path / "input", "known": "abc"}, {"rate": 1e-4}
    ) as entry:
        entry.device = "gpu:0"
        entry.record(samples=3)
    written = read_json(tmp_path / "provenance.json")
    assert written["inputs"] == {"file": sha256_file(tmp_path / "input"), "known": "abc"}
    assert written["device"] == "gpu:0"
    assert written["extra"] == {"samples": 3}
    assert written["versions"]["numpy"] == np.__version__
    assert written["peak_memory_bytes"] > 10**7
    with pytest.raises(PetrflowError, match="does not exist"):
        input_fingerprint(tmp_path / "gone")


# ------------------------------------------------------------------------------------------------------------------ locks

HOLD = """
import os, sys, time
from pathlib import Path
from petrflow.files import lock
with lock(Path(sys.argv[1])):
    child = os.fork() if len(sys.argv) > 2 else 1
    if child: print(os.getpid(), flush=True)
    time.sleep(60)
"""


def test_a_lock_names_the_process_that_holds_it(tmp_path: Path) -> None:
    process = start(HOLD, str(tmp_path / "lock"))
    with pytest.raises(PetrflowError, match=f"held by process {process.pid} on "), lock(tmp_path / "lock"):
        pass
    process.kill()
    process.wait()
    with lock(tmp_path / "lock"):
        pass


def test_a_kill_frees_the_lock_even_if_a_forked_worker_lives_on(tmp_path: Path) -> None:
    process = start(HOLD, str(tmp_path / "lock"), "fork")
    process.kill()
    process.wait()
    with lock(tmp_path / "lock", timeout=2):
        pass
    children = [
        int(entry) for entry in os.listdir("/proc") if entry.isdigit() and str(tmp_path).encode() in _command(entry)
    ]
    assert len(children) == 1
    os.kill(children[0], signal.SIGKILL)


def _command(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_lock_can_be_waited_for(tmp_path: Path) -> None:
    process = start(HOLD.replace("time.sleep(60)", "time.sleep(0.3)"), str(tmp_path / "lock"))
    with lock(tmp_path / "lock", timeout=20):
        pass
    process.wait()


def test_a_patient_lock_says_whom_it_waits_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    process = start(HOLD.replace("time.sleep(60)", "time.sleep(0.3)"), str(tmp_path / "lock"))
    with patient_lock(tmp_path / "lock"):
        assert f"Waiting: {tmp_path / 'lock'} is held by process {process.pid}" in capsys.readouterr().err
    process.wait()


def test_two_locks_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    with lock(tmp_path / "lock"), pytest.raises(PetrflowError, match=f"process {os.getpid()}"), lock(tmp_path / "lock"):
        pass


def test_a_mount_without_locks_falls_back_to_the_owners_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", unsupported)
    with lock(tmp_path / "lock"), pytest.raises(PetrflowError, match="is held by"), lock(tmp_path / "lock"):
        pass
    (tmp_path / "lock").write_text(f"process 1 on x #{owners.owner_tag().rsplit('-', 2)[0]}-{2**22 + 5}-77")
    with lock(tmp_path / "lock"):  # its owner is gone
        pass


def as_another_user(monkeypatch: pytest.MonkeyPatch, allowed: tuple[int, ...]) -> None:
    """Let files be opened only in the given modes, as another user's file can be."""
    plain = os.open

    def refusing(path: object, flags: int, *rest: object) -> int:
        if flags & (os.O_CREAT | os.O_ACCMODE) not in allowed:
            raise PermissionError(errno.EACCES, "Permission denied")
        return plain(path, flags, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(locks.os, "open", refusing)


def test_a_lock_file_of_another_user_is_waited_for_only_while_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lock").write_text(f"process 1 on x #{owners.owner_tag().rsplit('-', 2)[0]}-{2**22 + 5}-77")
    as_another_user(monkeypatch, (os.O_RDONLY,))
    with lock(tmp_path / "lock"), pytest.raises(Locked, match="another process"), lock(tmp_path / "lock"):
        pass
    with lock(tmp_path / "lock"):
        pass


def test_a_lock_file_that_cannot_be_opened_is_no_held_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lock").touch()
    as_another_user(monkeypatch, ())
    for take in (lock, patient_lock):  # neither waits
        with pytest.raises(CannotWrite, match="Permission denied"), take(tmp_path / "lock"):
            pass


def test_a_public_lock_can_be_opened_by_all_users_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with lock(tmp_path / "public", public=True), lock(tmp_path / "own"):
            modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("public", "own")}
    finally:
        os.umask(before)
    assert modes == {"public": 0o666, "own": 0o600}
