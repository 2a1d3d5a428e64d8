"""Six cameras and a lidar on a vehicle, in nuScenes' arrangement, a little different on every
vehicle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from petrflow.nuscenes.names import LIDAR, LIDAR_HEIGHT

# channel: position in the ego frame (m; x forward, y left, z up), viewing direction (deg, left of
# forward), focal length in image widths, trigger time before the lidar sweep's timestamp (s). The
# wide one looks back.
_CAMERAS = {
    "CAM_FRONT": ((1.70, 0.00, 1.51), 0.0, 0.79, 0.036),
    "CAM_FRONT_RIGHT": ((1.55, -0.49, 1.50), -56.0, 0.79, 0.028),
    "CAM_BACK_RIGHT": ((1.02, -0.48, 1.56), -110.0, 0.79, 0.020),
    "CAM_BACK": ((0.03, 0.00, 1.58), 180.0, 0.506, 0.011),
    "CAM_BACK_LEFT": ((1.03, 0.48, 1.59), 109.0, 0.79, 0.002),
    "CAM_FRONT_LEFT": ((1.53, 0.49, 1.51), 55.0, 0.79, 0.044),
}
_MIDDLE = 0.8  # m before the rear axle: the point that `camera_spacing` leaves where it is
_FOCAL_LENGTH = 0.79  # image widths, of the cameras that do not look back
CAMERA_NAMES = tuple(_CAMERAS)
TRIGGER_LEAD = {name: row[3] for name, row in _CAMERAS.items()}


@dataclass(frozen=True)
class Vehicle:
    """How one vehicle carries its sensors; the defaults are nuScenes' car.

    Attributes
    ----------
    camera_height, lidar_height : float, m by which they sit higher
    camera_pitch : float, deg by which the cameras look down
    camera_spacing : float, factor on the cameras' distances from one another in x and y
    focal_length : float, image widths, of all cameras but the rear one, which keeps its ratio
    """

    camera_height: float = 0.0
    camera_pitch: float = 0.0
    camera_spacing: float = 1.0
    focal_length: float = _FOCAL_LENGTH
    lidar_height: float = 0.0


def draw_vehicle(rng: np.random.Generator, settings: Mapping[str, float | Sequence[float]]) -> Vehicle:
    """One vehicle of a data set's `vehicle` settings, each a number or a pair to draw between."""
    drawn = {}
    for key in sorted(settings):
        value = settings[key]
        low, high = (value, value) if isinstance(value, int | float) else value
        drawn[key] = float(rng.uniform(low, high))
    return Vehicle(**drawn)


@dataclass(frozen=True)
class Sensor:
    """Where a sensor sits: `translation` (3,) m and `rotation` (3, 3), sensor frame to ego frame;
    `intrinsic` (3, 3) or None.
    """

    channel: str
    translation: np.ndarray
    rotation: np.ndarray
    intrinsic: np.ndarray | None


def _euler(roll: float, pitch: float, yaw: float) -> np.ndarray:
    """Rotation matrix of yaw about z, after pitch about y, after roll about x (rad)."""
    cr, sr, cp, sp, cy, sy = np.cos(roll), np.sin(roll), np.cos(pitch), np.sin(pitch), np.cos(yaw), np.sin(yaw)
    rx = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    ry = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    rz = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    return rz @ ry @ rx


def euler_matrix(angles: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) of (roll, pitch, yaw) in rad: body frame to the frame the angles are
    given in.
    """
    return _euler(*(float(a) for a in angles))


def make_rig(rng: np.random.Generator, image_size: tuple[int, int], vehicle: Vehicle = Vehicle()) -> list[Sensor]:
    """Draw one vehicle's calibration for images of `image_size` (width, height) pixels."""
    width, height = image_size
    zoom = vehicle.focal_length / _FOCAL_LENGTH
    optical = np.array(
        [[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]
    )  # camera x right, y down, z forward -> ego
    sensors = []
    for channel, (position, direction, focal, _) in _CAMERAS.items():
        roll, pitch = rng.uniform(-0.6, 0.6, size=2).tolist()
        angles = np.radians([roll, pitch + vehicle.camera_pitch, direction + rng.uniform(-1.2, 1.2)])
        rotation = euler_matrix(angles) @ optical
        f = focal * zoom * width * rng.uniform(0.993, 1.007)
        centre = (width * (0.51 + rng.uniform(-0.01, 0.01)), height * (0.54 + rng.uniform(-0.01, 0.01)))
        intrinsic = np.array([[f, 0.0, centre[0]], [0.0, f, centre[1]], [0.0, 0.0, 1.0]])
        place = _mounted(position, vehicle) + rng.uniform(-0.02, 0.02, size=3)
        sensors.append(Sensor(channel, place, rotation, intrinsic))
    # nuScenes' lidar frame: x right, y forward, z up.
    tilt = np.radians([rng.uniform(-1.0, 1.0), rng.uniform(-1.0, 1.0), -90.0 + rng.uniform(-0.6, 0.6)])
    place = np.array([0.94, 0.0, LIDAR_HEIGHT + vehicle.lidar_height]) + rng.uniform(-0.02, 0.02, size=3)
    sensors.append(Sensor(LIDAR, place, euler_matrix(tilt), None))
    return sensors


def _mounted(position: tuple[float, float, float], vehicle: Vehicle) -> np.ndarray:
    """Where `vehicle` carries a camera that nuScenes' car has at `position`: (3,) m, ego frame."""
    x, y, z = position
    if vehicle.camera_spacing != 1.0:
        x, y = _MIDDLE + (x - _MIDDLE) * vehicle.camera_spacing, y * vehicle.camera_spacing
    return np.array([x, y, z + vehicle.camera_height])
