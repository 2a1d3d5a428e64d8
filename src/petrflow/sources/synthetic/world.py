"""One scene: a road, what stands and moves on it, and where everything is at each moment."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from petrflow.sources.synthetic.path import Drive

GROUND_GAP = 0.03  # m between the ground and the underside of every box, so that no ground return lies inside a box
_EGO_HALF = (2.6, 1.1)  # m, half length and half width kept free around the ego vehicle's path


@dataclass
class Thing:
    """An object or a piece of scenery.

    Either it follows the road at (s0 + speed * t, d), or it moves straight from `xy` with
    `velocity`. Frames: global, m, m/s, rad.
    """

    model: str
    category: str  # nuScenes category, '' for scenery, which is drawn and hit by the lidar but not annotated
    size: np.ndarray  # width, length, height
    attribute: str = ""
    on_road: bool = False
    s0: float = 0.0
    d: float = 0.0
    speed: float = 0.0  # m/s along the road line, negative towards its beginning
    xy: np.ndarray = field(default_factory=lambda: np.zeros(2))
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))
    yaw: float = 0.0


@dataclass(frozen=True)
class RoadLayout:
    """Where the lanes are: offsets d to the left of the ego lane's middle, m."""

    lane: float  # lane width
    right_lanes: int  # besides the ego lane
    left_lanes: int
    parking: float
    walk: float

    @property
    def right_edge(self) -> float:
        return -(0.5 + self.right_lanes) * self.lane

    @property
    def left_edge(self) -> float:
        return (0.5 + self.left_lanes) * self.lane


@dataclass
class World:
    """A scene's drive, road and things; poses of all things at a time come from `poses`."""

    drive: Drive
    layout: RoadLayout
    things: list[Thing]
    duration: float

    def poses(self, time: float, things: list[Thing] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the box centres (N, 3) m and headings (N,) rad of all things at `time`,
        global frame.
        """
        things = self.things if things is None else things
        centres, yaws = _poses(self.drive, things, np.array([time]))
        return centres[0], yaws[0]


def _poses(drive: Drive, things: list[Thing], times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres (T, N, 3) and headings (T, N) of things at times (T,)."""
    t = times[:, None]
    on_road = np.array([o.on_road for o in things], dtype=bool)
    speed = np.array([o.speed for o in things])
    d = np.array([o.d for o in things])
    road_xy, road_yaw = drive.point(np.array([o.s0 for o in things])[None] + speed[None] * t, d[None])
    road_yaw = road_yaw + np.array([o.yaw for o in things])[None]
    xy = np.array([o.xy for o in things])[None] + np.array([o.velocity for o in things])[None] * t[..., None]
    yaw = np.broadcast_to(np.array([o.yaw for o in things])[None], road_yaw.shape)
    xy = np.where(on_road[None, :, None], road_xy, xy)
    yaw = np.where(on_road[None], road_yaw, yaw)
    z = np.array([o.size[2] / 2 + GROUND_GAP for o in things])
    centre = np.concatenate([xy, np.broadcast_to(z[None, :, None], (*xy.shape[:2], 1))], axis=-1)
    return centre, yaw


# ------------------------------------------------------------------------------------------------------------ keeping apart


def _overlap(
    xy: np.ndarray,
    yaw: np.ndarray,
    half: np.ndarray,
    others_xy: np.ndarray,
    others_yaw: np.ndarray,
    others_half: np.ndarray,
) -> bool:
    """Whether a rectangle's track (T, 2), (T,), half sizes (2,) touches any of the tracks (T, N,
    2), (T, N), (N, 2).
    """
    delta = others_xy - xy[:, None]
    reach = np.hypot(*half) + np.hypot(others_half[:, 0], others_half[:, 1])
    near = (delta**2).sum(axis=-1) < reach[None] ** 2
    if not near.any():
        return False
    ti, ni = np.nonzero(near)
    delta = delta[ti, ni]
    a, b = yaw[ti], others_yaw[ti, ni]
    ha, hb = np.broadcast_to(half, (len(ti), 2)), others_half[ni]
    cos, sin = np.abs(np.cos(a - b)), np.abs(np.sin(a - b))
    apart = np.zeros(len(ti), dtype=bool)
    for angle, own, other in ((a, ha, hb), (b, hb, ha)):
        along = np.abs(delta[:, 0] * np.cos(angle) + delta[:, 1] * np.sin(angle))
        across = np.abs(-delta[:, 0] * np.sin(angle) + delta[:, 1] * np.cos(angle))
        apart |= along > own[:, 0] + other[:, 0] * cos + other[:, 1] * sin
        apart |= across > own[:, 1] + other[:, 0] * sin + other[:, 1] * cos
    return bool((~apart).any())


class Placer:
    """Accepts things that touch neither each other nor the ego vehicle's path at any moment of the
    scene.
    """

    def __init__(self, drive: Drive, duration: float) -> None:
        self.drive = drive
        self.times = np.arange(-0.2, duration + 0.4, 0.15)
        self.things: list[Thing] = []
        t = len(self.times)
        self._xy, self._yaw, self._half = np.zeros((t, 0, 2)), np.zeros((t, 0)), np.zeros((0, 2))
        xy, yaw = drive.point(np.arange(-4.0, drive.length + 8.0, 1.0))
        self._path_xy = np.broadcast_to(xy[None], (t, *xy.shape))
        self._path_yaw = np.broadcast_to(yaw[None], (t, len(yaw)))
        self._path_half = np.broadcast_to(np.array(_EGO_HALF), (len(yaw), 2))

    def add(self, *things: Thing, margin: float = 0.25) -> bool:
        """Add all of `things` or none; among themselves they may stand closer than `margin` m, but
        not touch.
        """
        centre, yaw = _poses(self.drive, list(things), self.times)
        halves = np.array([[o.size[1] / 2, o.size[0] / 2] for o in things])
        for i in range(len(things)):
            half = halves[i] + margin
            if _overlap(centre[:, i, :2], yaw[:, i], half, self._path_xy, self._path_yaw, self._path_half):
                return False
            if self.things and _overlap(centre[:, i, :2], yaw[:, i], half, self._xy, self._yaw, self._half):
                return False
            if i and _overlap(centre[:, i, :2], yaw[:, i], halves[i] + 0.03, centre[:, :i, :2], yaw[:, :i], halves[:i]):
                return False
        self.things.extend(things)
        self._xy = np.concatenate([self._xy, centre[..., :2]], axis=1)
        self._yaw = np.concatenate([self._yaw, yaw], axis=1)
        self._half = np.concatenate([self._half, halves])
        return True
