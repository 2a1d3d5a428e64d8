"""The synthetic door's `vehicle` and `light`: what they move, and what they leave as it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from petrflow.sources.synthetic import generate
from petrflow.sources.synthetic.rig import CAMERA_NAMES
from petrflow.sources.synthetic.scene import SceneSettings, Simulation
from petrflow.sources.synthetic.sensors.camera import View
from petrflow.sources.synthetic.sensors.weather import mirror_view

pytestmark = pytest.mark.xdist_group("synthetic")
PLAIN = SceneSettings(3, 2, (320, 180), 1.0, 0, 55.0, 75)
TRUCK = {"camera_height": 1.2, "camera_pitch": 12.0, "camera_spacing": 1.5, "focal_length": 0.62, "lidar_height": 0.8}
SMALL = {"scenes": 2, "keyframes": 1, "image_size": [160, 90], "sweeps": 0, "seed": 3}


def simulation(name: str = "scene-0103", **changed) -> Simulation:
    return Simulation(name, dataclasses.replace(PLAIN, **changed))


def tables(root: Path, name: str) -> list[dict]:
    return json.loads((root / "v1.0-mini" / f"{name}.json").read_text())


def digest(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def test_what_is_left_out_and_what_equals_its_default_give_the_same_files(tmp_path):
    same = {"camera_height": 0, "camera_pitch": [0, 0], "focal_length": 0.79}
    ways = {
        "absent": {},
        "vehicle": {"vehicle": same},
        "light": {"light": "day", "vehicle": {}},
        "list": {"light": ["day"]},
    }
    made = {
        name: generate(tmp_path / name, {**SMALL, **more}, progress=False, workers=1) for name, more in ways.items()
    }
    assert all(digest(tmp_path / name) == digest(tmp_path / "absent") for name in ways)
    assert made["light"]["fingerprint"] == made["absent"]["fingerprint"]


def test_the_sensors_sit_where_the_vehicle_carries_them():
    car, truck = simulation().rig, simulation(vehicle=TRUCK).rig
    middle = np.array([0.8, 0.0, 0.0])
    for channel in CAMERA_NAMES:
        before, after = car[channel], truck[channel]
        scatter = np.abs(before.translation - middle).max() * 0.02  # of the seed, which spacing does not scale
        expected = middle + (before.translation - middle) * [1.5, 1.5, 1.0] + [0.0, 0.0, 1.2]
        np.testing.assert_allclose(after.translation, expected, atol=0.011 + scatter)
        np.testing.assert_allclose(after.intrinsic[0, 0] / before.intrinsic[0, 0], 0.62 / 0.79)
        np.testing.assert_allclose(after.intrinsic[:2, 2], before.intrinsic[:2, 2])
        down = [np.degrees(np.arcsin(-sensor.rotation[2, 2])) for sensor in (before, after)]
        np.testing.assert_allclose(down[1] - down[0], 12.0, atol=1e-6)
        azimuth = [np.arctan2(sensor.rotation[1, 2], sensor.rotation[0, 2]) for sensor in (before, after)]
        np.testing.assert_allclose(azimuth[0], azimuth[1], atol=1e-9)
    np.testing.assert_allclose(truck["LIDAR_TOP"].translation - car["LIDAR_TOP"].translation, [0, 0, 0.8])


def test_vehicle_and_light_leave_a_seeds_streets_as_they_are():
    plain, other = simulation(), simulation(vehicle=TRUCK, light="night")
    assert [thing.model for thing in plain.world.things] == [thing.model for thing in other.world.things]
    for before, after in zip(plain.world.poses(0.3), other.world.poses(0.3), strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(plain.faces.colors, other.faces.colors)


def test_a_pair_is_drawn_once_a_scene_and_stays_within_its_limits():
    heights = []
    for number in range(1, 7):
        name = f"scene-{2000 + number}"
        plain, drawn = simulation(name), simulation(name, vehicle={"camera_height": [0.5, 1.5]})
        moved = [drawn.rig[c].translation[2] - plain.rig[c].translation[2] for c in CAMERA_NAMES]
        np.testing.assert_allclose(moved, moved[0])
        heights.append(moved[0])
    assert min(heights) >= 0.5 and max(heights) <= 1.5 and np.ptp(heights) > 0.2


@pytest.mark.parametrize("light", ["dusk", "night", "fog", "rain"])
def test_the_same_seed_gives_the_same_picture_and_each_light_another_one(light):
    first, again = (simulation(light=light).draw("CAM_FRONT", 0.1) for _ in range(2))
    by_day = simulation().draw("CAM_FRONT", 0.1)
    np.testing.assert_array_equal(first[0], again[0])
    assert np.abs(first[0].astype(int) - by_day[0]).mean() > 8
    np.testing.assert_array_equal(first[1], by_day[1])  # what stands where is no matter of light
    np.testing.assert_array_equal(first[2], by_day[2])


def test_a_list_of_lights_gives_scenes_of_each():
    drawn = {simulation(f"scene-{2000 + n}", light=["day", "night"]).weather for n in range(1, 9)}
    assert drawn == {"day", "night"}


def test_at_night_the_headlights_light_the_road_ahead_and_nothing_lights_the_sky():
    night, day = (simulation(light=light).draw("CAM_FRONT", 0.1) for light in ("night", "day"))
    share = night[0].mean(axis=2) / np.maximum(day[0].mean(axis=2), 1)
    ground = night[1] < 0
    assert share[:20][ground[:20]].mean() < 0.12
    assert share[-20:, 120:200][ground[-20:, 120:200]].mean() > 2 * share[:20][ground[:20]].mean()


def test_fog_takes_the_contrast_of_what_is_far():
    fog, day = (simulation(light=light) for light in ("fog", "day"))
    pictures = [s.draw("CAM_FRONT", 0.1) for s in (fog, day)]
    rotation, position = day.sensor_pose("CAM_FRONT", 0.1)
    centres, _ = day.world.poses(0.1)
    depth = ((centres - position) @ rotation)[:, 2]
    far = (pictures[0][1] >= 0) & (depth[np.maximum(pictures[0][1], 0)] > 45)
    assert far.sum() > 50
    assert pictures[0][0][far].std() < 0.6 * pictures[1][0][far].std()


def test_a_wet_road_shows_things_where_a_mirror_would():
    scene = simulation(light="rain")
    rotation, position = scene.sensor_pose("CAM_FRONT", 0.1)
    view = View(rotation, position, scene.rig["CAM_FRONT"].intrinsic, 320, 180)
    centres, yaws = scene.world.poses(0.1)
    instance = scene.renderer.draw(mirror_view(view), centres, yaws)[1][::-1]
    found = near = 0
    for index, centre in enumerate(centres):
        local = rotation.T @ (centre * [1, 1, -1] - position)  # the mirrored centre, seen by the camera itself
        if not 4 < local[2] < 30 or scene.world.things[index].model not in ("car", "bus", "truck", "trailer"):
            continue
        u, v = (view.intrinsic @ (local / local[2]))[:2]
        if 0 <= u < 320 and 0 <= v < 180:
            near += 1
            found += instance[int(v), int(u)] == index
    assert near and found
