"""Makes one scene: simulates it, draws its images, sweeps its lidar, fills its table rows. A pure
function of seed, name and settings.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from petrflow.nuscenes.names import LIDAR
from petrflow.sources.synthetic.ground import paint
from petrflow.sources.synthetic.population import make_world
from petrflow.sources.synthetic.rig import CAMERA_NAMES, Sensor, draw_vehicle, euler_matrix, make_rig
from petrflow.sources.synthetic.sensors import lidar, shapes, weather
from petrflow.sources.synthetic.sensors.camera import Faces, Renderer, View
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
    vehicle: Mapping[str, float | Sequence[float]] = field(default_factory=dict)
    light: str | Sequence[str] = "day"


class Simulation:
    """A scene's world, vehicle, light and renderer, without files: what `make_scene` writes down,
    for whoever wants to look inside.
    """

    def __init__(self, name: str, settings: SceneSettings) -> None:
        self.name, self.settings = name, settings
        self._seed = [settings.seed, zlib.crc32(name.encode())]
        rng = np.random.default_rng(self._seed)
        # Vehicle and light draw from generators of their own: the streets of a seed are the same whatever records them.
        mounting = draw_vehicle(np.random.default_rng([*self._seed, zlib.crc32(b"vehicle")]), settings.vehicle)
        self.vehicle = f"p{1 + int(rng.integers(4)):03d}"
        self.rig: dict[str, Sensor] = {
            sensor.channel: sensor for sensor in make_rig(rng, settings.image_size, mounting)
        }
        self.duration = (settings.keyframes - 1) * KEYFRAME_PERIOD
        self.world: World = make_world(rng, self.duration, settings.density)
        self.ground, self.drivable = paint(rng, self.world.drive, self.world.layout)
        built = [shapes.build(thing.model, thing.size, rng) for thing in self.world.things]
        vertices, counts, normals, colors, materials = (np.concatenate(column) for column in zip(*built, strict=True))
        starts = np.concatenate([[0], np.cumsum([len(faces[0]) for faces in built])])
        self.faces = Faces(vertices, counts, normals, colors, materials, starts)
        self.radii = np.array([np.linalg.norm(thing.size) / 2 for thing in self.world.things])
        self.weather, weather_rng = _draw_weather(self._seed, settings.light)
        self.light = weather.draw_light(self.weather, rng if self.weather == "day" else weather_rng)
        self.lamps = np.array([thing.xy for thing in self.world.things if thing.model == "pole"]).reshape(-1, 2)
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
        things = self.world.poses(time)
        picture, instance, seen, alone = self.renderer.draw(view, *things)
        if self.weather != "day":
            position, angles = self.world.drive.ego_pose(time)
            seed = weather.noise_seed(self._seed, CAMERA_NAMES.index(channel), time)
            ego = (euler_matrix(angles), position)
            picture = weather.expose(self.weather, picture, view, self.renderer, self.lamps, ego, things, seed)
        return picture, instance, seen, alone

    def sweep(self, time: float) -> np.ndarray:
        """The lidar's points at `time`; returns as `lidar.sweep`."""
        rotation, position = self.sensor_pose(LIDAR, time)
        sparse = np.array([not thing.category for thing in self.world.things])
        return lidar.sweep(self.faces, self.radii, sparse, *self.world.poses(time), rotation, position)


def _draw_weather(seed: Sequence[int], light: str | Sequence[str]) -> tuple[str, np.random.Generator]:
    """One scene's light or weather out of a data set's `light`, and the generator of its details."""
    rng = np.random.default_rng([*seed, zlib.crc32(b"light")])
    kinds = [light] if isinstance(light, str) else list(light)
    return kinds[int(rng.integers(len(kinds)))], rng
