"""What belongs to the user stays as it is, archives come in whole or go on, and what cannot be is one sentence."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from petrflow.errors import PetrflowError
from petrflow.sources.xtreme1.mark import source_mark
from petrflow.sources.xtreme1.prepare import prepare
from tests.helpers.xtreme1_tiny import SIZE, START, edit_all, snapshot, table, write_tiny

# ------------------------------------------------------------------------------------------------------------------ overlaps


def _equal(data: Path) -> tuple[Path, Path]:
    return write_tiny(data / "lot"), data / "lot"


def _inside(data: Path) -> tuple[Path, Path]:
    return write_tiny(data / "lot" / "export"), data / "lot"


def _around(data: Path) -> tuple[Path, Path]:
    return write_tiny(data), data / "lot"


def _through_a_link(data: Path) -> tuple[Path, Path]:
    write_tiny(data / "lot")
    (data.parent / "elsewhere").symlink_to(data / "lot")
    return data.parent / "elsewhere", data / "lot"


def _root_is_a_link(data: Path) -> tuple[Path, Path]:
    write_tiny(data.parent / "export")
    data.mkdir(exist_ok=True)
    (data / "lot").symlink_to(data.parent / "export")
    return data.parent / "export", data / "lot"


def _through_dots(data: Path) -> tuple[Path, Path]:
    write_tiny(data / "lot")
    return data / "lot" / ".." / "lot", data / "lot"


def _a_zip_inside(data: Path) -> tuple[Path, Path]:
    write_tiny(data.parent / "export")
    (data / "lot").mkdir(parents=True)
    return Path(shutil.make_archive(str(data / "lot" / "export"), "zip", data.parent / "export")), data / "lot"


def _something_else_stands_there(data: Path) -> tuple[Path, Path]:
    (data / "lot").mkdir(parents=True)
    (data / "lot" / "thesis.txt").write_text("three years")
    return write_tiny(data.parent / "export"), data / "lot"


def _media_inside(data: Path) -> tuple[Path, Path]:
    write_tiny(data / "lot" / "media")
    return write_tiny(data.parent / "export"), data / "lot"


@pytest.mark.parametrize(
    "place",
    [
        _equal, _inside, _around, _through_a_link, _root_is_a_link, _through_dots, _a_zip_inside, _something_else_stands_there, _media_inside,
    ],
    ids=lambda place: place.__name__.strip("_"),
)  # fmt: skip
def test_a_source_in_at_or_around_the_root_is_left_as_it_was(
    place: Callable[[Path], tuple[Path, Path]], tmp_path: Path
) -> None:
    source, root = place(tmp_path / "data")
    dataset = {"source": str(source)}
    if place is _media_inside:
        dataset["media_root"] = str(root / "media")
    before = snapshot(tmp_path)
    source_mark(dataset, root)
    with pytest.raises(PetrflowError) as raised:
        prepare(dataset, root, tmp_path / "results" / "lot" / "root")
    after = {name: content for name, content in snapshot(tmp_path).items() if not name.startswith("data/.cache/")}
    assert after == before
    said = str(raised.value)
    assert str(root) in said and re.search("Move|Choose|Name|choose", said)
    assert not re.search(r"delete|remove", said, re.I)


def test_a_root_of_petrflow_is_replaced_and_the_export_is_as_it_was(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "export")
    before = snapshot(source)
    for _ in range(2):
        prepare({"source": str(source)}, tmp_path / "data" / "lot", tmp_path / "about")
    shutil.rmtree(tmp_path / "data" / "lot")
    assert snapshot(source) == before
    assert json.loads((tmp_path / "about" / "receipt.json").read_text())["kind"] == "xtreme1"


# ------------------------------------------------------------------------------------------------------------------ archives

KILLED = """
import sys, time
from pathlib import Path
from petrflow.fetch import archive
archive.FLUSH_BYTES = 2_000
write = archive._Extraction._write
def slow(self, member, target):
    write(self, member, target)
    time.sleep(0.02)
archive._Extraction._write = slow
from petrflow.sources.xtreme1.prepare import prepare
prepare({"source": sys.argv[1]}, Path(sys.argv[2]))
"""


def test_a_killed_import_of_a_zip_goes_on_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from petrflow.fetch import archive

    source = shutil.make_archive(str(tmp_path / "export"), "zip", write_tiny(tmp_path / "export", frames=8))
    root = tmp_path / "data" / "lot"
    process = subprocess.Popen([sys.executable, "-c", KILLED, source, str(root)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("data/.cache/xtreme1/lot/*/.petrflow-archives/*.journal.json")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not root.exists()
    written: list[str] = []
    write = archive._Extraction._write
    monkeypatch.setattr(
        archive._Extraction,
        "_write",
        lambda self, member, target: written.append(member.name) or write(self, member, target),
    )
    prepare({"source": source}, root)
    with zipfile.ZipFile(source) as packed:
        files = [name for name in packed.namelist() if not name.endswith("/")]
    assert 0 < len(written) < len(files)
    left = [path for path in (tmp_path / "data").rglob("*") if root not in (path, *path.parents) and path.is_file()]
    assert sorted(path.name for path in left) == [".lot.lock", "mark.json", "sources.json"]


def test_another_zip_under_the_same_name_takes_nothing_from_the_first(tmp_path: Path) -> None:
    write_tiny(tmp_path / "export")
    source = Path(shutil.make_archive(str(tmp_path / "export"), "zip", tmp_path / "export"))
    bad = write_tiny(tmp_path / "bad", name=lambda time: f"old_{time}")
    edit_all(bad, "result/*.json", lambda results: [])
    broken = Path(shutil.make_archive(str(tmp_path / "broken"), "zip", bad))
    good = source.read_bytes()
    source.write_bytes(broken.read_bytes())
    with pytest.raises(PetrflowError, match="results are empty"):
        prepare({"source": str(source)}, tmp_path / "data" / "lot")
    source.write_bytes(good)
    complete = prepare({"source": str(source)}, tmp_path / "data" / "lot")
    assert complete["counts"]["keyframes"] == 6
    assert not [row for row in table(tmp_path / "data" / "lot", "sample_data") if "old_" in row["filename"]]
    assert not list((tmp_path / "data").rglob("unpacked-*"))


def test_a_mistake_in_a_zip_is_named_by_the_zip_and_advises_no_deleting(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "export")
    image = next(folder.rglob("*.jpg"))
    image.write_bytes(image.read_bytes()[:-40])
    source = shutil.make_archive(str(tmp_path / "export"), "zip", folder)
    with pytest.raises(PetrflowError) as raised:
        prepare({"source": source}, tmp_path / "data" / "lot")
    assert f"{source}: {image.relative_to(folder)}" in str(raised.value)
    assert ".cache" not in str(raised.value) and not re.search(r"delete|remove", str(raised.value), re.I)


@pytest.mark.parametrize("start", [b"Rar!\x1a\x07\x01\x00", b"7z\xbc\xaf\x27\x1c\x00\x04", b"no archive at all"])
def test_what_is_no_archive_says_what_to_give_instead(start: bytes, tmp_path: Path) -> None:
    (tmp_path / "export.zip").write_bytes(start + bytes(500))
    with pytest.raises(PetrflowError, match=r"export\.zip") as raised:
        prepare({"source": str(tmp_path / "export.zip")}, tmp_path / "data" / "lot")
    assert not re.search(r"delete|remove", str(raised.value), re.I)
    assert (tmp_path / "export.zip").exists()


# ------------------------------------------------------------------------------------------------------------------ repairs


def test_a_broken_image_is_named_and_a_repaired_one_is_taken_in(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "export")
    dataset = {"source": str(source)}
    image = sorted(source.rglob("*.jpg"))[2]
    whole = image.read_bytes()
    image.write_bytes(whole[:-30])
    with pytest.raises(PetrflowError, match=rf"{image}.*sound copy there: the next run takes it in"):
        prepare(dataset, tmp_path / "root")
    image.write_bytes(whole)
    first = prepare(dataset, tmp_path / "root")
    mark = source_mark(dataset, tmp_path / "root")
    # Bytes inside change and neither size nor JSON does.
    repaired = image.with_suffix(".new")
    repaired.write_bytes(whole.replace(b"JFIF", b"JFXX"))
    repaired.replace(image)
    assert source_mark(dataset, tmp_path / "root") != mark
    assert prepare(dataset, tmp_path / "root")["fingerprint"] != first["fingerprint"]


def test_a_copied_image_is_the_same_and_is_read_once_to_see_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_tiny(tmp_path / "export")
    dataset = {"source": str(source)}
    prepare(dataset, tmp_path / "root")
    mark = source_mark(dataset, tmp_path / "root")
    for path in source.rglob("*.*"):  # as after `cp -r`
        copy = path.with_name("copy")
        shutil.copyfile(path, copy)
        copy.replace(path)
        os.utime(path, (5, 5))
    assert source_mark(dataset, tmp_path / "root") == mark
    monkeypatch.setattr("petrflow.sources.xtreme1.mark.sha256_file", lambda path: pytest.fail(f"{path} was read again"))
    assert source_mark(dataset, tmp_path / "root") == mark


@pytest.mark.parametrize("zipped", [True, False])
def test_a_new_export_of_unchanged_labels_has_the_same_mark(zipped: bool, tmp_path: Path) -> None:
    marks = set()
    source = tmp_path / "export.zip" if zipped else tmp_path / "export"
    for day, signature, label in (
        ("20240305142233", "a", "Car"),
        ("20250101000000", "b", "Car"),
        ("20250101000000", "b", "Truck"),
    ):
        shutil.rmtree(tmp_path / "now", ignore_errors=True)
        shutil.rmtree(tmp_path / "export", ignore_errors=True)
        for kind, content in (
            ("data", {"url": f"http://host{signature}:90/x.jpg?X-Amz-Date={day}&X-Amz-Signature={signature}"}), ("result", [label])
        ):  # fmt: skip
            path = tmp_path / "now" / f"lot-{day}" / "one" / kind / "1.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(content))
        if zipped:
            shutil.make_archive(str(tmp_path / "export"), "zip", tmp_path / "now")
        else:
            shutil.copytree(tmp_path / "now", source)
        marks.add(source_mark({"source": str(source)}, tmp_path / "root"))
    assert len(marks) == 2  # two labels, and not three exports


@pytest.mark.parametrize("what", ["result/*.json", "*.jpg", "camera_config/*.json"])
def test_the_mark_sees_a_change_of_any_file(what: str, tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "export")
    dataset = {"source": str(source)}
    prepare(dataset, tmp_path / "root")
    mark = source_mark(dataset, tmp_path / "root")
    assert source_mark(dataset, tmp_path / "root") == mark
    path = sorted(source.rglob(what))[0]
    path.write_bytes(path.read_bytes() + b" ")
    assert source_mark(dataset, tmp_path / "root") != mark
    shutil.rmtree(source)
    assert source_mark(dataset, tmp_path / "root") == mark  # gone to save space


# ------------------------------------------------------------------------------------------------------------------ values


def _camera(**change: Any) -> Callable[[Path], None]:
    return lambda folder: edit_all(folder, "camera_config/*.json", lambda cameras: cameras[0].update(change))


def _contour(**change: Any) -> Callable[[Path], None]:
    return lambda folder: edit_all(
        folder, "result/*.json", lambda found: found[0]["objects"][0]["contour"].update(change)
    )


IMPOSSIBLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "intrinsics of zeros": (_camera(cameraInternal={"fx": 0, "fy": 0, "cx": 0, "cy": 0}), r"\.json, camera 0: focal lengths"),
    "an intrinsic that is not finite": (_camera(cameraInternal={"fx": "nan", "fy": 1, "cx": 0, "cy": 0}), r"cameraInternal\.fx"),
    "an external of zeros": (_camera(cameraExternal=[0.0] * 16), r"\.json, camera 0: cameraExternal"),
    "a quaternion of norm 0": (
        _camera(cameraExternal={"rotation": {"w": 0, "x": 0, "y": 0, "z": 0}, "translation": [0, 0, 0]}), "no unit quaternion: its norm is 0"
    ),
    "an infinite coordinate": (_contour(center3D={"x": float("inf"), "y": 0, "z": 0}), r"object 0, center3D\.x: inf is not a finite"),
    "a box on another continent": (_contour(center3D={"x": 5e6, "y": 0, "z": 0}), r"object 0: center3D is 5,000 km away.*length_unit"),
}  # fmt: skip


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_value_that_cannot_be_is_one_sentence_with_file_and_key(name: str, tmp_path: Path) -> None:
    plant, message = IMPOSSIBLE[name]
    source = write_tiny(tmp_path / "export")
    plant(source)
    with pytest.raises(PetrflowError, match=message) as raised:
        prepare({"source": str(source)}, tmp_path / "root")
    assert "\n" not in str(raised.value) and not (tmp_path / "root").exists()


@pytest.mark.parametrize("row", ["nan,0,0,1,0,0,0", "0,0,0,0,0,0,0", "0,0,inf,1,0,0,0", "0,0,0,2,0,0,0"])
def test_a_pose_that_cannot_be_is_one_sentence(row: str, tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "export", scenes=["one"])
    rows = [f"{START + index * 500_000},{row if index == 1 else '0,0,0,1,0,0,0'}" for index in range(3)]
    (tmp_path / "poses.csv").write_text("name,tx,ty,tz,qw,qx,qy,qz\n" + "\n".join(rows))
    with pytest.raises(PetrflowError, match=r"poses\.csv: frame 1700000000500000 needs a finite translation"):
        prepare({"source": str(source), "poses": str(tmp_path / "poses.csv")}, tmp_path / "root")


# ------------------------------------------------------------------------------------------------------------------ images


def _turned(path: Path, orientation: int) -> None:
    """Store the upright image as a camera would that was held so: what undoes the turn is in the EXIF."""
    stored = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[orientation]
    with Image.open(path) as upright:
        exif = upright.getexif()
        exif[0x0112] = orientation
        upright.transpose(stored).save(path, quality=95, exif=exif)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_images_are_turned_once_as_the_labelling_tool_shows_them(orientation: int, tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "export")
    for path in source.rglob("*.jpg"):
        picture = np.zeros((SIZE[1], SIZE[0], 3), dtype=np.uint8)
        picture[:9, :16] = 250  # bright in the upper left
        Image.fromarray(picture).save(path, quality=95)
        _turned(path, orientation)
    before = snapshot(source)
    prepare({"source": str(source)}, tmp_path / "root")
    assert snapshot(source) == before
    for row in table(tmp_path / "root", "sample_data"):
        if row["fileformat"] == "jpg":
            with Image.open(tmp_path / "root" / row["filename"]) as imported:
                assert imported.size == (row["width"], row["height"]) == SIZE
                assert imported.getexif().get(0x0112, 1) == 1
                pixels = np.asarray(imported).mean(axis=2)
            assert pixels[2:7, 2:14].mean() > 200 and pixels[11:, 18:].mean() < 50


def test_images_that_need_nothing_are_links(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "export")
    prepare({"source": str(source)}, tmp_path / "root")
    images = list((tmp_path / "root" / "samples").rglob("*.jpg"))
    assert len(images) == 12
    inodes = {path.stat().st_ino for path in source.rglob("*.jpg")}
    assert {os.stat(path).st_ino for path in images} == inodes
