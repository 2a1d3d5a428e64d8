"""Annotations of data sets of any size: large tables are dealt out to runs of scenes, which are
joined one after another.

A run is a stretch of time in which whole scenes lie, so that the stores of the runs, one behind the
other, are the store of all. The large tables are read once; what a run needs of them waits on the
disk until its turn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from petrflow.annotations import frames, layout
from petrflow.annotations.tables import (
    LARGE_TABLES,
    large_table,
    lookup,
    read_small_tables,
    resolve,
    table_path,
    table_progress,
    wanted_frames,
)
from petrflow.files import remove, require_space, temporary_path
from petrflow.nuscenes.arrays import arrow, view
from petrflow.nuscenes.columns import Columns, add_converted, join, read_batches
from petrflow.nuscenes.root import Root

RUN_BYTES = 1_600_000_000
"""Bytes of ``sample_data.json`` for which one run's memory stays below 2 GB. nuScenes' trainval,
1.34 GB, is one run.
"""
_BATCH_ROWS = 524_288


def runs_needed(root: Root) -> int:
    """Return into how many runs the tables are divided by their size."""
    path = table_path(root, "sample_data")
    return -(-path.stat().st_size // RUN_BYTES) if path.exists() else 1


@dataclass(frozen=True)
class Dealt:
    """Large tables on the disk, a file a run.

    Attributes
    ----------
    root : Root
    small : dict
        The tables that are in memory.
    run_of_sample : (samples,) int16
        Run of every keyframe, -1 where no split has it.
    number : int
        Runs.
    folder : Path
        Where the files are.
    """

    root: Root
    small: dict[str, Columns]
    run_of_sample: np.ndarray
    number: int
    folder: Path

    def tables(self, run: int) -> dict[str, Columns]:
        """Return all tables with a run's rows of the large ones, and remove those from the disk."""
        tables = dict(self.small)
        for name in LARGE_TABLES:
            path = _dealt_path(self.folder, name, run)
            pieces: dict[str, list[Any]] = {}
            kinds, _ = large_table(name)
            with pa.memory_map(str(path), "r") as source, pa.ipc.open_stream(source) as reader:
                for rows in reader:
                    add_converted(pieces, table_path(self.root, name), rows, kinds)
                tables[name] = join(pieces)
                resolve(self.root, tables, name)
            remove(path)
        return tables

    def piece(self, split: str, run: int) -> Path:
        """Return where a run's store of a split waits for the others."""
        return self.folder / f"{split}-{run}.arrow"


def _dealt_path(folder: Path, name: str, run: int) -> Path:
    return folder / f"{name}-{run}.arrows"


@contextlib.contextmanager
def dealt(
    root: Root, splits: Sequence[str], number: int, folder: Path, progress: bool, threads: int | None
) -> Iterator[Dealt]:
    """Read the tables and deal the large ones out to runs, in a temporary folder under ``folder``
    that goes at the end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    needed = sum(table_path(root, name).stat().st_size for name in LARGE_TABLES if table_path(root, name).exists())
    require_space(folder, needed // 2, "Joining the tables")  # measured: 0.4 of the tables' bytes, stores included
    temporary = temporary_path(folder / "runs")
    temporary.mkdir()
    try:
        with table_progress(root, progress) as advance:
            small = read_small_tables(root, advance, threads)
            run_of_sample = divide(small, [frames.keyframes_of(root, small, split) for split in splits], number)
            done = Dealt(root, small, run_of_sample, int(run_of_sample.max(initial=0)) + 1, temporary)
            poses = _deal(done, "sample_data", advance, threads)
            _deal(done, "ego_pose", advance, threads, poses)
            del poses
            _deal(done, "sample_annotation", advance, threads)
        yield done
    finally:
        remove(temporary)


def divide(tables: dict[str, Columns], keyframe_rows: Sequence[np.ndarray], number: int) -> np.ndarray:
    """Divide scenes into runs of about equal size, cut where no scene goes on; return every
    sample's run, -1 for none.

    There are fewer runs than asked for where scenes overlap in time.
    """
    sample = tables["sample"]
    used = np.unique(np.concatenate(keyframe_rows))
    run_of_sample = np.full(len(sample["timestamp"]), -1, dtype=np.int16)
    if not len(used):
        return run_of_sample
    scenes, scene, sizes = np.unique(sample["scene_row"][used], return_inverse=True, return_counts=True)
    first = np.full(len(scenes), np.iinfo(np.int64).max)
    last = np.full(len(scenes), np.iinfo(np.int64).min)
    np.minimum.at(first, scene, sample["timestamp"][used])
    np.maximum.at(last, scene, sample["timestamp"][used])
    order = np.argsort(first, kind="stable")
    run_of_scene, run, size, end = np.zeros(len(scenes), dtype=np.int16), 0, 0, np.iinfo(np.int64).min
    for k in order:
        if size >= (run + 1) * len(used) / number and first[k] > end:
            run += 1
        run_of_scene[k] = run
        size, end = size + int(sizes[k]), max(end, int(last[k]))
    run_of_sample[used] = run_of_scene[scene]
    return run_of_sample


def _deal(
    target: Dealt, name: str, advance: Any, threads: int | None, poses: tuple[np.ndarray, np.ndarray] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Write each run's rows of a large table, in the table's order; return hashes and runs of the
    poses they refer to, sorted.
    """
    kinds, optional = large_table(name)
    hashed = {"sample_data": "ego_pose_token", "ego_pose": "token"}.get(name)
    keep = wanted_frames(target.root, target.small) if name == "sample_data" else None
    hashes, runs = [np.zeros(0, dtype=np.uint64)], [np.zeros(0, dtype=np.int16)]
    with contextlib.ExitStack() as held:
        writers: dict[int, Any] = {}
        for batch in read_batches(
            table_path(target.root, name),
            kinds,
            optional=optional,
            keep=keep,
            on_bytes=advance,
            threads=threads,
            hashed=hashed,
            batch_rows=_BATCH_ROWS,
        ):
            rows = batch.select(list(kinds))
            if not writers:
                for number in range(target.number):
                    sink = held.enter_context(pa.OSFile(str(_dealt_path(target.folder, name, number)), "wb"))
                    writers[number] = held.enter_context(pa.ipc.new_stream(sink, rows.schema))
            if poses is None:
                tokens = target.small["sample"]["token"]
                run = target.run_of_sample[lookup(batch.column("sample_token"), tokens, name, "sample", False)]
                members = [(int(number), run == number) for number in np.unique(run[run >= 0])]
            else:
                members = _runs_of_poses(view(batch.column("token_hash")), *poses)
            for number, member in members:
                writers[number].write_batch(rows.filter(arrow(member)))
            if name == "sample_data":
                used = run >= 0
                hashes.append(view(batch.column("ego_pose_token_hash"))[used])
                runs.append(run[used])
    hash_, run_ = np.concatenate(hashes), np.concatenate(runs)
    order = np.lexsort((run_, hash_))
    return hash_[order], run_[order]


def _runs_of_poses(hashes: np.ndarray, known: np.ndarray, runs: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Return runs, and which poses each of them needs; a pose that several runs need, or whose hash
    does, goes to all of them.
    """
    members: dict[int, np.ndarray] = {}
    order = np.argsort(hashes)
    first, last = (np.empty(len(hashes), dtype=np.int64) for _ in range(2))
    first[order] = np.searchsorted(known, hashes[order], side="left")
    last[order] = np.searchsorted(known, hashes[order], side="right")
    while (asking := np.flatnonzero(first < last)).size:
        found = runs[first[asking]]
        for number in np.unique(found):
            members.setdefault(int(number), np.zeros(len(hashes), dtype=bool))[asking[found == number]] = True
        first[asking] += 1
    return sorted(members.items())


# --------------------------------------------------------------------------------------------------------------------- one store


def join_pieces(pieces: Sequence[Path], path: Path) -> None:
    """Join the stores of successive runs into one, and remove them."""

    def opened() -> Iterator[Columns]:
        counts = dict.fromkeys(("keyframe", "camera_frame", "sweep", "box"), 0)
        for number, piece in enumerate(pieces):
            columns, _ = layout.read(piece)
            yield _moved(columns, counts, number == 0)
            counts["keyframe"] += len(columns["keyframe.timestamp"])
            counts["camera_frame"] += len(columns["camera_frame.timestamp"])
            counts["sweep"] += len(columns["sweep.camera_frame"])
            counts["box"] += len(columns["box.name"])

    _, metadata = layout.read(pieces[0])
    layout.write_joined(path, opened, metadata)
    for piece in pieces:
        remove(piece)


def _moved(columns: Columns, counts: dict[str, int], first: bool) -> Columns:
    """Return a piece's columns with its numbers of rows moved on by what the pieces before it
    hold.
    """
    moved = dict(columns)
    for name in ("keyframe.camera_frame", "sweep.camera_frame"):
        moved[name] = columns[name] + np.int32(counts["camera_frame"])
    keyframe = columns["camera_frame.keyframe"]
    moved["camera_frame.keyframe"] = np.where(keyframe >= 0, keyframe + np.int32(counts["keyframe"]), keyframe)
    for kind in ("sweep", "box"):
        moved[f"keyframe.{kind}_offset"] = (columns[f"keyframe.{kind}_offset"] + counts[kind])[0 if first else 1 :]
    if not first:  # whole in every piece
        moved = {name: column for name, column in moved.items() if not name.startswith(("scene.", "calibration."))}
    return moved
