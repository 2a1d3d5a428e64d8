"""Name and order the cameras of an export, and find the vehicle's forward direction in its point cloud."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from petrflow.errors import PetrflowError
from petrflow.geometry import quaternion_to_matrix, rigid, wrap_angle, yaw_to_quaternion
from petrflow.sources.xtreme1.frames import image_folder_index
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
_SIDES = {"CAM_LEFT": 90, "CAM_RIGHT": -90}
_AXES = {"+x": 0.0, "+y": 90.0, "-x": 180.0, "-y": -90.0}
# Height of nuScenes' LIDAR_TOP above the ground, m: published weights have learned where the ground is from there.
LIDAR_HEIGHT = 1.84


def camera_entries(indices: list[int], settings: Settings) -> dict[int, int]:
    """Which camera_config entry belongs to which image folder: ``{folder number: entry}``. As in Xtreme1, the number is the entry."""
    if settings.camera_order is None:
        return {index: index for index in indices}
    numbers = [image_folder_index(folder) for folder in settings.camera_order]
    for folder, number in zip(settings.camera_order, numbers, strict=True):
        if number not in indices:
            raise PetrflowError(f"`camera_order` names {folder}, which the export does not hold.")
    missing = sorted(set(indices) - set(numbers))
    if missing:
        raise PetrflowError(f"`camera_order` leaves out camera_image_{missing[0]}. List every image folder once.")
    return {int(number): entry for entry, number in enumerate(numbers) if number is not None}


def forward_axis(directions: Mapping[int, np.ndarray], names: Mapping[int, str] | None, forward: str) -> str:
    """Say which axis of the point cloud points ahead: '+x', '+y', '-x' or '-y'.

    Parameters
    ----------
    directions
        Viewing direction of each camera in the point cloud's frame, (3,) float64, by folder number.
    names
        Channels by folder number where the config gives them; CAM_FRONT then decides.
    forward
        The setting: an axis, or 'auto'. Without names, 'auto' takes the axis under which the cameras look most like a ring of
        nuScenes' six with the first one in front.
    """
    if forward != "auto":
        return forward
    fronts = [index for index, name in (names or {}).items() if name == "CAM_FRONT"]
    first = fronts[0] if fronts else min(directions)

    def cost(axis: str) -> float:
        turns = {index: _azimuth(direction, axis) for index, direction in directions.items()}
        ring = (
            0.0
            if fronts
            else float(np.mean([min(_apart(turn, other) for other in _CHANNELS.values()) for turn in turns.values()]))
        )
        return ring + 0.5 * _apart(turns[first], 0.0)

    return min(_AXES, key=cost)


def derive_names(directions: Mapping[int, np.ndarray], axis: str) -> dict[int, str]:
    """Name cameras by where they look; ``{folder number: channel}`` in clockwise order from the front, as nuScenes' own list goes."""
    turns = {index: _azimuth(direction, axis) for index, direction in directions.items()}
    names: dict[int, str] = {}
    for index in sorted(
        turns, key=lambda index: (min(_apart(turns[index], other) for other in _CHANNELS.values()), index)
    ):
        sides = [name for name, turn in _SIDES.items() if _apart(turns[index], turn) < 8]
        name = sides[0] if sides else min(_CHANNELS, key=lambda name: _apart(turns[index], _CHANNELS[name]))
        twins = sum(taken == name or taken.startswith(f"{name}_0") for taken in names.values())
        names[index] = name if not twins else f"{name}_0{twins + 1}"
    return {index: names[index] for index in sorted(names, key=lambda index: ((20 - turns[index]) % 360, index))}


def describe_directions(directions: Mapping[int, np.ndarray], names: Mapping[int, str], axis: str) -> list[str]:
    """One line a camera for the log: what it is called and why."""
    lines = []
    for index, name in names.items():
        turn = _azimuth(directions[index], axis)
        side = "ahead" if abs(turn) < 0.5 else f"{abs(turn):.0f} degrees to the {'left' if turn > 0 else 'right'} of it"
        lines.append(f"camera_image_{index} -> {name}: looks {side} (the cloud's {axis} axis is ahead)")
    return lines


def lidar_from_cloud(axis: str, origin_height: float | None) -> np.ndarray:
    """Return the (4, 4) transform into nuScenes' LIDAR_TOP axes: x right, y ahead, z up.

    Published weights expect those axes, and the ground about `LIDAR_HEIGHT` below the origin. The height is changed only where the
    config gives the height of the cloud's origin above the ground, `origin_height`, in m.
    """
    rotation = np.rint(quaternion_to_matrix(yaw_to_quaternion(np.radians(90.0 - _AXES[axis]))))
    lift = 0.0 if origin_height is None else origin_height - LIDAR_HEIGHT
    return rigid(rotation, np.array([0.0, 0.0, lift]))


def ego_from_lidar() -> np.ndarray:
    """Return the (4, 4) pose of LIDAR_TOP in the ego frame: ego's x is ahead, its origin on the ground below the lidar."""
    return rigid(np.rint(quaternion_to_matrix(yaw_to_quaternion(-np.pi / 2))), np.array([0.0, 0.0, LIDAR_HEIGHT]))


def _azimuth(direction: np.ndarray, axis: str) -> float:
    """Degrees from the forward axis towards the left, within [-180, 180)."""
    return float(np.degrees(wrap_angle(np.arctan2(direction[1], direction[0]) - np.radians(_AXES[axis]))))


def _apart(first: float, second: float) -> float:
    return abs((first - second + 180.0) % 360.0 - 180.0)
