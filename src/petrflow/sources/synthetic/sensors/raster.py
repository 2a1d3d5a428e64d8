"""The compiled loops of the renderer: faces into a depth buffer, the buffer into a picture.

Numba without fast-math: the same scene gives the same bytes. Arguments travel in named groups, which Numba takes as they are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from petrflow.sources.synthetic.sensors.mesh import FLAT, GLOW, LEAVES, MAX_VERTICES, STRIPES, WINDOWS

SAMPLES = 2  # per pixel and axis
NEAR = 0.25  # m


class Mesh(NamedTuple):
    """Faces of all objects, in their objects' frames, m.

    `vertices` (F, K, 3) float64, of which `counts` (F,) are used; `normals` (F, 3), of length 1; `starts` (N + 1,): first face of each object.
    """

    vertices: np.ndarray
    counts: np.ndarray
    normals: np.ndarray
    starts: np.ndarray


class Placed(NamedTuple):
    """Objects that may be seen: `chosen` (C,) indices, nearest first, and their frames' `rotations` (C, 3, 3) and `translations` (C, 3), m."""

    chosen: np.ndarray
    rotations: np.ndarray
    translations: np.ndarray


class Shade(NamedTuple):
    """Where shadows fall, in the camera frame: direction to the `sun` (3,), a point of the `ground` (3,) and its normal `up` (3,)."""

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
    """Sampled grid (H, W): inverse depth in 1/m, face or -1, last object that covered a sample, and whether it lies in shadow."""

    inverse_depth: np.ndarray
    face_at: np.ndarray
    stamp: np.ndarray
    shadow: np.ndarray


class Surfaces(NamedTuple):
    """Of each face: its object, own colour (F, 3), material, colour in this light (F, 3), a point (F, 3) and a level direction (F, 2)."""

    owner: np.ndarray
    colors: np.ndarray
    materials: np.ndarray
    lit: np.ndarray
    origin: np.ndarray
    along: np.ndarray


class Mosaic(NamedTuple):
    """The ground's picture in copies of halved size, one behind the other: `pixels` (P, 3), sizes, first pixels, m a pixel of the first."""

    pixels: np.ndarray
    widths: np.ndarray
    heights: np.ndarray
    starts: np.ndarray
    resolution: float


class Air(NamedTuple):
    """Light and haze: direction to the `sun` (3,), shares of ambient and direct light, sky colours (3,), and m over which colours fade."""

    sun: np.ndarray
    ambient: float
    strength: float
    zenith: np.ndarray
    horizon: np.ndarray
    haze: float


@njit(cache=True)
def _clip_near(points, n, out):
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
def _row_span(px, py, m, y):
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
def place_face(mesh, f, r, t, points):
    """Write a face's vertices, turned by `r` and moved by `t`, into `points`; returns its normal."""
    for k in range(mesh.counts[f]):
        v = mesh.vertices[f, k]
        for a in range(3):
            points[k, a] = r[a, 0] * v[0] + r[a, 1] * v[1] + r[a, 2] * v[2] + t[a]
    normal = mesh.normals[f]
    return (
        r[0, 0] * normal[0] + r[0, 1] * normal[1] + r[0, 2] * normal[2],
        r[1, 0] * normal[0] + r[1, 1] * normal[1] + r[1, 2] * normal[2],
        r[2, 0] * normal[0] + r[2, 1] * normal[1] + r[2, 2] * normal[2],
    )


@njit(cache=True)
def raster(mesh, placed, shade, lens, buffers, covered):
    """Fill the depth and face buffers with the placed objects; mark their shadows; count the samples each covers alone.

    All vectors are in the camera frame.
    """
    fx, fy, cx, cy = lens.fx, lens.fy, lens.cx, lens.cy
    inverse_depth, face_at, stamp, shadow = buffers.inverse_depth, buffers.face_at, buffers.stamp, buffers.shadow
    sun_camera, ground_camera, up_camera = shade.sun, shade.ground, shade.up
    height, width = inverse_depth.shape
    points = np.empty((MAX_VERTICES, 3))
    cast = np.empty((MAX_VERTICES, 3))
    clipped = np.empty((MAX_VERTICES + 2, 3))
    px, py = np.empty(MAX_VERTICES + 2), np.empty(MAX_VERTICES + 2)
    sun_up = sun_camera @ up_camera
    for c in range(len(placed.chosen)):
        obj = placed.chosen[c]
        for f in range(mesh.starts[obj], mesh.starts[obj + 1]):
            n = mesh.counts[f]
            nx, ny, nz = place_face(mesh, f, placed.rotations[c], placed.translations[c], points)
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
def _noise(a, b):
    """A repeatable number in [0, 1) for two integers."""
    h = (np.uint32(a) * np.uint32(374761393) + np.uint32(b) * np.uint32(668265263)) & np.uint32(0xFFFFFFFF)
    h = ((h ^ (h >> np.uint32(13))) * np.uint32(1274126177)) & np.uint32(0xFFFFFFFF)
    return ((h ^ (h >> np.uint32(16))) & np.uint32(0xFFFF)) / 65536.0


@njit(cache=True)
def _ground_color(x, y, blur, mosaic, out):
    """Write the colour of the ground at (x, y) m where one pixel spans `blur` m: bilinear in the copy of about that resolution."""
    pixels = mosaic.pixels
    level = 0
    size = mosaic.resolution
    while level < len(mosaic.widths) - 1 and size * 1.5 < blur:
        level += 1
        size *= 2.0
    u, v = x / size - 0.5, y / size - 0.5
    iu, iv = int(np.floor(u)), int(np.floor(v))
    du, dv = u - iu, v - iv
    w, h = mosaic.widths[level], mosaic.heights[level]
    a, b = min(max(iu, 0), w - 1), min(max(iu + 1, 0), w - 1)
    c, d = min(max(iv, 0), h - 1), min(max(iv + 1, 0), h - 1)
    base = mosaic.starts[level]
    for k in range(3):
        top = pixels[base + c * w + a, k] * (1 - du) + pixels[base + c * w + b, k] * du
        low = pixels[base + d * w + a, k] * (1 - du) + pixels[base + d * w + b, k] * du
        out[k] = top * (1 - dv) + low * dv


@njit(cache=True)
def resolve(buffers, surfaces, rotation, position, lens, mosaic, air, image, instance, seen):
    """Turn the buffers into a picture (H, W, 3) uint8 and an instance picture (H, W); count the samples each object keeps.

    `rotation` (3, 3) and `position` (3,) m are the camera's in the global frame; `lens` is in pixels of the picture.
    """
    fx, fy, cx, cy = lens.fx, lens.fy, lens.cx, lens.cy
    inverse_depth, face_at, shadow = buffers.inverse_depth, buffers.face_at, buffers.shadow
    face_rgb, face_origin, face_along = surfaces.lit, surfaces.origin, surfaces.along
    sun, ambient, strength = air.sun, air.ambient, air.strength
    zenith, horizon, haze = air.zenith, air.horizon, air.haze
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
                                _ground_color(gx, gy, blur, mosaic, ground)
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
                    obj = surfaces.owner[f]
                    seen[obj] += 1
                    if best < 0 or depth < best_depth:
                        best, best_depth = obj, depth
                    if f == last:  # a plain face has one colour within a pixel
                        r, g, b = r + last_r, g + last_g, b + last_b
                        continue
                    tone = 1.0
                    material = surfaces.materials[f]
                    red, green, blue = face_rgb[f, 0], face_rgb[f, 1], face_rgb[f, 2]
                    if material not in (FLAT, GLOW):
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
                            if 0.22 < pu < 0.78 and 0.28 < pv < 0.8:
                                pane = _noise(int(np.floor(cu)) + 977, int(np.floor(cv)) + f)
                                tone = 0.42 + 0.3 * pane
                                blue = min(255.0, blue * 1.25)
                            else:
                                tone = 1.0 - 0.1 * (pv > 0.94 or pv < 0.03)
                        elif material == STRIPES:
                            s = (along + wz) / 0.36
                            if s - np.floor(s) < 0.5:
                                shade = face_rgb[f, 0] / max(surfaces.colors[f, 0], 1.0)
                                red, green, blue = 240.0 * shade, 240.0 * shade, 238.0 * shade
                        elif material == LEAVES:
                            tone = 0.8 + 0.4 * _noise(int(np.floor(along * 4.0)) + 501, int(np.floor(wz * 4.0)) + 77)
                    fade = np.exp(-depth * norm / haze)
                    red = red * tone * fade + horizon[0] * (1.0 - fade)
                    green = green * tone * fade + horizon[1] * (1.0 - fade)
                    blue = blue * tone * fade + horizon[2] * (1.0 - fade)
                    r, g, b = r + red, g + green, b + blue
                    if material in (FLAT, GLOW):
                        last, last_r, last_g, last_b = f, red, green, blue
            instance[y, x] = best
            share = 1.0 / (SAMPLES * SAMPLES)
            image[y, x, 0] = np.uint8(min(255.0, max(0.0, b * share + 0.5)))
            image[y, x, 1] = np.uint8(min(255.0, max(0.0, g * share + 0.5)))
            image[y, x, 2] = np.uint8(min(255.0, max(0.0, r * share + 0.5)))
