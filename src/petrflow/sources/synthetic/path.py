"""The line a scene's ego vehicle drives, and the frame (s, d) along it in which everything else is
placed.

``s`` is the distance along the line in metres (0 where the scene begins), ``d`` the offset to the
left of it in metres. Beyond both ends of the drive the line goes straight on, so that the road does
not end in front of the camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

EXTENSION = 90.0  # metres of straight road before the first and after the last ego position
_STEP = 0.01  # s, integration step of the drive
_SPACING = 0.2  # m, spacing of the stored line


@dataclass(frozen=True)
class Drive:
    """One drive of the ego vehicle: where it is at each moment and the line it follows.

    Attributes
    ----------
    times, distances : (T,) float64, s since scene start and m along the line
    line_s, line_xy, line_yaw : (P,), (P, 2), (P,) float64, the line every 0.2 m, global frame, m and rad
    """

    times: np.ndarray
    distances: np.ndarray
    line_s: np.ndarray
    line_xy: np.ndarray
    line_yaw: np.ndarray

    @property
    def length(self) -> float:
        """Metres the ego vehicle covers in the scene."""
        return float(self.distances[-1])

    def ego_distance(self, time: np.ndarray | float) -> np.ndarray:
        """Distance along the line at `time` (s since scene start)."""
        return np.interp(time, self.times, self.distances)

    def point(self, s: np.ndarray, d: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Global position (..., 2) and heading (...,) of the points (s, d)."""
        s = np.asarray(s, dtype=np.float64)
        yaw = np.interp(s, self.line_s, self.line_yaw)
        x = np.interp(s, self.line_s, self.line_xy[:, 0])
        y = np.interp(s, self.line_s, self.line_xy[:, 1])
        # Past the stored line: straight on, so that traffic that leaves the road keeps its
        # velocity.
        past = s - np.clip(s, self.line_s[0], self.line_s[-1])
        x = x + past * np.cos(yaw) - d * np.sin(yaw)
        y = y + past * np.sin(yaw) + d * np.cos(yaw)
        return np.stack([x, y], axis=-1), yaw

    def ego_pose(self, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Ego position (3,) m and (roll, pitch, yaw) rad in the global frame at `time` (s since
        scene start).
        """
        xy, yaw = self.point(self.ego_distance(time))
        # The body leans a little, as a sprung one does: enough to make a pipeline that drops roll
        # and pitch visible.
        roll = 0.004 * np.sin(1.7 * time + 0.3)
        pitch = 0.005 * np.sin(1.1 * time + 1.2)
        return np.array([xy[0], xy[1], 0.0]), np.array([roll, pitch, float(yaw)])


def make_drive(rng: np.random.Generator, duration: float) -> Drive:
    """Draw a drive of `duration` seconds: 4 to 9 m/s, straight on, bending or turning, never
    tighter than 20 m.
    """
    times = np.arange(0.0, duration + 1.0, _STEP)
    speed = rng.uniform(4.5, 8.0) + rng.uniform(0.3, 1.2) * np.sin(rng.uniform(0.3, 0.8) * times + rng.uniform(0, 6.28))
    distances = np.concatenate([[0.0], np.cumsum(0.5 * (speed[1:] + speed[:-1]) * _STEP)])
    length = distances[-1]

    line_s = np.arange(-EXTENSION, length + EXTENSION + _SPACING, _SPACING)
    curvature = np.zeros_like(line_s)
    # Turns as raised-cosine bumps of curvature over a stretch of the line; their integral is the
    # angle turned.
    for _ in range(int(rng.integers(1, 3))):
        stretch = rng.uniform(30.0, 60.0)
        angle = rng.choice([-1.0, 1.0]) * rng.uniform(np.radians(8.0), np.radians(65.0))
        angle = np.clip(angle, -stretch / 2 / 20.0, stretch / 2 / 20.0)
        centre = rng.uniform(0.1, 0.9) * length
        phase = np.clip((line_s - centre) / stretch, -0.5, 0.5)
        curvature += angle / stretch * (1.0 + np.cos(2 * np.pi * phase)) * (np.abs(phase) < 0.5)
    curvature = np.clip(curvature, -0.05, 0.05)
    yaw = rng.uniform(-np.pi, np.pi) + np.concatenate([[0.0], np.cumsum(curvature[:-1] * _SPACING)])
    middle = 0.5 * (yaw[1:] + yaw[:-1])
    steps = _SPACING * np.stack([np.cos(middle), np.sin(middle)], axis=-1)
    xy = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    xy = xy - xy.min(axis=0) + 40.0 + rng.uniform(0.0, 5.0, size=2)
    return Drive(times, distances, line_s, xy, yaw)
