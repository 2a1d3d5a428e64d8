"""One reader for all: the pixels of OpenCV, and damage that it would fill with grey is an error."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from petrflow.errors import PetrflowError
from petrflow.pictures.read import (
    Unreadable,
    exif_orientation,
    file_fault,
    picture_fault,
    read_image,
    read_pixels,
)

PIXELS = cv2.normalize(
    cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (90, 161, 3), dtype=np.uint8), (0, 0), 2),
    np.zeros((90, 161, 3), np.uint8),
    0,
    255,
    cv2.NORM_MINMAX,
)
PICTURE = Image.fromarray(np.asarray(PIXELS))


def encoded(picture: Image.Image = PICTURE, form: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def turned_by_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(exif=exif)


GOOD: dict[str, bytes] = {
    "plain.jpg": encoded(),
    "best.jpg": encoded(quality=100, subsampling=0),
    "progressive.jpg": encoded(progressive=True),
    "grey.jpg": encoded(PICTURE.convert("L")),
    "inks.jpg": encoded(PICTURE.convert("CMYK")),
    "restarts.jpg": cv2.imencode(".jpg", PIXELS, [cv2.IMWRITE_JPEG_RST_INTERVAL, 3])[1].tobytes(),
    "padded.jpg": encoded() + bytes(5000),
    "two.jpg": encoded() + encoded(PICTURE.convert("L")),
    "few_bytes_before_the_end.jpg": encoded()[:-2] + b"\x00\x00\xff\xd9",
    "turned.jpg": turned_by_exif(),
    "plain.png": encoded(form="PNG"),
    "alpha.png": encoded(PICTURE.convert("RGBA"), "PNG"),
    "deep.png": cv2.imencode(".png", PIXELS.astype(np.uint16) * 257)[1].tobytes(),
    "named_otherwise.jpg": encoded(form="PNG"),
}
FLAGS = {
    1: (cv2.IMREAD_COLOR, cv2.IMREAD_GRAYSCALE),
    2: (cv2.IMREAD_REDUCED_COLOR_2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
    8: (cv2.IMREAD_REDUCED_COLOR_8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_files_have_the_pixels_that_opencv_reads_without_turning_them(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(GOOD[name])
    assert picture_fault(path, (161, 90)) == picture_fault(path, (161, 90), full=True) == file_fault(path) == ""
    for reduction, flags in FLAGS.items():
        for grey in (False, True):
            if grey and name == "inks.jpg":
                continue  # OpenCV has a formula of its own for the brightness of inks
            expected = cv2.imdecode(np.frombuffer(GOOD[name], np.uint8), flags[grey] | cv2.IMREAD_IGNORE_ORIENTATION)
            assert np.array_equal(read_pixels(path, reduction, grey=grey), expected)


def scrambled(data: bytes) -> bytes:
    broken, draw = bytearray(data), random.Random(1)
    for _ in range(30):
        broken[draw.randrange(len(data) // 3, len(data) - 10)] = draw.randrange(256)
    return bytes(broken)


HARM: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda data: data[: len(data) // 2], "is cut short|is damaged"),
    "cut with an end": (lambda data: data[: len(data) // 2] + b"\xff\xd9", "is damaged|is cut short"),
    "scrambled": (scrambled, "is damaged|cut short"),
    "empty": (lambda data: b"", "is empty"),
    "a page": (lambda data: b"<html>no such file</html>", "is neither|is no image"),
}


@pytest.mark.parametrize("name", ["plain.jpg", "best.jpg", "progressive.jpg", "grey.jpg", "restarts.jpg", "plain.png"])
@pytest.mark.parametrize("harm", HARM)
def test_damage_is_an_error_whoever_reads(name: str, harm: str, tmp_path: Path) -> None:
    change, message = HARM[harm]
    path = tmp_path / name
    path.write_bytes(change(GOOD[name]))
    with pytest.raises(Unreadable, match=message):
        read_pixels(path)
    with pytest.raises(PetrflowError, match=f"{name}.*CAM_FRONT.*(?:{message}).*Restore the file"):
        read_image(path, (161, 90), "CAM_FRONT of sample 1")
    assert picture_fault(path, (161, 90), full=True)


def test_a_message_names_the_file_behind_the_links_of_a_root(tmp_path: Path) -> None:
    source = tmp_path / "source" / "samples"
    source.mkdir(parents=True)
    (source / "a.jpg").write_bytes(b"")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "samples").symlink_to(source)
    with pytest.raises(PetrflowError, match=f"{source / 'a.jpg'} .*is empty"):
        read_image(tmp_path / "root" / "samples" / "a.jpg", (161, 90), "CAM_FRONT")
    (source / "a.jpg").write_bytes(GOOD["plain.jpg"])
    assert read_image(tmp_path / "root" / "samples" / "a.jpg", (161, 90), "CAM_FRONT").shape == (90, 161, 3)


def test_the_orientation_of_a_file_is_known_without_decoding_it(tmp_path: Path) -> None:
    for name, orientation in (("turned.jpg", 6), ("plain.jpg", 1), ("plain.png", 1)):
        (tmp_path / name).write_bytes(GOOD[name])
        assert exif_orientation(tmp_path / name) == orientation
    (tmp_path / "page.jpg").write_text("<html>")
    assert exif_orientation(tmp_path / "page.jpg") == 1
