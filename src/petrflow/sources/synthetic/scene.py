"""Makes one scene: simulates it, draws its images, sweeps its lidar, fills its table rows. A pure
function of seed, name and settings.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from petrflow.nuscenes.names import LIDAR
from petrflow.sources.synthetic.ground import paint
from petrflow.sources.synthetic.population import make_world
from petrflow.sources.synthetic.rig import Sensor, euler_matrix, make_rig
from petrflow.sources.synthetic.sensors import lidar, shapes
from petrflow.sources.synthetic.sensors.camera import Faces, Light, Renderer, View
from petrflow.sources.synthetic.world import World

KEYFRAME_PERIOD = 0.5  # s


@dataclass(frozen=True)
class SceneSettings:
    """What shapes a scene besides its name; see `petrflow.sources.synthetic` for their meaning."""

    seed: int
    keyframes: int
    image_size: tuple[int, int]
    density: float
    sweeps: int
    max_range: float
    jpeg_quality: int


class Simulation:
    """A scene's world, vehicle, light and renderer, without files: what `make_scene` writes down,
    for whoever wants to look inside.
    """

    def __init__(self, name: str, settings: SceneSettings) -> None:
        self.name, self.settings = name, settings
        rng = np.random.default_rng([settings.seed, zlib.crc32(name.encode())])
        self.vehicle = f"p{1 + int(rng.integers(4)):03d}"
        self.rig: dict[str, Sensor] = {sensor.channel: sensor for sensor in make_rig(rng, settings.image_size)}
        self.duration = (settings.keyframes - 1) * KEYFRAME_PERIOD
        self.world: World = make_world(rng, self.duration, settings.density)
        self.ground, self.drivable = paint(rng, self.world.drive, self.world.layout)
        built = [shapes.build(thing.model, thing.size, rng) for thing in self.world.things]
        vertices, counts, normals, colors, materials = (np.concatenate(column) for column in zip(*built, strict=True))
        starts = np.concatenate([[0], np.cumsum([len(faces[0]) for faces in built])])
        self.faces = Faces(vertices, counts, normals, colors, materials, starts)
        self.radii = np.array([np.linalg.norm(thing.size) / 2 for thing in self.world.things])
        self.light = _draw_light(rng)
        self.renderer = Renderer(self.faces, self.radii, self.ground, self.light, *settings.image_size)

    def sensor_pose(self, channel: str, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Rotation (3, 3) and position (3,) of a sensor at `time` (s since scene start), sensor
        frame to global frame.
        """
        position, angles = self.world.drive.ego_pose(time)
        rotation = euler_matrix(angles)
        sensor = self.rig[channel]
        return rotation @ sensor.rotation, position + rotation @ sensor.translation

    def draw(self, channel: str, time: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What a camera sees at `time`; returns as `Renderer.draw`."""
        rotation, position = self.sensor_pose(channel, time)
        intrinsic = self.rig[channel].intrinsic
        assert intrinsic is not None
        view = View(rotation, position, intrinsic, *self.settings.image_size)
        return self.renderer.draw(view, *self.world.poses(time))

    def sweep(self, time: float) -> np.ndarray:
        """The lidar's points at `time`; returns as `lidar.sweep`."""
        rotation, position = self.sensor_pose(LIDAR, time)
        sparse = np.array([not thing.category for thing in self.world.things])
        return lidar.sweep(self.faces, self.radii, sparse, *self.world.poses(time), rotation, position)


def _draw_light(rng: np.random.Generator) -> Light:
    azimuth, elevation = rng.uniform(-np.pi, np.pi), np.radians(rng.uniform(35.0, 65.0))
    sun = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    warm = rng.uniform(-8.0, 8.0)
    zenith = np.array([96.0 + warm, 146.0, 208.0 - warm]) * rng.uniform(0.9, 1.08)
    horizon = np.array([208.0 + warm, 216.0, 224.0 - warm]) * rng.uniform(0.94, 1.04)
    return Light(sun, rng.uniform(0.62, 0.74), rng.uniform(0.42, 0.56), zenith, horizon, rng.uniform(150.0, 260.0))
