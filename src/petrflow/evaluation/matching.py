"""Which detection matches which labelled box, for all keyframes and classes at once.

The devkit goes through the detections of a class in the order of their scores; each takes the
nearest box of its keyframe and class that is still free, if that is near enough. Such a choice in
turn is the stable matching in which every box prefers the detection of the higher score.
:func:`assign` finds it in rounds in which all detections ask at once, which numpy can do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Boxes:
    """Boxes of many keyframes in the global frame, those of a keyframe in one piece.

    Attributes
    ----------
    keyframe : (n,) int64
        Number of the keyframe.
    label : (n,) int16
        Number of the class.
    centre : (n, 3) float64
        m.
    size : (n, 3) float64
        Width, length, height, m.
    heading : (n,) float64
        Angle from the x axis towards y, rad.
    velocity : (n, 2) float64
        m/s; NaN where unknown.
    attribute : (n,) int16
        Number of the attribute; 0 is none.
    distance : (n,) float64
        From the vehicle to the centre, seen from above, m.
    score : (n,) float64
        Of a detection; empty for labelled boxes.
    """

    keyframe: np.ndarray
    label: np.ndarray
    centre: np.ndarray
    size: np.ndarray
    heading: np.ndarray
    velocity: np.ndarray
    attribute: np.ndarray
    distance: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.keyframe)

    def take(self, rows: np.ndarray) -> Boxes:
        """Return some boxes, by number or by mask."""
        columns = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Boxes(**{name: column[rows] if len(column) else column for name, column in columns.items()})


@dataclass(frozen=True)
class Candidates:
    """Pairs of a detection and a box that may match.

    Attributes
    ----------
    first : (P + 1,) int64
        Detection p's pairs are ``first[p]`` to ``first[p + 1]``, the nearest box first.
    truth : (Q,) int64
        Number of the labelled box.
    distance : (Q,) float64
        Between the centres, seen from above, m.
    """

    first: np.ndarray
    truth: np.ndarray
    distance: np.ndarray


def candidates(found: Boxes, truth: Boxes, classes: int, limit: float, rank: np.ndarray) -> Candidates:
    """Return all pairs of one keyframe and one class whose centres are nearer than ``limit`` (m),
    seen from above.

    ``rank`` (n,) int64 is the number of each detection in the order in which they choose, and in
    the pairs.
    """
    group_of_truth = truth.keyframe * classes + truth.label
    order = np.argsort(group_of_truth, kind="stable")
    groups, start, count = np.unique(group_of_truth[order], return_index=True, return_counts=True)
    if len(groups) == 0 or len(found) == 0:
        nothing = np.zeros(0, dtype=np.int64)
        return Candidates(np.zeros(len(found) + 1, dtype=np.int64), nothing, np.zeros(0))
    wanted = found.keyframe * classes + found.label
    place = np.searchsorted(groups, wanted).clip(max=len(groups) - 1)
    number = np.where(groups[place] == wanted, count[place], 0)
    detection = np.repeat(np.arange(len(found)), number)
    within = np.arange(len(detection)) - np.repeat(np.cumsum(number) - number, number)
    partner = order[np.repeat(start[place], number) + within]
    dx = found.centre[detection, 0] - truth.centre[partner, 0]
    dy = found.centre[detection, 1] - truth.centre[partner, 1]
    distance = np.sqrt(dx * dx + dy * dy)
    near = np.flatnonzero(distance < limit)
    detection, partner, distance = rank[detection[near]], partner[near], distance[near]
    # lexsort keeps the order of equal distances: the box that stands first in the table is tried
    # first, as in the devkit.
    sort = np.lexsort((distance, detection))
    first = np.concatenate([[0], np.cumsum(np.bincount(detection, minlength=len(found)))])
    return Candidates(first.astype(np.int64), partner[sort], distance[sort])


def assign(pairs: Candidates, threshold: float, truths: int) -> np.ndarray:
    """Match detections, the best first, each with the nearest box that no better one has taken.

    Parameters
    ----------
    pairs : Candidates
        Of detections in the order in which they choose.
    threshold : float
        m. Pairs at this distance or further apart do not match.
    truths : int
        How many labelled boxes there are.

    Returns
    -------
    (P,) int64
        Number of the matched box of every detection, -1 for none.
    """
    detections = len(pairs.first) - 1
    matched = np.full(detections, -1, dtype=np.int64)
    position = pairs.first[:-1].copy()
    # A detection's pairs ascend by distance, so those within the threshold are the first ones.
    near = np.concatenate([[0], np.cumsum(pairs.distance < threshold)])
    end = position + near[pairs.first[1:]] - near[pairs.first[:-1]]
    holder = np.full(
        truths, detections, dtype=np.int64
    )  # the best detection that asked so far; one past the last is nobody
    best = np.empty(truths, dtype=np.int64)
    asking = np.flatnonzero(position < end)
    while len(asking):
        target = pairs.truth[position[asking]]
        best[target[::-1]] = asking[::-1]  # of detections that ask for one box, the last one written is the best
        lost = [asking[best[target] != asking]]
        won = best[target] == asking
        winner, target = asking[won], target[won]
        before = holder[target]
        stays = before < winner
        holder[target[~stays]] = winner[~stays]
        lost += [winner[stays], before[~stays & (before < detections)]]
        asking = np.sort(np.concatenate(lost))
        position[asking] += 1
        asking = asking[position[asking] < end[asking]]
    taken = np.flatnonzero(holder < detections)
    matched[holder[taken]] = taken
    return matched


def errors(found: Boxes, truth: Boxes, periods: np.ndarray) -> np.ndarray:
    """Return the five errors of matched pairs.

    Parameters
    ----------
    found, truth : Boxes
        Of one length: detection k matches labelled box k.
    periods : (C,) float64
        Turn after which a box of a class looks the same, rad.

    Returns
    -------
    (n, 5) float64
        In the order of :data:`petrflow.evaluation.protocol.ERRORS`: distance of the centres (m), 1
        - IoU of the sizes, turn between the headings (rad), difference of the velocities (m/s, NaN
        where one is unknown), 1 where the attributes differ (NaN where the label has none).
    """
    offset = found.centre[:, :2] - truth.centre[:, :2]
    shared = np.minimum(found.size, truth.size).prod(axis=1)
    union = truth.size.prod(axis=1) + found.size.prod(axis=1) - shared
    with np.errstate(divide="ignore", invalid="ignore"):
        iou = np.where(union > 0, shared / union, 0.0)
    period = periods[truth.label]
    turn = (truth.heading - found.heading + period / 2) % period - period / 2
    change = found.velocity - truth.velocity
    attribute = np.where(truth.attribute == 0, np.nan, (truth.attribute != found.attribute).astype(np.float64))
    return np.stack(
        [
            np.sqrt(offset[:, 0] ** 2 + offset[:, 1] ** 2),
            1 - iou,
            np.abs(turn),
            np.sqrt(change[:, 0] ** 2 + change[:, 1] ** 2),
            attribute,
        ],
        axis=1,
    )


def inside_any(points: np.ndarray, keyframe: np.ndarray, racks: Boxes, rotations: np.ndarray) -> np.ndarray:
    """Say of every point whether it lies in one of its keyframe's racks, faces included.

    Parameters
    ----------
    points : (n, 3) float64
        Global frame, m.
    keyframe : (n,) int64
    racks : Boxes
    rotations : (R, 3, 3) float64
        From the racks' own axes to the global frame.

    Returns
    -------
    (n,) bool
    """
    inside = np.zeros(len(points), dtype=bool)
    for rack in np.flatnonzero(np.isin(racks.keyframe, keyframe)):
        rows = np.flatnonzero(keyframe == racks.keyframe[rack])
        width, length, height = racks.size[rack]
        half = np.array([length, width, height]) / 2
        rotation, centre = rotations[rack], racks.centre[rack]
        corner = rotation @ half + centre
        # The devkit's own test: along three edges from one corner, so that rounding at a face falls
        # the same way.
        inner = np.ones(len(rows), dtype=bool)
        for axis in range(3):
            other = half.copy()
            other[axis] *= -1
            edge = (rotation @ other + centre) - corner
            along = (points[rows] - corner) @ edge
            inner &= (along >= 0) & (along <= edge @ edge)
        inside[rows] |= inner
    return inside
