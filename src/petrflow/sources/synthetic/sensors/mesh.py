"""Solids made of flat convex faces, in one object's own frame: x forward, y left, z up, metres."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

MAX_VERTICES = 8
# How a face is coloured when it is drawn.
FLAT, WINDOWS, STRIPES, LEAVES, GLOW = range(5)

Color = tuple[float, float, float]  # red, green, blue, 0..255
Points = Sequence[Sequence[float]] | np.ndarray
DARK: Color = (28, 28, 30)


class Mesh:
    """Collects the faces of one object: call the methods that add solids, then `arrays`."""

    def __init__(self) -> None:
        self._vertices: list[list[list[float]]] = []
        self._counts: list[int] = []
        self._normals: list[list[float]] = []
        self._colors: list[Color] = []
        self._materials: list[int] = []

    def face(self, points: Points, color: Color, outward: Sequence[float] | np.ndarray, material: int = FLAT) -> None:
        """Add one convex face.

        Parameters
        ----------
        points : (n, 3), n <= 8
            In order around the face, m.
        color
            Red, green and blue, 0 to 255.
        outward : (3,)
            Any vector that leaves the solid there.
        material
            FLAT, WINDOWS, STRIPES, LEAVES or GLOW.
        """
        corners = [[float(v) for v in point] for point in points]
        nx = ny = nz = 0.0
        for (ax, ay, az), (bx, by, bz) in zip(corners, corners[1:] + corners[:1], strict=True):
            nx, ny, nz = nx + ay * bz - az * by, ny + az * bx - ax * bz, nz + ax * by - ay * bx
        length = math.sqrt(nx * nx + ny * ny + nz * nz)
        if length < 1e-9:
            return
        if nx * outward[0] + ny * outward[1] + nz * outward[2] < 0:
            length, corners = -length, corners[::-1]
        normal = [nx / length, ny / length, nz / length]
        padded = corners + corners[-1:] * (MAX_VERTICES - len(corners))
        self._vertices.append(padded)
        self._counts.append(len(corners))
        self._normals.append(normal)
        self._colors.append(color)
        self._materials.append(material)

    def frustum(
        self,
        bottom: tuple[float, float, float, float],
        top: tuple[float, float, float, float],
        low: float,
        high: float,
        color: Color,
        roof: Color | None = None,
        material: int = FLAT,
        skip: str = "",
    ) -> None:
        """Add a solid between two rectangles: `bottom` at z = `low` and `top` at z = `high`.

        A rectangle is (x0, x1, y0, y1). `skip` may hold 'b' for no underside and 't' for no roof.
        """

        def ring(rectangle: tuple[float, float, float, float], z: float) -> list[list[float]]:
            x0, x1, y0, y1 = rectangle
            return [[x0, y0, z], [x1, y0, z], [x1, y1, z], [x0, y1, z]]

        lower, upper = ring(bottom, low), ring(top, high)
        for i, outward in enumerate(((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (-1.0, 0.0, 0.0))):
            j = (i + 1) % 4
            self.face([lower[i], lower[j], upper[j], upper[i]], color, outward, material)
        if "t" not in skip:
            self.face(upper, roof or color, (0.0, 0.0, 1.0))
        if "b" not in skip:
            self.face(lower, tuple(0.4 * c for c in color), (0.0, 0.0, -1.0))  # type: ignore[arg-type]

    def box(
        self, x: tuple[float, float], y: tuple[float, float], z: tuple[float, float], color: Color, material: int = FLAT
    ) -> None:
        """Add a cuboid over the given intervals."""
        rectangle = (x[0], x[1], y[0], y[1])
        self.frustum(rectangle, rectangle, z[0], z[1], color, material=material)

    def plate(
        self,
        axis: str,
        at: float,
        along: tuple[float, float],
        z: tuple[float, float],
        color: Color,
        material: int = FLAT,
    ) -> None:
        """Add an upright rectangle that faces away from the centre, in the plane x = `at` or y = `at`,
        as `axis` says.
        """
        corners = [(along[0], z[0]), (along[1], z[0]), (along[1], z[1]), (along[0], z[1])]
        if axis == "x":
            self.face([[at, u, v] for u, v in corners], color, (at, 0.0, 0.0), material)
        else:
            self.face([[u, at, v] for u, v in corners], color, (0.0, at, 0.0), material)

    def wheel(self, x: float, y: tuple[float, float], z: float, radius: float, color: Color = DARK) -> None:
        """Add an eight-sided wheel with its axle along y, with a lighter hub on both sides."""
        angles = [math.pi / 8 + i * math.pi / 4 for i in range(8)]
        rim = [(x + radius * math.cos(t), z + radius * math.sin(t)) for t in angles]
        hub = [(x + 0.5 * radius * math.cos(t), z + 0.5 * radius * math.sin(t)) for t in angles]
        for side, outward in ((y[0], -1.0), (y[1], 1.0)):
            outside = side + outward * 0.004
            self.face([[u, side, v] for u, v in rim], color, (0.0, outward, 0.0))
            self.face([[u, outside, v] for u, v in hub], (120, 122, 125), (0.0, outward, 0.0))
        for (ax, az), (bx, bz) in zip(rim, rim[1:] + rim[:1], strict=True):
            quad = [[ax, y[0], az], [bx, y[0], bz], [bx, y[1], bz], [ax, y[1], az]]
            self.face(quad, color, ((ax + bx) / 2 - x, 0.0, (az + bz) / 2 - z))

    def ring(self, x: float, y: float, z: float, radius: float, width: float, color: Color = DARK) -> None:
        """Add a wheel that one can see through: a flat ring of eight pieces in the plane y, visible
        from both sides.
        """
        for i in range(8):
            a, b = i * math.pi / 4, (i + 1) * math.pi / 4
            corners = ((radius, a), (radius, b), (radius - width, b), (radius - width, a))
            quad = [[x + r * math.cos(t), y, z + r * math.sin(t)] for r, t in corners]
            self.face(quad, color, (0.0, 1.0, 0.0))
            self.face(quad, color, (0.0, -1.0, 0.0))

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return vertices (F, 8, 3) m, vertex counts (F,), unit normals (F, 3), colours (F, 3) from 0
        to 255, and materials (F,).
        """
        return (
            np.array(self._vertices, dtype=np.float64).reshape(-1, MAX_VERTICES, 3),
            np.array(self._counts, dtype=np.int64),
            np.array(self._normals, dtype=np.float64).reshape(-1, 3),
            np.array(self._colors, dtype=np.float64).reshape(-1, 3),
            np.array(self._materials, dtype=np.int64),
        )
