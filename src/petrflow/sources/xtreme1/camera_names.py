"""Name and order the cameras of an export, and find the vehicle's forward direction in its point
cloud.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from petrflow.errors import PetrflowError
from petrflow.geometry import quaternion_to_matrix, rigid, wrap_angle, yaw_to_quaternion
from petrflow.nuscenes.names import LIDAR_HEIGHT
from petrflow.sources.xtreme1.frames import camera_of_folder
from petrflow.sources.xtreme1.settings import Settings

# Where nuScenes' cameras look, in degrees from forward towards the left.
_CHANNELS = {
    "CAM_FRONT": 0,
    "CAM_FRONT_LEFT": 55,
    "CAM_BACK_LEFT": 110,
    "CAM_BACK": 180,
    "CAM_BACK_RIGHT": -110,
    "CAM_FRONT_RIGHT": -55,
}
# A camera may look this many degrees away from where its name says.
_NAMED_WITHIN = 50.0
_SIDES = {"CAM_LEFT": 90, "CAM_RIGHT": -90}
_AXES = {"+x": 0.0, "+y": 90.0, "-x": 180.0, "-y": -90.0}


def folder_of(camera: str) -> str:
    """`camera_image_0` for camera '0': how messages and the configuration call it."""
    return f"camera_image_{camera}"


def camera_entries(present: Sequence[str], count: int, settings: Settings, where: str) -> dict[str, int]:
    """Which entry of camera_config belongs to which image folder.

    Parameters
    ----------
    present
        All cameras of the export, in natural order.
    count
        Entries in camera_config.
    where
        The camera_config file, for messages.

    Returns
    -------
    ``{camera: entry}``. Where there are as many entries as folders, the first folder has the first
    entry, as in Xtreme1 since 0.8; where there are not, folder N has entry N, as until 0.7.
    """
    if settings.camera_order is not None:
        order = [camera_of_folder(folder) for folder in settings.camera_order]
        for folder, camera in zip(settings.camera_order, order, strict=True):
            if camera not in present:
                raise PetrflowError(f"`camera_order` names {folder}, which the export does not hold.")
        missing = [camera for camera in present if camera not in order]
        if missing and not settings.cameras:
            raise PetrflowError(f"`camera_order` leaves out {folder_of(missing[0])}. List every image folder once.")
        return {str(camera): entry for entry, camera in enumerate(order)}
    if count == len(present):
        return {camera: entry for entry, camera in enumerate(present)}
    entries = {camera: int(camera) for camera in present if camera.isdecimal() and int(camera) < count}
    used = [camera_of_folder(folder) for folder in settings.cameras] if settings.cameras else present
    outside = [camera for camera in present if camera in used and camera not in entries]
    if outside:
        raise PetrflowError(
            f"{where} has {count} cameras and the export has {len(present)} image folders ({', '.join(map(folder_of, present))}): nothing says "
            f"which entry belongs to {folder_of(outside[0])}. Add its calibration, or list the folders of the entries in `camera_order`."
        )
    return entries


def entries_by_name(present: Sequence[str], directions: Sequence[np.ndarray]) -> tuple[dict[str, int], str]:
    """Pair cameras that are named by where they look with the entries that look there.

    Parameters
    ----------
    present
        Cameras by the names of their folders, such as 'front_left'.
    directions
        Viewing direction of each entry of camera_config in the point cloud's frame, (3,).

    Returns
    -------
    ``{camera: entry}``, and the cloud's axis that points ahead; empty where a name says nothing,
    two say the same, or no axis fits all.
    """
    wanted = [_azimuth_of_name(camera) for camera in present]
    if None in wanted or len(set(wanted)) < len(wanted) or len(wanted) < 2:
        return {}, ""
    best: tuple[float, dict[str, int], str] = (np.inf, {}, "")
    for axis in _AXES:
        apart = np.array(
            [[_apart(_azimuth(direction, axis), float(turn or 0)) for direction in directions] for turn in wanted]
        )
        rows, columns = linear_sum_assignment(apart)
        if apart[rows, columns].max() < _NAMED_WITHIN and apart[rows, columns].sum() < best[0]:
            pairs = {present[row]: int(column) for row, column in zip(rows, columns, strict=True)}
            best = (apart[rows, columns].sum(), pairs, axis)
    return best[1], best[2]


def _azimuth_of_name(camera: str) -> float | None:
    """Degrees from forward towards the left of a camera called 'front_left'; None for a name that
    says nothing.
    """
    words = [
        word
        for word in re.split(r"[^a-z]+", camera.lower())
        if word not in ("cam", "camera", "center", "centre", "middle", "")
    ]
    along = [word for word in words if word in ("front", "back", "rear")]
    across = [word for word in words if word in ("left", "right")]
    if len(along) > 1 or len(across) > 1 or len(along) + len(across) != len(words) or not words:
        return None
    if not across:
        return 0.0 if along == ["front"] else 180.0
    turn = {"front": 55.0, "back": 110.0, "rear": 110.0}[along[0]] if along else 90.0
    return turn if across == ["left"] else -turn


def forward_axis(directions: Mapping[str, np.ndarray], names: Mapping[str, str] | None, forward: str) -> str:
    """Say which axis of the point cloud points ahead: '+x', '+y', '-x' or '-y'.

    Parameters
    ----------
    directions
        Viewing direction of each camera in the point cloud's frame, (3,) float64, by camera, in the
        order of their folders.
    names
        Channels by camera where the config gives them; CAM_FRONT then decides.
    forward
        The setting: an axis, or 'auto'. Without names, 'auto' takes the axis under which the
        cameras look most like a ring of nuScenes' six with the first of `directions` in front.
    """
    if forward != "auto":
        return forward
    fronts = [index for index, name in (names or {}).items() if name == "CAM_FRONT"]
    first = fronts[0] if fronts else next(iter(directions))

    def cost(axis: str) -> float:
        turns = {index: _azimuth(direction, axis) for index, direction in directions.items()}
        ring = (
            0.0
            if fronts
            else float(np.mean([min(_apart(turn, other) for other in _CHANNELS.values()) for turn in turns.values()]))
        )
        return ring + 0.5 * _apart(turns[first], 0.0)

    return min(_AXES, key=cost)


def derive_names(directions: Mapping[str, np.ndarray], axis: str) -> dict[str, str]:
    """Name cameras by where they look; ``{camera: channel}`` in clockwise order from the front, as
    nuScenes' own list goes.
    """
    turns = {index: _azimuth(direction, axis) for index, direction in directions.items()}
    places = {index: place for place, index in enumerate(directions)}
    names: dict[str, str] = {}
    for index in sorted(
        turns, key=lambda index: (min(_apart(turns[index], other) for other in _CHANNELS.values()), places[index])
    ):
        sides = [name for name, turn in _SIDES.items() if _apart(turns[index], turn) < 8]
        name = sides[0] if sides else min(_CHANNELS, key=lambda name: _apart(turns[index], _CHANNELS[name]))
        twins = sum(taken == name or taken.startswith(f"{name}_0") for taken in names.values())
        names[index] = name if not twins else f"{name}_0{twins + 1}"
    return {
        index: names[index] for index in sorted(names, key=lambda index: ((20 - turns[index]) % 360, places[index]))
    }


def describe_directions(directions: Mapping[str, np.ndarray], names: Mapping[str, str], axis: str) -> list[str]:
    """One line a camera for the log: what it is called and why."""
    lines = []
    for index, name in names.items():
        turn = _azimuth(directions[index], axis)
        side = "ahead" if abs(turn) < 0.5 else f"{abs(turn):.0f} degrees to the {'left' if turn > 0 else 'right'} of it"
        lines.append(f"{folder_of(index)} -> {name}: looks {side} (the cloud's {axis} axis is ahead)")
    return lines


def lidar_from_cloud(axis: str, origin_height: float | None) -> np.ndarray:
    """Return the (4, 4) transform into nuScenes' LIDAR_TOP axes: x right, y ahead, z up.

    Published weights expect those axes, and the ground about `LIDAR_HEIGHT` below the origin. The
    height is changed only where the config gives the height of the cloud's origin above the ground,
    `origin_height`, in m.
    """
    rotation = np.rint(quaternion_to_matrix(yaw_to_quaternion(np.radians(90.0 - _AXES[axis]))))
    lift = 0.0 if origin_height is None else origin_height - LIDAR_HEIGHT
    return rigid(rotation, np.array([0.0, 0.0, lift]))


def ego_from_lidar() -> np.ndarray:
    """Return the (4, 4) pose of LIDAR_TOP in the ego frame: ego's x is ahead, its origin on the
    ground below the lidar.
    """
    return rigid(np.rint(quaternion_to_matrix(yaw_to_quaternion(-np.pi / 2))), np.array([0.0, 0.0, LIDAR_HEIGHT]))


def _azimuth(direction: np.ndarray, axis: str) -> float:
    """Degrees from the forward axis towards the left, within [-180, 180)."""
    return float(np.degrees(wrap_angle(np.arctan2(direction[1], direction[0]) - np.radians(_AXES[axis]))))


def _apart(first: float, second: float) -> float:
    return abs((first - second + 180.0) % 360.0 - 180.0)
