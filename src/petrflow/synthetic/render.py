"""Draws the scene for one camera: z-buffered faces, cast shadows, ground texture, sky and haze.

Pixel (i, j) covers the square from (i, j) to (i + 1, j + 1) in the units of the camera matrix. Faces are sampled at 2 x 2 points a pixel;
ground and sky once. The loops are compiled by Numba, without fast-math, so that the same scene gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from petrflow.synthetic.shapes import FLAT, GLOW, LEAVES, MAX_VERTICES, STRIPES, WINDOWS

SAMPLES = 2  # per pixel and axis
NEAR = 0.25  # m


@dataclass(frozen=True)
class Faces:
    """The faces of all things of a scene, object after object, each in its object's frame (see `shapes`)."""

    vertices: np.ndarray  # (F, 8, 3) m
    counts: np.ndarray  # (F,)
    normals: np.ndarray  # (F, 3)
    colors: np.ndarray  # (F, 3) 0..255
    materials: np.ndarray  # (F,)
    starts: np.ndarray  # (N + 1,) first face of each object


@dataclass(frozen=True)
class Ground:
    """A picture of the ground seen from above, in ever coarser copies: `levels[k]` has 2**k * `resolution` metres a pixel, row 0 at y=0."""

    levels: tuple[np.ndarray, ...]  # (H, W, 3) uint8
    resolution: float


@dataclass(frozen=True)
class Light:
    """Light and air of a scene. `sun` (3,) points to the sun, global frame; colours are red, green, blue 0..255."""

    sun: np.ndarray
    ambient: float
    strength: float
    zenith: np.ndarray
    horizon: np.ndarray
    haze: float  # m over which haze hides about 63 %


@dataclass(frozen=True)
class View:
    """A camera in the world: `rotation` (3, 3) and `position` (3,), camera frame to global frame; `intrinsic` (3, 3); size in pixels."""

    rotation: np.ndarray
    position: np.ndarray
    intrinsic: np.ndarray
    width: int
    height: int


@njit(cache=True)
def _clip_near(points, n, out):  # noqa: ANN001, ANN202
    """Cut a polygon in the camera frame at z = NEAR; returns the vertex count."""
    m = 0
    for i in range(n):
        j = (i + 1) % n
        zi, zj = points[i, 2], points[j, 2]
        if zi >= NEAR:
            out[m, 0], out[m, 1], out[m, 2] = points[i, 0], points[i, 1], zi
            m += 1
        if (zi >= NEAR) != (zj >= NEAR):
            t = (NEAR - zi) / (zj - zi)
            out[m, 0] = points[i, 0] + t * (points[j, 0] - points[i, 0])
            out[m, 1] = points[i, 1] + t * (points[j, 1] - points[i, 1])
            out[m, 2] = NEAR
            m += 1
    return m


@njit(cache=True)
def _row_span(px, py, m, y):  # noqa: ANN001, ANN202
    """Left and right end of a convex polygon on the line y; left > right if it does not reach it."""
    left, right = 1e30, -1e30
    for i in range(m):
        j = (i + 1) % m
        y0, y1 = py[i], py[j]
        if (y0 <= y) != (y1 <= y):
            x = px[i] + (y - y0) / (y1 - y0) * (px[j] - px[i])
            left = min(left, x)
            right = max(right, x)
    return left, right


@njit(cache=True)
def _raster(  # noqa: ANN202, PLR0913
    vertices,
    counts,
    normals,
    starts,
    chosen,
    rotations,
    translations,
    sun_camera,
    ground_camera,
    up_camera,
    camera,
    inverse_depth,
    face_at,
    stamp,
    shadow,
    covered,
):  # noqa: ANN001
    """Fill the depth and face buffers (sampled grid) with the chosen objects; mark their shadows; count the samples each covers alone.

    All vectors are in the camera frame. `ground_camera` is a point of the ground, `up_camera` its normal.
    """
    fx, fy, cx, cy = camera[0], camera[1], camera[2], camera[3]
    height, width = inverse_depth.shape
    points = np.empty((MAX_VERTICES, 3))
    cast = np.empty((MAX_VERTICES, 3))
    clipped = np.empty((MAX_VERTICES + 2, 3))
    px, py = np.empty(MAX_VERTICES + 2), np.empty(MAX_VERTICES + 2)
    sun_up = sun_camera @ up_camera
    for c in range(len(chosen)):
        obj = chosen[c]
        r, t = rotations[c], translations[c]
        for f in range(starts[obj], starts[obj + 1]):
            n = counts[f]
            for k in range(n):
                v = vertices[f, k]
                for a in range(3):
                    points[k, a] = r[a, 0] * v[0] + r[a, 1] * v[1] + r[a, 2] * v[2] + t[a]
            nx = r[0, 0] * normals[f, 0] + r[0, 1] * normals[f, 1] + r[0, 2] * normals[f, 2]
            ny = r[1, 0] * normals[f, 0] + r[1, 1] * normals[f, 1] + r[1, 2] * normals[f, 2]
            nz = r[2, 0] * normals[f, 0] + r[2, 1] * normals[f, 1] + r[2, 2] * normals[f, 2]
            for passing in range(2):
                if passing == 0:
                    offset = nx * points[0, 0] + ny * points[0, 1] + nz * points[0, 2]
                    if offset >= 0.0:
                        continue
                    m = _clip_near(points, n, clipped)
                else:
                    if nx * sun_camera[0] + ny * sun_camera[1] + nz * sun_camera[2] <= 0.0:
                        continue
                    offset = 0.0
                    for k in range(n):
                        above = 0.0
                        for a in range(3):
                            above += (points[k, a] - ground_camera[a]) * up_camera[a]
                        for a in range(3):
                            cast[k, a] = points[k, a] - sun_camera[a] * (above / sun_up)
                    m = _clip_near(cast, n, clipped)
                if m < 3:
                    continue
                top, bottom = 1e30, -1e30
                for k in range(m):
                    px[k] = fx * clipped[k, 0] / clipped[k, 2] + cx
                    py[k] = fy * clipped[k, 1] / clipped[k, 2] + cy
                    top = min(top, py[k])
                    bottom = max(bottom, py[k])
                first = max(0, int(np.ceil(min(top, 1e6) - 0.5)))
                last = min(height - 1, int(np.floor(max(bottom, -1e6) - 0.5)))
                if first > last:
                    continue
                if passing == 0:  # 1 / depth is linear in the image
                    iu, iv = nx / (fx * offset), ny / (fy * offset)
                    i0 = nz / offset - iu * cx - iv * cy
                for y in range(first, last + 1):
                    left, right = _row_span(px, py, m, y + 0.5)
                    if left > right:
                        continue
                    x0 = max(0, int(np.ceil(max(left, -1e6) - 0.5)))
                    x1 = min(width - 1, int(np.ceil(min(right, 1e6) - 0.5)) - 1)
                    if passing == 1:
                        for x in range(x0, x1 + 1):
                            shadow[y, x] = 1
                        continue
                    base = i0 + iv * (y + 0.5)
                    for x in range(x0, x1 + 1):
                        if stamp[y, x] != c:
                            stamp[y, x] = c
                            covered[c] += 1
                        value = base + iu * (x + 0.5)
                        if value > inverse_depth[y, x]:
                            inverse_depth[y, x] = value
                            face_at[y, x] = f


@njit(cache=True)
def _noise(a, b):  # noqa: ANN001, ANN202
    """A repeatable number in [0, 1) for two integers."""
    h = (np.uint32(a) * np.uint32(374761393) + np.uint32(b) * np.uint32(668265263)) & np.uint32(0xFFFFFFFF)
    h = ((h ^ (h >> np.uint32(13))) * np.uint32(1274126177)) & np.uint32(0xFFFFFFFF)
    return ((h ^ (h >> np.uint32(16))) & np.uint32(0xFFFF)) / 65536.0


@njit(cache=True)
def _ground_color(x, y, blur, mosaic, widths, heights, starts, resolution, out):  # noqa: ANN001, ANN202
    """Colour of the ground at (x, y) m where one pixel spans `blur` m: bilinear in the copy of about that resolution."""
    level = 0
    size = resolution
    while level < len(widths) - 1 and size * 1.5 < blur:
        level += 1
        size *= 2.0
    u, v = x / size - 0.5, y / size - 0.5
    iu, iv = int(np.floor(u)), int(np.floor(v))
    du, dv = u - iu, v - iv
    w, h = widths[level], heights[level]
    a, b = min(max(iu, 0), w - 1), min(max(iu + 1, 0), w - 1)
    c, d = min(max(iv, 0), h - 1), min(max(iv + 1, 0), h - 1)
    base = starts[level]
    for k in range(3):
        top = mosaic[base + c * w + a, k] * (1 - du) + mosaic[base + c * w + b, k] * du
        low = mosaic[base + d * w + a, k] * (1 - du) + mosaic[base + d * w + b, k] * du
        out[k] = top * (1 - dv) + low * dv


@njit(cache=True)
def _resolve(  # noqa: ANN202, PLR0913, PLR0915
    inverse_depth,
    face_at,
    shadow,
    owner,
    colors,
    materials,
    face_rgb,
    face_origin,
    face_along,
    rotation,
    position,
    camera,
    mosaic,
    widths,
    heights,
    level_starts,
    resolution,
    sun,
    ambient,
    strength,
    zenith,
    horizon,
    haze,
    image,
    instance,
    seen,
):  # noqa: ANN001
    """Turn the buffers into a picture (H, W, 3) uint8 and an instance picture (H, W); count the samples each object keeps."""
    fx, fy, cx, cy = camera[0], camera[1], camera[2], camera[3]
    height, width = instance.shape
    ground = np.empty(3)
    ray = np.empty(3)
    sky_sun = sun[2] * strength + ambient
    for y in range(height):
        for x in range(width):
            u, v = (x + 0.5 - cx) / fx, (y + 0.5 - cy) / fy
            for a in range(3):
                ray[a] = rotation[a, 0] * u + rotation[a, 1] * v + rotation[a, 2]
            norm = np.sqrt(1.0 + u * u + v * v)
            r = g = b = 0.0
            have_back = False
            best, best_depth = -1, 0.0
            last, last_r, last_g, last_b = -1, 0.0, 0.0, 0.0
            for sy in range(SAMPLES):
                for sx in range(SAMPLES):
                    yy, xx = y * SAMPLES + sy, x * SAMPLES + sx
                    f = face_at[yy, xx]
                    if f < 0:
                        if not have_back:
                            have_back = True
                            slope = ray[2] / norm
                            if slope < -0.004:
                                depth = -position[2] / ray[2]
                                distance = depth * norm
                                gx, gy = position[0] + depth * ray[0], position[1] + depth * ray[1]
                                blur = depth / fx * np.sqrt(1.0 / -slope)
                                _ground_color(gx, gy, blur, mosaic, widths, heights, level_starts, resolution, ground)
                                fade = np.exp(-distance / haze)
                                for a in range(3):
                                    ground[a] = ground[a] * sky_sun * fade + horizon[a] * (1.0 - fade)
                            else:
                                up = min(1.0, max(0.0, slope * 2.2))
                                cloud = 0.5 + 0.5 * np.sin(
                                    3.1 * ray[0] / norm + 2.0 * np.sin(5.0 * slope + 1.3 * ray[1] / norm)
                                )
                                for a in range(3):
                                    ground[a] = horizon[a] + (zenith[a] - horizon[a]) * up + 14.0 * cloud * up
                        dim = 1.0
                        if shadow[yy, xx] == 1 and ray[2] / norm < -0.004:
                            dim = (ambient + 0.02) / sky_sun
                            fade = np.exp(position[2] / ray[2] * norm / haze)
                            dim = dim * fade + 1.0 - fade
                        r += ground[0] * dim
                        g += ground[1] * dim
                        b += ground[2] * dim
                        continue
                    depth = 1.0 / inverse_depth[yy, xx]
                    obj = owner[f]
                    seen[obj] += 1
                    if best < 0 or depth < best_depth:
                        best, best_depth = obj, depth
                    if f == last:  # a plain face has one colour within a pixel
                        r, g, b = r + last_r, g + last_g, b + last_b
                        continue
                    tone = 1.0
                    material = materials[f]
                    red, green, blue = face_rgb[f, 0], face_rgb[f, 1], face_rgb[f, 2]
                    if material != FLAT and material != GLOW:
                        wx, wy, wz = (
                            position[0] + depth * ray[0],
                            position[1] + depth * ray[1],
                            position[2] + depth * ray[2],
                        )
                        along = (wx - face_origin[f, 0]) * face_along[f, 0] + (wy - face_origin[f, 1]) * face_along[
                            f, 1
                        ]
                        if material == WINDOWS:
                            cu, cv = along / 2.6, wz / 2.9
                            pu, pv = cu - np.floor(cu), cv - np.floor(cv)
                            if 0.25 < pu < 0.75 and 0.3 < pv < 0.78 and cv < 20.0:
                                tone = 0.45 + 0.25 * _noise(int(np.floor(cu)) + 977, int(np.floor(cv)) + f)
                            else:
                                tone = 0.96 + 0.08 * _noise(int(np.floor(along * 1.3)) + 311, int(np.floor(wz * 2.0)))
                        elif material == STRIPES:
                            s = (along + wz) / 0.36
                            if s - np.floor(s) < 0.5:
                                shade = face_rgb[f, 0] / max(colors[f, 0], 1.0)
                                red, green, blue = 240.0 * shade, 240.0 * shade, 238.0 * shade
                        elif material == LEAVES:
                            tone = 0.8 + 0.4 * _noise(int(np.floor(along * 4.0)) + 501, int(np.floor(wz * 4.0)) + 77)
                    fade = np.exp(-depth * norm / haze)
                    red = red * tone * fade + horizon[0] * (1.0 - fade)
                    green = green * tone * fade + horizon[1] * (1.0 - fade)
                    blue = blue * tone * fade + horizon[2] * (1.0 - fade)
                    r, g, b = r + red, g + green, b + blue
                    if material == FLAT or material == GLOW:
                        last, last_r, last_g, last_b = f, red, green, blue
            instance[y, x] = best
            share = 1.0 / (SAMPLES * SAMPLES)
            image[y, x, 0] = np.uint8(min(255.0, max(0.0, b * share + 0.5)))
            image[y, x, 1] = np.uint8(min(255.0, max(0.0, g * share + 0.5)))
            image[y, x, 2] = np.uint8(min(255.0, max(0.0, r * share + 0.5)))


class Renderer:
    """Draws views of one scene; keeps what does not change between its frames."""

    def __init__(self, faces: Faces, radii: np.ndarray, ground: Ground, light: Light, width: int, height: int) -> None:
        self.faces, self.radii, self.light = faces, radii, light
        self.width, self.height = width, height
        self._owner = np.repeat(np.arange(len(faces.starts) - 1), np.diff(faces.starts))
        self._mosaic = np.concatenate([level.reshape(-1, 3) for level in ground.levels])
        self._widths = np.array([level.shape[1] for level in ground.levels])
        self._heights = np.array([level.shape[0] for level in ground.levels])
        self._starts = np.concatenate([[0], np.cumsum(self._widths * self._heights)[:-1]])
        self._resolution = ground.resolution
        grid = (height * SAMPLES, width * SAMPLES)
        self._inverse_depth = np.empty(grid, dtype=np.float32)
        self._face_at = np.empty(grid, dtype=np.int32)
        self._stamp = np.empty(grid, dtype=np.int32)
        self._shadow = np.empty(grid, dtype=np.uint8)

    def _lit(self, rotations: np.ndarray) -> np.ndarray:
        """Colours (F, 3) under this scene's light; `rotations` (N, 3, 3) object to global frame."""
        normals = np.einsum("fij,fj->fi", rotations[self._owner], self.faces.normals)
        direct = np.maximum(normals @ self.light.sun, 0.0)
        # Light from the sky and off the ground, so that faces in shade still differ from one another.
        bounced = self.light.ambient * (0.86 + 0.18 * normals[:, 2] + 0.08 * normals[:, 0])
        shade = np.where(self.faces.materials == GLOW, 1.0, bounced + self.light.strength * direct)
        return self.faces.colors * shade[:, None]

    def draw(
        self, view: View, centres: np.ndarray, yaws: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Draw the scene with its objects at `centres` (N, 3) m and `yaws` (N,) rad.

        Returns the picture (H, W, 3) uint8 in OpenCV's colour order, the picture of object indices (H, W) int32 with -1 for ground and sky, and for
        each object the samples (N,) it shows and the samples (N,) it would show alone.
        """
        faces, light = self.faces, self.light
        cos, sin = np.cos(yaws), np.sin(yaws)
        zero, one = np.zeros_like(cos), np.ones_like(cos)
        rotations = np.stack(
            [np.stack([cos, -sin, zero], -1), np.stack([sin, cos, zero], -1), np.stack([zero, zero, one], -1)], axis=-2
        )
        to_camera = view.rotation.T
        in_camera = (centres - view.position) @ view.rotation
        # Behind the camera or outside the picture's cone, shadows included: not worth drawing.
        reach = self.radii * 3.0 + 1.0
        half = np.arctan(np.hypot(view.width, view.height) / 2 / view.intrinsic[0, 0])
        axis = np.linalg.norm(in_camera, axis=1)
        angle = np.arccos(np.clip(in_camera[:, 2] / np.maximum(axis, 1e-9), -1, 1))
        spread = np.where(axis > reach, np.arcsin(np.clip(reach / np.maximum(axis, 1e-9), 0, 1)), np.pi)
        chosen = np.nonzero((angle < half + spread + 0.05) & (axis < 190.0))[0]
        chosen = chosen[np.argsort(axis[chosen], kind="stable")]
        camera = np.array([view.intrinsic[0, 0], view.intrinsic[1, 1], view.intrinsic[0, 2], view.intrinsic[1, 2]])
        self._inverse_depth.fill(0.0)
        self._face_at.fill(-1)
        self._stamp.fill(-1)
        self._shadow.fill(0)
        covered = np.zeros(len(chosen), dtype=np.int64)
        _raster(
            faces.vertices, faces.counts, faces.normals, faces.starts, chosen,
            np.ascontiguousarray(to_camera @ rotations[chosen]), np.ascontiguousarray(in_camera[chosen]),
            to_camera @ light.sun, to_camera @ (np.array([0.0, 0.0, 0.0]) - view.position), np.ascontiguousarray(to_camera[:, 2]),
            camera * SAMPLES, self._inverse_depth, self._face_at, self._stamp, self._shadow, covered,
        )  # fmt: skip
        image = np.empty((view.height, view.width, 3), dtype=np.uint8)
        instance = np.empty((view.height, view.width), dtype=np.int32)
        seen = np.zeros(len(yaws), dtype=np.int64)
        origin = np.einsum("fij,fj->fi", rotations[self._owner], faces.vertices[:, 0]) + centres[self._owner]
        normals = np.einsum("fij,fj->fi", rotations[self._owner], faces.normals)
        along = np.stack([-normals[:, 1], normals[:, 0]], axis=-1)
        _resolve(
            self._inverse_depth, self._face_at, self._shadow, self._owner, faces.colors, faces.materials, self._lit(rotations), origin, along,
            view.rotation, view.position, camera, self._mosaic, self._widths, self._heights, self._starts, self._resolution,
            light.sun, light.ambient, light.strength, light.zenith, light.horizon, light.haze, image, instance, seen,
        )  # fmt: skip
        alone = np.zeros(len(yaws), dtype=np.int64)
        alone[chosen] = covered
        return image, instance, seen, alone
