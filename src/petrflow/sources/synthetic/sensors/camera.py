"""Draws the scene for one camera: z-buffered faces, cast shadows, ground texture, sky and haze.

Pixel (i, j) covers the square from (i, j) to (i + 1, j + 1) in the units of the camera matrix.
Faces are sampled at 2 x 2 points a pixel, and ground and sky once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from petrflow.sources.synthetic.sensors.groups import SAMPLES, Air, Buffers, Lens, Mesh, Mosaic, Placed, Shade, Surfaces
from petrflow.sources.synthetic.sensors.mesh import GLOW
from petrflow.sources.synthetic.sensors.raster import raster
from petrflow.sources.synthetic.sensors.resolve import resolve


@dataclass(frozen=True)
class Faces:
    """The faces of all things of a scene, object after object, each in its object's frame.

    Attributes
    ----------
    vertices : (F, 8, 3) float64
        Corners in order around the face, m.
    counts : (F,) int64
        How many of them are used.
    normals : (F, 3) float64
        Outward, of length 1.
    colors : (F, 3) float64
        Red, green and blue, 0 to 255.
    materials : (F,) int64
        See `mesh`.
    starts : (N + 1,) int64
        First face of each object.
    """

    vertices: np.ndarray
    counts: np.ndarray
    normals: np.ndarray
    colors: np.ndarray
    materials: np.ndarray
    starts: np.ndarray


@dataclass(frozen=True)
class Ground:
    """A picture of the ground seen from above, and ever coarser copies of it.

    Attributes
    ----------
    levels : tuple of (H, W, 3) uint8
        Row 0 is at y = 0, global frame; ``levels[k]`` has 2**k * ``resolution`` m a pixel.
    resolution : float
        Metres a pixel of the first.
    """

    levels: tuple[np.ndarray, ...]
    resolution: float


@dataclass(frozen=True)
class Light:
    """Light and air of a scene.

    Attributes
    ----------
    sun : (3,) float64
        Direction to the sun, global frame.
    ambient, strength : float
        Shares of ambient and of direct light.
    zenith, horizon : (3,) float64
        Colours of the sky: red, green and blue, 0 to 255.
    haze : float
        Metres over which haze hides about 63 %.
    shadow_reach : float
        How far shadows fall, in half diagonals of the object that casts them.
    """

    sun: np.ndarray
    ambient: float
    strength: float
    zenith: np.ndarray
    horizon: np.ndarray
    haze: float
    shadow_reach: float = 3.0


@dataclass(frozen=True)
class View:
    """A camera in the world.

    Attributes
    ----------
    rotation, position : (3, 3) and (3,) float64
        From the camera's frame to the global frame, m.
    intrinsic : (3, 3) float64
        Camera matrix, pixels.
    width, height : int
        Pixels.
    """

    rotation: np.ndarray
    position: np.ndarray
    intrinsic: np.ndarray
    width: int
    height: int


class Renderer:
    """Draws views of one scene; keeps what does not change between its frames."""

    def __init__(self, faces: Faces, radii: np.ndarray, ground: Ground, light: Light, width: int, height: int) -> None:
        self.faces, self.radii, self.light = faces, radii, light
        self.width, self.height = width, height
        self._owner = np.repeat(np.arange(len(faces.starts) - 1), np.diff(faces.starts))
        widths = np.array([level.shape[1] for level in ground.levels])
        heights = np.array([level.shape[0] for level in ground.levels])
        self._mosaic = Mosaic(
            np.concatenate([level.reshape(-1, 3) for level in ground.levels]),
            widths,
            heights,
            np.concatenate([[0], np.cumsum(widths * heights)[:-1]]),
            ground.resolution,
        )
        self._air = Air(light.sun, light.ambient, light.strength, light.zenith, light.horizon, light.haze)
        self._mesh = Mesh(faces.vertices, faces.counts, faces.normals, faces.starts)
        grid = (height * SAMPLES, width * SAMPLES)
        self._buffers = Buffers(
            np.empty(grid, dtype=np.float32),
            np.empty(grid, dtype=np.int32),
            np.empty(grid, dtype=np.int32),
            np.empty(grid, dtype=np.uint8),
        )

    def _surfaces(
        self, centres: np.ndarray, rotations: np.ndarray, chosen: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return, of the faces of `chosen` objects, the colours under this scene's light (F, 3), a
        point (F, 3) and a level direction (F, 2), global frame.

        `rotations` (N, 3, 3) turn the objects' frames into the global frame. The rows of other
        faces are left undefined.
        """
        wanted = np.zeros(len(centres), dtype=bool)
        wanted[chosen] = True
        part = np.nonzero(wanted[self._owner])[0]
        turned = rotations[self._owner[part]]
        normals = np.einsum("fij,fj->fi", turned, self.faces.normals[part])
        direct = np.maximum(normals @ self.light.sun, 0.0)
        # Light comes from the sky and off the ground, too, so that faces in shade still differ.
        bounced = self.light.ambient * (0.86 + 0.18 * normals[:, 2] + 0.08 * normals[:, 0])
        shade = np.where(self.faces.materials[part] == GLOW, 1.0, bounced + self.light.strength * direct)
        count = len(self._owner)
        colors, origins, along = np.empty((count, 3)), np.empty((count, 3)), np.empty((count, 2))
        colors[part] = self.faces.colors[part] * shade[:, None]
        origins[part] = np.einsum("fij,fj->fi", turned, self.faces.vertices[part, 0]) + centres[self._owner[part]]
        along[part, 0], along[part, 1] = -normals[:, 1], normals[:, 0]
        return colors, origins, along

    def draw(
        self, view: View, centres: np.ndarray, yaws: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Draw the scene with its objects at `centres` (N, 3) m and `yaws` (N,) rad.

        Returns
        -------
        image : (H, W, 3) uint8
            The picture in OpenCV's colour order.
        instance : (H, W) int32
            The object of each pixel; -1 for ground and sky.
        seen, alone : (N,) int64
            The samples that each object shows, and those that it would show alone.
        """
        faces, light = self.faces, self.light
        cos, sin = np.cos(yaws), np.sin(yaws)
        zero, one = np.zeros_like(cos), np.ones_like(cos)
        rotations = np.stack(
            [np.stack([cos, -sin, zero], -1), np.stack([sin, cos, zero], -1), np.stack([zero, zero, one], -1)], axis=-2
        )
        to_camera = view.rotation.T
        in_camera = (centres - view.position) @ view.rotation
        # What is behind the camera or outside the picture's cone, shadows included, is not drawn.
        reach = self.radii * light.shadow_reach + 1.0
        half = np.arctan(np.hypot(view.width, view.height) / 2 / view.intrinsic[0, 0])
        axis = np.linalg.norm(in_camera, axis=1)
        angle = np.arccos(np.clip(in_camera[:, 2] / np.maximum(axis, 1e-9), -1, 1))
        spread = np.where(axis > reach, np.arcsin(np.clip(reach / np.maximum(axis, 1e-9), 0, 1)), np.pi)
        chosen = np.nonzero((angle < half + spread + 0.05) & (axis < 190.0))[0]
        chosen = chosen[np.argsort(axis[chosen], kind="stable")]
        lens = Lens(view.intrinsic[0, 0], view.intrinsic[1, 1], view.intrinsic[0, 2], view.intrinsic[1, 2])
        self._buffers.inverse_depth.fill(0.0)
        self._buffers.face_at.fill(-1)
        self._buffers.stamp.fill(-1)
        self._buffers.shadow.fill(0)
        covered = np.zeros(len(chosen), dtype=np.int64)
        placed = Placed(
            chosen, np.ascontiguousarray(to_camera @ rotations[chosen]), np.ascontiguousarray(in_camera[chosen])
        )
        shade = Shade(
            to_camera @ light.sun, to_camera @ (np.zeros(3) - view.position), np.ascontiguousarray(to_camera[:, 2])
        )
        raster(self._mesh, placed, shade, Lens(*(value * SAMPLES for value in lens)), self._buffers, covered)
        image = np.empty((view.height, view.width, 3), dtype=np.uint8)
        instance = np.empty((view.height, view.width), dtype=np.int32)
        seen = np.zeros(len(yaws), dtype=np.int64)
        lit, origin, along = self._surfaces(centres, rotations, chosen)
        surfaces = Surfaces(self._owner, faces.colors, faces.materials, lit, origin, along)
        resolve(
            self._buffers, surfaces, view.rotation, view.position, lens, self._mosaic, self._air, image, instance, seen
        )
        alone = np.zeros(len(yaws), dtype=np.int64)
        alone[chosen] = covered
        return image, instance, seen, alone

    def surface(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the view that was drawn last, at each pixel's first sample: the depth (H, W) float64, m
        along the viewing direction, inf where no thing is; and whether what is there glows, (H, W).
        """
        inverse = self._buffers.inverse_depth[::SAMPLES, ::SAMPLES].astype(np.float64)
        face = self._buffers.face_at[::SAMPLES, ::SAMPLES]
        depth = np.where(face >= 0, 1.0 / np.where(face >= 0, inverse, 1.0), np.inf)
        return depth, (face >= 0) & (self.faces.materials[np.maximum(face, 0)] == GLOW)
