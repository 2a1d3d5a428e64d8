"""The PCD reader: three encodings, odd headers, damaged files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from petrflow.errors import PetrflowError
from petrflow.sources.xtreme1.pcd import read_pcd
from tests.helpers.pcd import write_pcd


@pytest.fixture
def points() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(257, 4)).astype(np.float32) * 30


@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_compressed"])
def test_every_encoding_gives_back_the_points(tmp_path: Path, points: np.ndarray, encoding: str) -> None:
    write_pcd(tmp_path / "a.pcd", points, encoding=encoding)
    np.testing.assert_array_equal(read_pcd(tmp_path / "a.pcd"), points)


def test_copies_in_a_compressed_block_are_expanded_also_where_they_overlap(tmp_path: Path) -> None:
    # One column x of eight equal floats: four literal bytes, then a copy of 28 bytes from 4 back, which overlaps itself.
    value = np.float32(1.5).tobytes()
    packed = bytes([3]) + value + bytes([(7 << 5) | 0, 28 - 2 - 7, 3])
    columns = packed * 1
    header = "VERSION 0.7\nFIELDS x\nSIZE 4\nTYPE F\nCOUNT 1\nWIDTH 8\nHEIGHT 1\nPOINTS 8\nDATA binary_compressed\n"
    (tmp_path / "a.pcd").write_bytes(header.encode() + np.array([len(columns), 32], "<u4").tobytes() + columns)
    np.testing.assert_array_equal(read_pcd(tmp_path / "a.pcd", ("x",))[:, 0], np.full(8, 1.5))


def test_columns_are_found_by_name_whatever_their_type_and_place(tmp_path: Path) -> None:
    rows = np.zeros(
        3, dtype=[("rgb", "<u4"), ("_", "u1", (4,)), ("z", "<f8"), ("y", "<f4"), ("x", "<f4"), ("i", "<u2")]
    )
    rows["x"], rows["y"], rows["z"], rows["i"] = [1, 2, 3], [4, 5, 6], [7, 8, 9], [10, 20, 30]
    header = "VERSION .7\nFIELDS rgb _ z y x i\nSIZE 4 1 8 4 4 2\nTYPE U U F F F U\nCOUNT 1 4 1 1 1 1\nWIDTH 3\nHEIGHT 1\nPOINTS 3\nDATA binary\n"
    (tmp_path / "a.pcd").write_bytes(header.encode() + rows.tobytes())
    found = read_pcd(tmp_path / "a.pcd", ("x", "y", "z", "intensity", "ring"))
    np.testing.assert_array_equal(found, [[1, 4, 7, 10, 0], [2, 5, 8, 20, 0], [3, 6, 9, 30, 0]])


def test_points_without_a_place_are_left_out(tmp_path: Path, points: np.ndarray) -> None:
    points[5, 1] = np.nan
    for encoding in ("ascii", "binary"):
        write_pcd(tmp_path / "a.pcd", points, encoding=encoding)
        assert len(read_pcd(tmp_path / "a.pcd")) == len(points) - 1


@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_compressed"])
def test_a_file_cut_short_is_named(tmp_path: Path, points: np.ndarray, encoding: str) -> None:
    write_pcd(tmp_path / "a.pcd", points, encoding=encoding)
    raw = (tmp_path / "a.pcd").read_bytes()
    (tmp_path / "a.pcd").write_bytes(raw[: len(raw) - 200])
    with pytest.raises(PetrflowError, match=r"a\.pcd"):
        read_pcd(tmp_path / "a.pcd")


@pytest.mark.parametrize(
    "content",
    [b"", b"not a cloud", b"VERSION 0.7\nFIELDS x y\nSIZE 4\nTYPE F F\nCOUNT 1 1\nPOINTS 1\nDATA ascii\n1 2\n"],
)
def test_what_is_no_pcd_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "b.pcd").write_bytes(content)
    with pytest.raises(PetrflowError, match=r"b\.pcd"):
        read_pcd(tmp_path / "b.pcd")


def test_an_empty_cloud_is_a_cloud(tmp_path: Path) -> None:
    write_pcd(tmp_path / "a.pcd", np.zeros((0, 4)))
    assert read_pcd(tmp_path / "a.pcd").shape == (0, 4)
