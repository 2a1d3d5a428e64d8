"""Cut frames into nuScenes scenes, each wholly in one split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from petrflow.errors import PetrflowError
from petrflow.sources.splits import split_by_hash
from petrflow.sources.xtreme1.frames import FrameFiles, read_text

_BLOCKS = 10


@dataclass(frozen=True)
class Scene:
    """A run of consecutive frames, in time order, that belongs to one split ('train' or 'val')."""

    name: str
    split: str
    frames: tuple[FrameFiles, ...]


def cut_scenes(
    frames: Sequence[FrameFiles],
    times: Mapping[str, int] | None,
    tracks: Mapping[str, set[str]],
    splits: Mapping[str, Any],
    gap: float,
) -> list[Scene]:
    """Cut sorted frames into scenes so that nothing that looks back in time crosses a gap, a change
    of scene or a change of split.

    Parameters
    ----------
    frames
        Sorted by scene, and by time within a scene.
    times
        Timestamps in µs by label, None where time is unknown.
    tracks
        The trackIds of each frame by label.
    splits
        The setting: ``{train, val}`` of scene names or file lists, or ``{ratio, seed, by}``, ratio
        being val's share.
    gap
        Seconds without a frame after which a new scene starts.
    """
    runs = _runs(frames, times, tracks, gap)
    split_of = (
        _split_by_lists(frames, splits) if splits.get("train") or splits.get("val") else _split_by_ratio(runs, splits)
    )
    pieces: list[list[FrameFiles]] = []
    for run in runs:
        previous = None
        for frame in run:
            split = split_of.get(frame.label)
            if split is not None and split != previous:
                pieces.append([])
            if split is not None:
                pieces[-1].append(frame)
            previous = split
    scenes = _named(pieces, split_of)
    for split in ("train", "val"):
        if not any(scene.split == split for scene in scenes):
            raise PetrflowError(
                f"The split '{split}' is empty: {len(frames)} labelled frames, none of them in it. Change `splits`, or label more frames."
            )
    return scenes


def _runs(
    frames: Sequence[FrameFiles], times: Mapping[str, int] | None, tracks: Mapping[str, set[str]], gap: float
) -> list[list[FrameFiles]]:
    """Frames that follow one another. A flat folder without time whose neighbours share no track is
    no sequence at all.
    """
    runs: list[list[FrameFiles]] = []
    flat = [frame for frame in frames if not frame.scene]
    unrelated = times is None and not any(tracks[a.label] & tracks[b.label] for a, b in pairwise(flat))
    for frame in frames:
        last = runs[-1][-1] if runs else None
        follows = last is not None and last.scene == frame.scene and not (unrelated and not frame.scene)
        if follows and last is not None and times is not None:
            follows = times[frame.label] - times[last.label] <= gap * 1e6
        if follows:
            runs[-1].append(frame)
        else:
            runs.append([frame])
    return runs


def _named(pieces: list[list[FrameFiles]], split_of: Mapping[str, str]) -> list[Scene]:
    counts: dict[str, int] = {}
    for piece in pieces:
        counts[piece[0].scene] = counts.get(piece[0].scene, 0) + 1
    seen: dict[str, int] = {}
    scenes = []
    for piece in pieces:
        source = piece[0].scene
        name = source or "scene"
        if counts[source] > 1:
            name = f"{name}-{seen.get(source, 0):04d}"
            seen[source] = seen.get(source, 0) + 1
        scenes.append(Scene(name, split_of[piece[0].label], tuple(piece)))
    return scenes


def _split_by_lists(frames: Sequence[FrameFiles], splits: Mapping[str, Any]) -> dict[str, str]:
    """Read `{train: ..., val: ...}`: lists of scenes, or text files with one frame a line; a side
    left out gets the rest.
    """
    split_of: dict[str, str] = {}
    for split in ("train", "val"):
        for label in _members(frames, splits.get(split), split):
            if split_of.setdefault(label, split) != split:
                raise PetrflowError(f"`splits` puts frame {label} into train and val. A frame may be in one of them.")
    if not splits.get("train") or not splits.get("val"):
        rest = "val" if splits.get("train") else "train"
        for frame in frames:
            split_of.setdefault(frame.label, rest)
    return split_of


def _members(frames: Sequence[FrameFiles], value: Any, split: str) -> list[str]:
    if not value:
        return []
    if isinstance(value, str):
        path = Path(value).expanduser()
        if not path.is_file():
            raise PetrflowError(
                f"`splits: {{{split}: {value}}}` is no file. Give a text file with one frame a line, or a list of scene names."
            )
        lines = [line.strip() for line in read_text(path).splitlines() if line.strip() and not line.startswith("#")]
        by_name: dict[str, list[str]] = {}
        for frame in frames:
            by_name.setdefault(frame.label, []).append(frame.label)
            if frame.scene:
                by_name.setdefault(frame.name, []).append(frame.label)
        labels = []
        for line in lines:
            found = sorted(set(by_name.get(line, by_name.get(Path(line).stem, []))))
            if len(found) != 1:
                why = (
                    f"fits {found[0]} and {found[1]}: write scene/name"
                    if found
                    else "is no labelled frame of the export"
                )
                raise PetrflowError(f"{path} lists '{line}', which {why}.")
            labels.append(found[0])
        return labels
    scenes = {frame.scene for frame in frames}
    for name in value:
        if str(name) not in scenes:
            raise PetrflowError(
                f"`splits.{split}` names scene '{name}'. The export holds: {', '.join(sorted(scenes)) if any(scenes) else 'no scenes'}."
            )
    wanted = {str(name) for name in value}
    return [frame.label for frame in frames if frame.scene in wanted]


def _split_by_ratio(runs: list[list[FrameFiles]], splits: Mapping[str, Any]) -> dict[str, str]:
    """Draw `ratio` of the scenes by a hash of their names, or, within a single one, of ten blocks
    of neighbouring frames.
    """

    def unit_name(unit: list[FrameFiles]) -> str:
        return unit[0].scene if len(scene_names) > 1 else unit[0].label

    ratio, by = splits.get("ratio", 0.2), splits.get("by")
    if not isinstance(ratio, int | float) or not 0 < ratio < 1 or by not in (None, "scene", "frame"):
        raise PetrflowError("`splits` by ratio needs 0 < ratio < 1, and `by` scene or frame.")
    units: list[list[FrameFiles]] = []
    units_have_names = True
    scene_names = {run[0].scene for run in runs}
    if by == "scene" or (by is None and len(scene_names) > 1):
        units = [[frame for run in runs if run[0].scene == scene for frame in run] for scene in sorted(scene_names)]
    elif by is None and len(runs) > 1:
        units = runs
    else:
        units_have_names = False
        units = [
            list(block) for run in runs for block in np.array_split(np.array(run, dtype=object), min(_BLOCKS, len(run)))
        ]
    if len(units) < 2:
        raise PetrflowError(
            "There is one unit to split (a scene, or a frame). Label more, or list frames for train and val in `splits`."
        )
    seed = int(splits.get("seed", 0))
    if units_have_names:
        split_of = split_by_hash([unit_name(unit) for unit in units], ratio, seed)
        return {frame.label: split_of[unit_name(unit)] for unit in units for frame in unit}
    count = min(max(1, round(ratio * len(units))), len(units) - 1)
    chosen = set(np.random.default_rng(seed).permutation(len(units))[:count].tolist())
    return {frame.label: "val" if index in chosen else "train" for index, unit in enumerate(units) for frame in unit}
