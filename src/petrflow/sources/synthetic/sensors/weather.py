"""Light and weather: how a scene is lit, and what lamps, wet roads and rain do to its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from petrflow.sources.synthetic.sensors.camera import Light, Renderer, View

_MICROSECONDS = 1_000_000
_MOONLIGHT = 0.06  # share of daylight that reaches what no lamp lights
_LAMP_REACH = 7.0  # m around a street lamp within which its light falls to a third
_HEADLIGHTS = (3.6, 0.7)  # m before and above the middle of the rear axle


class Shown(NamedTuple):
    """What the pixels of a picture show.

    Attributes
    ----------
    points : (H, W, 3) float64, global frame, m; far away where the sky is
    slope : (H, W) float64, rise of the ray in m a metre of its length
    ground, sky, glowing : (H, W) bool
    """

    points: np.ndarray
    slope: np.ndarray
    ground: np.ndarray
    sky: np.ndarray
    glowing: np.ndarray


def draw_light(kind: str, rng: np.random.Generator) -> Light:
    """Sun, sky and air of one scene of `kind`: `day`, `dusk`, `night`, `fog` or `rain`."""
    elevations = {"day": (35.0, 65.0), "dusk": (13.0, 20.0)}
    azimuth, elevation = rng.uniform(-np.pi, np.pi), np.radians(rng.uniform(*elevations.get(kind, (55.0, 80.0))))
    sun = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    warm = rng.uniform(-8.0, 8.0)
    if kind == "day":
        zenith = np.array([96.0 + warm, 146.0, 208.0 - warm]) * rng.uniform(0.9, 1.08)
        horizon = np.array([208.0 + warm, 216.0, 224.0 - warm]) * rng.uniform(0.94, 1.04)
        return Light(sun, rng.uniform(0.62, 0.74), rng.uniform(0.42, 0.56), zenith, horizon, rng.uniform(150.0, 260.0))
    if kind == "dusk":
        zenith = np.array([92.0 + warm, 104.0, 150.0 - warm]) * rng.uniform(0.85, 1.0)
        horizon = np.array([232.0, 164.0 + warm, 122.0]) * rng.uniform(0.85, 0.98)
        # Shadows are as long as four heights, so that things outside the picture cast some into it.
        return Light(
            sun, rng.uniform(0.4, 0.5), rng.uniform(0.4, 0.55), zenith, horizon, rng.uniform(150.0, 260.0), 9.0
        )
    if kind == "night":  # drawn in an even light, which `expose` then takes away where no lamp is
        grey = np.array([150.0, 156.0, 176.0])
        return Light(sun, rng.uniform(0.84, 0.92), 0.1, grey * 0.8, grey, rng.uniform(220.0, 320.0))
    level = rng.uniform(168.0, 198.0) if kind == "fog" else rng.uniform(132.0, 164.0)
    grey = np.array([level - 4.0, level, level + 4.0])
    haze = rng.uniform(22.0, 45.0) if kind == "fog" else rng.uniform(80.0, 140.0)
    return Light(sun, rng.uniform(0.6, 0.7), 0.06, grey * 0.96, grey, haze)


def expose(
    kind: str,
    picture: np.ndarray,
    view: View,
    renderer: Renderer,
    lamps: np.ndarray,
    ego: tuple[np.ndarray, np.ndarray],
    things: tuple[np.ndarray, np.ndarray],
    seed: Sequence[int],
) -> np.ndarray:
    """What the camera records of a drawn picture in light or weather of `kind`.

    Parameters
    ----------
    picture : (H, W, 3) uint8, OpenCV's colour order
        What `renderer` drew last.
    lamps : (L, 2) float64
        Where street lamps stand, global frame, m.
    ego : rotation (3, 3) and position (3,) of the ego frame in the global frame, m
    things : centres (N, 3) m and headings (N,) rad of all things, global frame
    seed : whole numbers
        For the sensor's noise and the drops.
    """
    if kind == "dusk":
        return _clipped(picture * np.array([0.8, 0.92, 1.04]))
    if kind == "night":
        return _night(picture, _shown(view, renderer), lamps, ego, np.random.default_rng(seed))
    if kind == "rain":
        shown = _shown(view, renderer)
        mirrored = np.ascontiguousarray(renderer.draw(mirror_view(view), *things)[0][::-1])
        return _rain(picture, mirrored, shown, np.random.default_rng(seed))
    return picture


def noise_seed(seed: Sequence[int], channel: int, time: float) -> list[int]:
    """The seed of what is random in one picture: the scene's, the channel's number, and the time (s
    since scene start, more than -10).
    """
    return [*seed, channel, round(time * _MICROSECONDS) + 10 * _MICROSECONDS]


def _clipped(values: np.ndarray) -> np.ndarray:
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)


def _shown(view: View, renderer: Renderer) -> Shown:
    """What the pixels of the picture that was drawn last show, at their first samples."""
    depth, glowing = renderer.surface()
    x, y = np.meshgrid(np.arange(view.width) + 0.25, np.arange(view.height) + 0.25)
    k = view.intrinsic
    local = np.stack([(x - k[0, 2]) / k[0, 0], (y - k[1, 2]) / k[1, 1], np.ones_like(x)], axis=-1)
    rays = local @ view.rotation.T
    slope = rays[..., 2] / np.linalg.norm(rays, axis=-1)
    empty = ~np.isfinite(depth)
    ground = empty & (slope < -0.004)
    depth = np.where(ground, -view.position[2] / np.minimum(rays[..., 2], -1e-6), np.where(empty, 1e4, depth))
    return Shown(view.position + rays * depth[..., None], slope, ground, empty & ~ground, glowing)


# ------------------------------------------------------------------------------------------------------------------ night


def _night(
    picture: np.ndarray,
    shown: Shown,
    lamps: np.ndarray,
    ego: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray:
    """Moonlight, pools of light under street lamps, the vehicle's own headlights, and the noise of a
    sensor that has little light.
    """
    light = np.full(picture.shape[:2], _MOONLIGHT)
    place = ~shown.sky
    xy, z = shown.points[place][:, :2], shown.points[place][:, 2]
    street = np.zeros(len(xy))
    for lamp in lamps:
        street += (1.0 + ((xy - lamp) ** 2).sum(axis=1) / _LAMP_REACH**2) ** -1.5
    light[place] += 0.62 * np.minimum(street, 1.3) * np.where(z < 6.0, 1.0, np.maximum(0.15, 1.0 - (z - 6.0) / 3.0))
    light[place] += _headlights(shown.points[place], ego)
    warm = np.array([0.72, 0.88, 1.0])  # lamplight has little blue
    share = np.clip((light - _MOONLIGHT) / 0.3, 0.0, 1.0)[..., None]
    exposed = picture * (light[..., None] * (share * warm + (1.0 - share) * np.array([1.12, 0.95, 0.85])))
    lit = np.where(shown.glowing[..., None], picture, 0).astype(np.float32)
    exposed = np.where(shown.glowing[..., None], picture, exposed)
    scale = picture.shape[1] / 400.0
    exposed = (
        exposed + 0.9 * cv2.GaussianBlur(lit, (0, 0), 2.5 * scale) + 0.8 * cv2.GaussianBlur(lit, (0, 0), 9.0 * scale)
    )
    return _clipped(
        exposed + rng.normal(0.0, 1.0, size=exposed.shape) * (2.0 + 0.25 * np.sqrt(np.maximum(exposed, 0.0)))
    )


def _headlights(points: np.ndarray, ego: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Light of the ego vehicle's dipped headlights on points (N, 3), global frame, m: (N,), 1 is
    daylight.
    """
    rotation, position = ego
    ahead, left, up = ((points - position) @ rotation).T
    ahead = ahead - _HEADLIGHTS[0]
    distance = np.maximum(np.hypot(ahead, left), 1.0)
    angle = np.arctan2(np.abs(left), ahead)
    beam = np.exp(-((angle / 0.4) ** 2)) * np.minimum(1.0, (16.0 / distance) ** 1.6)
    above = up - _HEADLIGHTS[1] - 0.012 * distance  # what is above the cut-off gets stray light
    return np.where(ahead > 0.0, 0.8 * beam * np.where(above < 0.0, 1.0, np.maximum(0.12, 1.0 - above / 0.8)), 0.0)


# ------------------------------------------------------------------------------------------------------------------- rain


def mirror_view(view: View) -> View:
    """A camera below the ground, turned upside down: its picture's rows, last one first, show what a
    mirror in place of the ground would show `view`.
    """
    flip, up = np.diag([1.0, 1.0, -1.0]), np.diag([1.0, -1.0, 1.0])
    intrinsic = view.intrinsic.copy()
    intrinsic[1, 2] = view.height - intrinsic[1, 2]
    return View(flip @ view.rotation @ up, flip @ view.position, intrinsic, view.width, view.height)


def _rain(picture: np.ndarray, mirrored: np.ndarray, shown: Shown, rng: np.random.Generator) -> np.ndarray:
    """A road that is darker and mirrors at grazing angles, falling drops, and drops on the lens."""
    height, width = picture.shape[:2]
    scale = width / 400.0
    rough = max(1, round(3 * scale))
    mirrored = cv2.blur(mirrored, (1, 2 * rough + 1)).astype(np.float64)
    x, y = shown.points[..., 0], shown.points[..., 1]
    # Water stands in some places more than in others: waves of a few metres that do not repeat soon.
    wet = 0.72 + 0.28 * np.sin(0.71 * x + 1.3 * np.sin(0.43 * y)) * np.sin(0.59 * y + 1.1 * np.sin(0.37 * x))
    share = np.where(shown.ground, wet * (0.04 + 0.72 * (1.0 - np.clip(-shown.slope, 0.0, 1.0)) ** 4), 0.0)[..., None]
    seen = np.where(shown.ground[..., None], 0.72 * picture, picture) * (1.0 - share) + mirrored * share
    falling = np.zeros((height, width), dtype=np.uint8)
    for px, py, length in rng.uniform(size=(round(90 * scale), 3)) * [width, height, 14.0 * scale]:
        start, end = (int(px), int(py)), (int(px + 0.12 * length), int(py + 4 + length))
        cv2.line(falling, start, end, 255, 1, cv2.LINE_AA)
    seen = seen + (205.0 - seen) * (0.22 / 255.0) * falling[..., None]
    blurred = cv2.GaussianBlur(seen.astype(np.float32), (0, 0), 3.0 * scale)
    drops = np.zeros((height, width), dtype=np.uint8)
    for px, py, radius in rng.uniform(size=(7, 3)) * [width, height, 6.0 * scale]:
        cv2.circle(drops, (int(px), int(py)), max(1, int(radius + 2 * scale)), 255, -1, cv2.LINE_AA)
    cover = cv2.GaussianBlur(drops, (0, 0), 1.0 * scale)[..., None] * (0.85 / 255.0)
    return _clipped(seen * (1.0 - cover) + 1.04 * blurred * cover)
