"""Are a data set's track ids tracks? Some tools write the index of the box in its frame."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from petrflow.nuscenes.names import VELOCITY_SECONDS
from petrflow.sources.xtreme1.parse import Objects

# m/s; two vehicles that pass each other on a motorway reach 80.
_IMPOSSIBLE = 80.0


def doubt_tracks(runs: Sequence[Sequence[tuple[int, Objects]]]) -> str:
    """Say why the track ids of a data set cannot be tracks; '' where nothing speaks against them.

    Parameters
    ----------
    runs
        Of each sequence the frames in time order: time in µs and boxes.
    """
    steps = impossible = 0
    for run in runs:
        for (before, earlier), (now, later) in pairwise(run):
            if not 0 < now - before <= VELOCITY_SECONDS * 1e6:
                continue
            places = {track: index for index, track in enumerate(earlier.tracks) if track}
            for index, track in enumerate(later.tracks):
                if track not in places:
                    continue
                moved = later.boxes[index, :3] - earlier.boxes[places[track], :3]
                steps += 1
                impossible += bool(np.linalg.norm(moved) * 1e6 / (now - before) > _IMPOSSIBLE)
    if not steps:
        return ""
    indices = _are_indices([objects for run in runs for _, objects in run])
    if impossible > 0.3 * steps or (indices and impossible > 0.02 * steps):
        seems = "to be the index of the box in its frame" if indices else "not to name one object"
        return (
            f"trackId seems {seems}: {impossible} of {steps} steps from frame to frame would be faster than {_IMPOSSIBLE:.0f} m/s. "
            "Tracks are not used, and no velocity is derived from them."
        )
    return ""


def _are_indices(frames: Sequence[Objects]) -> bool:
    """Whether the ids of every frame are 0, 1, 2 … or 1, 2, 3 …"""
    filled = [objects.tracks for objects in frames if objects.tracks]
    return bool(filled) and any(
        all(set(tracks) == {str(first + index) for index in range(len(tracks))} for tracks in filled)
        for first in (0, 1)
    )
