"""Archives: everything comes out as it was, nothing leaves the folder, damage is an error, a kill costs little."""

from __future__ import annotations

import hashlib
import io
import os
import random
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from petrflow.errors import PetrflowError
from petrflow.fetch import archive as archive_module
from petrflow.fetch import archive_records
from petrflow.fetch.archive import extract, is_archive
from petrflow.fetch.archive_records import finished_record, read_records
from petrflow.files import sha256_file

LOG = "n015-2018-07-24-11-22-45+0800"
FILES = {f"samples/CAM_FRONT/{LOG}__CAM_FRONT__{i}.jpg": random.Random(i).randbytes(5_000 + i) for i in range(40)} | {
    "v1.0-mini/scene.json": b"[]",
    "maps/empty.png": b"",
}


def make_tar(path: Path, members: dict[str, bytes] | None = None, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in (members if members is not None else FILES).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mtime = 1_500_000_000
            tar.addfile(info, io.BytesIO(content))
    return path


def make_zip(path: Path, members: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in (members if members is not None else FILES).items():
            packed.writestr(name, content)
    return path


def make_special(path: Path, kind: bytes, target: str = "", name: str = "link") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo(name)
        info.type = kind
        info.linkname = target
        tar.addfile(info)
        payload = tarfile.TarInfo(f"{name}/passwd")
        payload.size = 4
        tar.addfile(payload, io.BytesIO(b"evil"))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and archive_module.RECORDS not in path.parts
    }


# ------------------------------------------------------------------------------------------------------------------ formats


@pytest.mark.parametrize(
    ("name", "mode"), [("a.tgz", "w:gz"), ("a.tar", "w"), ("a.tar.bz2", "w:bz2"), ("a.tar.xz", "w:xz")]
)
def test_every_kind_of_tar_comes_out_as_it_was(name: str, mode: str, tmp_path: Path) -> None:
    record = extract(make_tar(tmp_path / name, mode=mode), tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") == FILES
    assert record.files == len(FILES)
    assert record.logs == {LOG: 40}
    assert record.folders["samples/CAM_FRONT"] == 40
    assert int((tmp_path / "out" / "maps" / "empty.png").stat().st_mtime) == 1_500_000_000
    assert (tmp_path / name).exists()
    assert is_archive(tmp_path / name)


def test_a_zip_comes_out_as_it_was(tmp_path: Path) -> None:
    extract(make_zip(tmp_path / "a.zip"), tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") == FILES


def test_several_archives_share_a_folder_and_each_leaves_its_record(tmp_path: Path) -> None:
    extract(make_tar(tmp_path / "part01.tgz", {"samples/a__x.jpg": b"1"}), tmp_path / "out", progress=False)
    extract(make_tar(tmp_path / "part02.tgz", {"samples/b__x.jpg": b"2"}), tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") == {"samples/a__x.jpg": b"1", "samples/b__x.jpg": b"2"}
    assert [(record.archive, dict(record.logs)) for record in read_records(tmp_path / "out")] == [
        ("part01.tgz", {"a": 1}),
        ("part02.tgz", {"b": 1}),
    ]
    assert finished_record(tmp_path / "out", "part03.tgz") is None


def test_an_unpacked_archive_is_not_unpacked_twice_and_a_changed_one_is(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tgz", {"x": b"1"})
    extract(path, tmp_path / "out", progress=False)
    (tmp_path / "out" / "x").unlink()
    extract(path, tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") == {}
    extract(make_tar(path, {"x": b"22"}), tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") == {"x": b"22"}


def test_the_archive_is_removed_only_if_asked(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tgz")
    extract(path, tmp_path / "out", progress=False)
    assert path.exists()
    extract(path, tmp_path / "out2", remove_archive=True, progress=False)
    assert not path.exists()
    assert contents(tmp_path / "out2") == FILES


def test_an_archive_is_known_by_its_content_and_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_tar(tmp_path / "a.tgz", {"x": b"1"})
    record = extract(path, tmp_path / "out", progress=False)
    assert record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "out" / "x").unlink()
    hashed: list[Path] = []
    for module in (archive_module, archive_records):
        monkeypatch.setattr(module, "sha256_file", lambda file: hashed.append(file) or sha256_file(file))
    extract(path, tmp_path / "out", progress=False)
    assert not hashed  # neither unpacked nor read: size, time and inode are what they were
    os.utime(path, (1, 1))
    extract(path, tmp_path / "out", progress=False)
    extract(path, tmp_path / "out", progress=False)
    assert hashed == [path]  # touched: read once, found to be the same, and not unpacked
    assert contents(tmp_path / "out") == {}


def test_a_replaced_archive_of_the_same_name_size_and_time_is_unpacked(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", {"x": b"1"}, "w")
    extract(path, tmp_path / "out", progress=False)
    times = path.stat()
    other = make_tar(tmp_path / "b.tar", {"x": b"2"}, "w")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)
    assert path.stat().st_size == times.st_size and path.stat().st_mtime_ns == times.st_mtime_ns
    extract(path, tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") == {"x": b"2"}
    assert len(read_records(tmp_path / "out")) == 1


def test_two_parts_of_one_name_are_both_unpacked(tmp_path: Path) -> None:
    for folder, member in (("one", "a"), ("two", "b")):
        (tmp_path / folder).mkdir()
        path = make_tar(tmp_path / folder / "part.tgz", {f"samples/{member}": b"1"})
        extract(path, tmp_path / "out", progress=False, origin=f"https://mirror/{folder}/part.tgz", remove_archive=True)
    assert set(contents(tmp_path / "out")) == {"samples/a", "samples/b"}
    assert len(read_records(tmp_path / "out")) == 2
    assert finished_record(tmp_path / "out", "part.tgz", "https://mirror/two/part.tgz") is not None
    assert finished_record(tmp_path / "out", "part.tgz", "https://mirror/three/part.tgz") is None


@pytest.mark.parametrize("encoding", ["gbk", "utf-8"])
def test_names_of_a_zip_that_says_no_encoding_are_read_as_its_packer_wrote_them(encoding: str, tmp_path: Path) -> None:
    name = "停车场/帧 1.json"
    raw = make_zip(tmp_path / "a.zip", {"x" * len(name.encode(encoding)): b"[]"}).read_bytes()
    raw = raw.replace(b"x" * len(name.encode(encoding)), name.encode(encoding))  # no flag for UTF-8 is set
    (tmp_path / "a.zip").write_bytes(raw)
    extract(tmp_path / "a.zip", tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") == {name: b"[]"}


def test_a_zip_of_backslashes_gives_folders(tmp_path: Path) -> None:
    extract(make_zip(tmp_path / "a.zip", {"scene\\result\\1.json": b"[]"}), tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") == {"scene/result/1.json": b"[]"}


@pytest.mark.parametrize("start", [b"Rar!\x1a\x07\x01\x00", b"7z\xbc\xaf\x27\x1c\x00\x04"])
def test_an_archive_of_another_kind_says_what_to_do_instead_and_nothing_of_deleting(
    start: bytes, tmp_path: Path
) -> None:
    (tmp_path / "a.zip").write_bytes(start + bytes(1000))
    with pytest.raises(PetrflowError, match=r"unpack it yourself and name the folder in `source:`") as raised:
        extract(tmp_path / "a.zip", tmp_path / "out", progress=False)
    assert "delete" not in str(raised.value)


# ------------------------------------------------------------------------------------------------------------------ no trust

ESCAPES: dict[str, Callable[[Path], Path]] = {
    "a parent folder": lambda path: make_tar(path, {"../evil": b"x"}),
    "a parent folder further down": lambda path: make_tar(path, {"a/b/../../../evil": b"x"}),
    "an absolute path": lambda path: make_tar(path, {"/tmp/petrflow-evil": b"x"}),
    "our own records": lambda path: make_tar(path, {f"{archive_module.RECORDS}/b.tgz.json": b"{}"}),
    "a symbolic link out": lambda path: make_special(path, tarfile.SYMTYPE, "/etc"),
    "a symbolic link within": lambda path: make_special(path, tarfile.SYMTYPE, "samples"),
    "a hard link": lambda path: make_special(path, tarfile.LNKTYPE, "../../etc/passwd"),
    "a character device": lambda path: make_special(path, tarfile.CHRTYPE),
    "a block device": lambda path: make_special(path, tarfile.BLKTYPE),
    "a pipe": lambda path: make_special(path, tarfile.FIFOTYPE),
    "a file that is a folder too": lambda path: make_tar(path, {"a": b"1", "a/b": b"2"}),
    "a zip with a parent folder": lambda path: make_zip(path, {"../evil": b"x"}),
    "a zip with an absolute path": lambda path: make_zip(path, {"/tmp/petrflow-evil": b"x"}),
}


@pytest.mark.parametrize("name", ESCAPES)
def test_an_archive_that_would_leave_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    path = ESCAPES[name](tmp_path / "evil.tgz")
    (tmp_path / "out").mkdir()
    with pytest.raises(PetrflowError, match=r"evil\.tgz") as raised:
        extract(path, tmp_path / "out", progress=False)
    assert "delete" not in str(raised.value) and "remove" not in str(raised.value)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["evil.tgz", "out"]
    assert not Path("/tmp/petrflow-evil").exists()
    assert not any(
        entry.is_symlink() or stat.S_ISFIFO(entry.lstat().st_mode) for entry in (tmp_path / "out").rglob("*")
    )
    assert finished_record(tmp_path / "out", path.name) is None


def test_a_zip_with_a_link_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(info, "/etc")
    with pytest.raises(PetrflowError, match="'link' is a link or device"):
        extract(tmp_path / "a.zip", tmp_path / "out", progress=False)


def test_a_link_that_stood_in_the_folder_before_is_not_followed_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "samples").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PetrflowError, match=r"leads out of .* through a link"):
        extract(make_tar(tmp_path / "a.tgz"), tmp_path / "out", progress=False)
    assert list((tmp_path / "elsewhere").rglob("*.jpg")) == []


def test_a_bomb_is_stopped_at_the_limit(tmp_path: Path) -> None:
    bomb = make_tar(tmp_path / "bomb.tgz", {f"zeros{i}": bytes(1 << 20) for i in range(40)})
    with pytest.raises(PetrflowError, match=r"unfolds to more than 4\.0 MB \([\d.]+ KB packed\)"):
        extract(bomb, tmp_path / "out", limit=4 << 20, progress=False)
    assert sum(len(content) for content in contents(tmp_path / "out").values()) <= 4 << 20


def test_a_zip_that_says_its_true_size_is_stopped_before_anything_is_written(tmp_path: Path) -> None:
    bomb = make_zip(tmp_path / "bomb.zip", {"a": b"small", "zeros": bytes(8 << 20)})
    with pytest.raises(PetrflowError, match="unfolds to more than"):
        extract(bomb, tmp_path / "out", limit=4 << 20, progress=False)
    assert contents(tmp_path / "out") == {}


def test_the_default_limit_stops_a_thousandfold_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "SMALLEST_LIMIT", 1 << 20)
    with pytest.raises(PetrflowError, match="unfolds to more than"):
        extract(make_tar(tmp_path / "bomb.tgz", {"zeros": bytes(8 << 20)}), tmp_path / "out", progress=False)


def test_a_bomb_stops_at_a_full_disk_with_the_disk_named(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(disk)], capture_output=True, check=False
    ).returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        big = make_tar(tmp_path / "big.tgz", {f"zeros{i}": bytes(10 << 20) for i in range(12)})
        with pytest.raises(PetrflowError, match=r"the disk is full; it needs 10,485,760 bytes"):
            extract(big, disk, progress=False)
        assert not any(".tmp" in entry.name for entry in disk.rglob("*"))
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_too_small_a_disk_is_said_before_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petrflow.files.disk.free_bytes", lambda _path: 1000)
    with pytest.raises(PetrflowError, match=r"Unpacking a\.tgz needs"):
        extract(make_tar(tmp_path / "a.tgz"), tmp_path / "out", progress=False)


# ------------------------------------------------------------------------------------------------------------------ damage


@pytest.mark.parametrize("name", ["a.tgz", "a.tar", "a.tar.bz2", "a.tar.xz", "a.zip"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.7, 0.99])
def test_a_truncated_archive_is_an_error_wherever_it_was_cut(name: str, part: float, tmp_path: Path) -> None:
    modes = {"a.tgz": "w:gz", "a.tar": "w", "a.tar.bz2": "w:bz2", "a.tar.xz": "w:xz"}
    path = make_zip(tmp_path / name) if name == "a.zip" else make_tar(tmp_path / name, mode=modes[name])
    size = sum(len(content) + 512 for content in FILES.values()) if name == "a.tar" else path.stat().st_size
    os.truncate(path, int(size * part))
    with pytest.raises(PetrflowError, match=f"{name} is damaged or was cut short.*fetch it again"):
        extract(path, tmp_path / "out", progress=False)
    for file, content in contents(tmp_path / "out").items():
        assert FILES[file] == content


def test_a_tar_cut_exactly_between_two_members_is_an_error(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", {f"f{i}": bytes(512) for i in range(10)}, "w")
    os.truncate(path, 5 * 1024)
    with pytest.raises(PetrflowError, match="cut short after 5 members"):
        extract(path, tmp_path / "out", progress=False)


@pytest.mark.parametrize("name", ["a.tgz", "a.zip"])
def test_one_flipped_bit_in_a_compressed_archive_is_an_error(name: str, tmp_path: Path) -> None:
    path = make_zip(tmp_path / name) if name == "a.zip" else make_tar(tmp_path / name)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(PetrflowError, match=f"{name} is damaged"):
        extract(path, tmp_path / "out", progress=False)
    path.unlink()
    _ = make_zip(path) if name == "a.zip" else make_tar(path)
    extract(path, tmp_path / "out", progress=False)
    assert contents(tmp_path / "out") == FILES


def test_a_web_page_under_an_archives_name_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.tgz").write_text("<html>please log in</html>" + " " * 2000)
    with pytest.raises(PetrflowError, match="is damaged"):
        extract(tmp_path / "a.tgz", tmp_path / "out", progress=False)
    with pytest.raises(PetrflowError, match="does not exist"):
        extract(tmp_path / "gone.tgz", tmp_path / "out", progress=False)


# ------------------------------------------------------------------------------------------------------------------ kills

SLOW = """
import sys, time
from pathlib import Path
from petrflow.fetch import archive
archive.FLUSH_BYTES = 200_000
write = archive._Extraction._write
def slow(self, member, target):
    write(self, member, target)
    time.sleep(0.004)
archive._Extraction._write = slow
archive.extract(Path(sys.argv[1]), Path(sys.argv[2]), progress=False)
"""


def test_an_extraction_killed_again_and_again_goes_on_and_ends_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {f"samples/{i % 3}/{i:04d}.jpg": random.Random(i).randbytes(8_000) for i in range(250)}
    path = make_tar(tmp_path / "a.tgz", members)
    draw = random.Random(3)
    progress = []
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", SLOW, str(path), str(tmp_path / "out")])
        journal = tmp_path / "out" / archive_module.RECORDS / "a.tgz.journal.json"
        deadline = time.monotonic() + 20
        before = journal.read_text() if journal.exists() else ""
        while (
            (not journal.exists() or journal.read_text() == before)
            and process.poll() is None
            and time.monotonic() < deadline
        ):
            time.sleep(0.005)
        time.sleep(draw.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        progress.append(len(contents(tmp_path / "out")))
    assert 0 < progress[0] < len(members)
    written: list[str] = []
    write = archive_module._Extraction._write

    def count(self: archive_module._Extraction, member: archive_module.Member, target: Path) -> None:
        written.append(member.name)
        write(self, member, target)

    monkeypatch.setattr(archive_module._Extraction, "_write", count)
    extract(path, tmp_path / "out", progress=False)
    assert len(written) < len(members)  # what was surely there was not written again
    assert contents(tmp_path / "out") == members  # and no temporaries of the killed
