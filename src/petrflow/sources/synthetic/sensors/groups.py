"""The arguments of the renderer's compiled loops, in named groups.

They are named tuples, which Numba takes as they are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SAMPLES = 2  # per pixel and axis


class Mesh(NamedTuple):
    """Faces of all objects, each in its object's frame.

    Attributes
    ----------
    vertices : (F, K, 3) float64
        Corners in order around the face, m; the first ``counts`` of them are used.
    counts : (F,) int64
    normals : (F, 3) float64
        Outward, of length 1.
    starts : (N + 1,) int64
        First face of each object.
    """

    vertices: np.ndarray
    counts: np.ndarray
    normals: np.ndarray
    starts: np.ndarray


class Placed(NamedTuple):
    """Objects that may be seen, in the frame of the sensor.

    Attributes
    ----------
    chosen : (C,) int64
        Their indices, nearest first.
    rotations : (C, 3, 3) float64
        From the object's frame to the sensor's.
    translations : (C, 3) float64
        The object's origin, m.
    """

    chosen: np.ndarray
    rotations: np.ndarray
    translations: np.ndarray


class Shade(NamedTuple):
    """Where shadows fall, in the camera frame.

    Attributes
    ----------
    sun, up : (3,) float64
        Direction to the sun, and normal of the ground.
    ground : (3,) float64
        A point of the ground, m.
    """

    sun: np.ndarray
    ground: np.ndarray
    up: np.ndarray


class Lens(NamedTuple):
    """Focal lengths and principal point, in pixels of the grid that is drawn."""

    fx: float
    fy: float
    cx: float
    cy: float


class Buffers(NamedTuple):
    """What the sampled grid (H, W) shows.

    Attributes
    ----------
    inverse_depth : (H, W) float32
        1/m; 0 where there is no face.
    face_at : (H, W) int32
        The nearest face, or -1.
    stamp : (H, W) int32
        The last object drawn over the sample, as an index into ``Placed.chosen``, or -1.
    shadow : (H, W) uint8
        1 where the ground lies in shadow.
    """

    inverse_depth: np.ndarray
    face_at: np.ndarray
    stamp: np.ndarray
    shadow: np.ndarray


class Surfaces(NamedTuple):
    """How the faces look.

    Attributes
    ----------
    owner : (F,) int64
        The object of each face.
    colors : (F, 3) float64
        Red, green and blue, 0 to 255.
    materials : (F,) int64
        See `mesh`.
    lit : (F, 3) float64
        The colours under the light of the scene.
    origin : (F, 3) float64
        A point of each face, global frame, m.
    along : (F, 2) float64
        A level direction within each face, global frame.
    """

    owner: np.ndarray
    colors: np.ndarray
    materials: np.ndarray
    lit: np.ndarray
    origin: np.ndarray
    along: np.ndarray


class Mosaic(NamedTuple):
    """The ground's picture, and copies of it of halved size, one after the other.

    Attributes
    ----------
    pixels : (P, 3) uint8
    widths, heights, starts : (L,) int64
        Size and first pixel of each copy.
    resolution : float
        Metres a pixel of the first.
    """

    pixels: np.ndarray
    widths: np.ndarray
    heights: np.ndarray
    starts: np.ndarray
    resolution: float


class Air(NamedTuple):
    """Light and haze.

    Attributes
    ----------
    sun : (3,) float64
        Direction to the sun, global frame.
    ambient, strength : float
        Shares of ambient and of direct light.
    zenith, horizon : (3,) float64
        Colours of the sky, 0 to 255.
    haze : float
        Metres over which haze hides about 63 %.
    """

    sun: np.ndarray
    ambient: float
    strength: float
    zenith: np.ndarray
    horizon: np.ndarray
    haze: float
