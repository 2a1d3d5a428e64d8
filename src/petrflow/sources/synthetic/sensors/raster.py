"""The compiled loops of the renderer: faces go into a depth buffer, and the buffer into a picture.

Numba compiles them without fast-math, so that the same scene gives the same bytes. Arguments travel
in named tuples, which Numba takes as they are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from petrflow.sources.synthetic.sensors.mesh import FLAT, GLOW, LEAVES, MAX_VERTICES, STRIPES, WINDOWS

SAMPLES = 2  # per pixel and axis
NEAR = 0.25  # m; what is nearer to the camera is cut off
_HORIZON = -0.004  # a ray's upward component (of length 1) below which it meets the ground


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


# ---------------------------------------------------------------------------------------- geometry


@njit(cache=True)
def place_face(mesh, f, r, t, points):
    """Write the vertices of face ``f``, turned by ``r`` and moved by ``t``, into ``points``; return
    its normal.
    """
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
def _cast_on_ground(points, n, shade, cast):
    """Write into ``cast`` where the sun throws the first ``n`` points on the ground."""
    sun_up = shade.sun @ shade.up
    for k in range(n):
        above = 0.0
        for a in range(3):
            above += (points[k, a] - shade.ground[a]) * shade.up[a]
        for a in range(3):
            cast[k, a] = points[k, a] - shade.sun[a] * (above / sun_up)


@njit(cache=True)
def _clip_near(points, n, out):
    """Cut a polygon in the camera frame at z = NEAR; return its vertex count."""
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


# ----------------------------------------------------------------------- faces into the depth buffer


@njit(cache=True)
def _project(clipped, m, lens, height, px, py):
    """Write the image points of a clipped polygon into ``px`` and ``py``; return its first and last
    row of samples, of which the first is larger where it covers none.
    """
    if m < 3:
        return 0, -1
    top, bottom = 1e30, -1e30
    for k in range(m):
        px[k] = lens.fx * clipped[k, 0] / clipped[k, 2] + lens.cx
        py[k] = lens.fy * clipped[k, 1] / clipped[k, 2] + lens.cy
        top = min(top, py[k])
        bottom = max(bottom, py[k])
    return max(0, int(np.ceil(min(top, 1e6) - 0.5))), min(height - 1, int(np.floor(max(bottom, -1e6) - 0.5)))


@njit(cache=True)
def _row_span(px, py, m, y, width):
    """Return the first and last sample of a convex polygon in row ``y``; the first is larger where
    it covers none.
    """
    left, right = 1e30, -1e30
    middle = y + 0.5
    for i in range(m):
        j = (i + 1) % m
        y0, y1 = py[i], py[j]
        if (y0 <= middle) != (y1 <= middle):
            x = px[i] + (middle - y0) / (y1 - y0) * (px[j] - px[i])
            left = min(left, x)
            right = max(right, x)
    if left > right:
        return 0, -1
    return max(0, int(np.ceil(max(left, -1e6) - 0.5))), min(width - 1, int(np.ceil(min(right, 1e6) - 0.5)) - 1)


@njit(cache=True)
def raster(mesh, placed, shade, lens, buffers, covered):
    """Fill the depth and face buffers with the placed objects and mark their shadows.

    All vectors are in the camera frame. ``covered`` (C,) gets the number of samples that each
    object would cover alone.
    """
    inverse_depth, face_at, stamp = buffers.inverse_depth, buffers.face_at, buffers.stamp
    height, width = inverse_depth.shape
    points = np.empty((MAX_VERTICES, 3))
    cast = np.empty((MAX_VERTICES, 3))
    clipped = np.empty((MAX_VERTICES + 2, 3))
    px, py = np.empty(MAX_VERTICES + 2), np.empty(MAX_VERTICES + 2)
    for c in range(len(placed.chosen)):
        obj = placed.chosen[c]
        for f in range(mesh.starts[obj], mesh.starts[obj + 1]):
            n = mesh.counts[f]
            nx, ny, nz = place_face(mesh, f, placed.rotations[c], placed.translations[c], points)
            # The face itself, where its front is turned to the camera.
            offset = nx * points[0, 0] + ny * points[0, 1] + nz * points[0, 2]
            if offset < 0.0:
                m = _clip_near(points, n, clipped)
                first, last = _project(clipped, m, lens, height, px, py)
                # 1 / depth is linear in the image.
                iu, iv = nx / (lens.fx * offset), ny / (lens.fy * offset)
                i0 = nz / offset - iu * lens.cx - iv * lens.cy
                for y in range(first, last + 1):
                    x0, x1 = _row_span(px, py, m, y, width)
                    base = i0 + iv * (y + 0.5)
                    for x in range(x0, x1 + 1):
                        if stamp[y, x] != c:
                            stamp[y, x] = c
                            covered[c] += 1
                        value = base + iu * (x + 0.5)
                        if value > inverse_depth[y, x]:
                            inverse_depth[y, x] = value
                            face_at[y, x] = f
            # Its shadow, where the sun shines on it.
            if nx * shade.sun[0] + ny * shade.sun[1] + nz * shade.sun[2] > 0.0:
                _cast_on_ground(points, n, shade, cast)
                m = _clip_near(cast, n, clipped)
                first, last = _project(clipped, m, lens, height, px, py)
                for y in range(first, last + 1):
                    x0, x1 = _row_span(px, py, m, y, width)
                    for x in range(x0, x1 + 1):
                        buffers.shadow[y, x] = 1


# ----------------------------------------------------------------------- the buffers into a picture


@njit(cache=True)
def _noise(a, b):
    """A repeatable number in [0, 1) for two integers."""
    h = (np.uint32(a) * np.uint32(374761393) + np.uint32(b) * np.uint32(668265263)) & np.uint32(0xFFFFFFFF)
    h = ((h ^ (h >> np.uint32(13))) * np.uint32(1274126177)) & np.uint32(0xFFFFFFFF)
    return ((h ^ (h >> np.uint32(16))) & np.uint32(0xFFFF)) / 65536.0


@njit(cache=True)
def _ground_color(x, y, blur, mosaic, out):
    """Write the colour of the ground at (x, y), m, where one pixel spans ``blur`` m.

    It is interpolated in the copy of about that resolution.
    """
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
def _ray(x, y, lens, rotation, out):
    """Write the ray through the middle of pixel (x, y) into ``out`` (3,), global frame; return its
    length. The camera's depth grows by 1 along it.
    """
    u, v = (x + 0.5 - lens.cx) / lens.fx, (y + 0.5 - lens.cy) / lens.fy
    for a in range(3):
        out[a] = rotation[a, 0] * u + rotation[a, 1] * v + rotation[a, 2]
    return np.sqrt(1.0 + u * u + v * v)


@njit(cache=True)
def _background_row(y, face_at, rotation, position, lens, mosaic, air, out):
    """Write the colours of ground and sky into ``out`` (W, 3), for the pixels of row ``y`` that show
    any.
    """
    horizon, zenith, haze = air.horizon, air.zenith, air.haze
    level = air.sun[2] * air.strength + air.ambient
    ray = np.empty(3)
    for x in range(len(out)):
        covered = True
        for sample in range(SAMPLES * SAMPLES):
            covered &= face_at[y * SAMPLES + sample // SAMPLES, x * SAMPLES + sample % SAMPLES] >= 0
        if covered:
            continue
        norm = _ray(x, y, lens, rotation, ray)
        slope = ray[2] / norm
        if slope < _HORIZON:
            depth = -position[2] / ray[2]
            gx, gy = position[0] + depth * ray[0], position[1] + depth * ray[1]
            _ground_color(gx, gy, depth / lens.fx * np.sqrt(1.0 / -slope), mosaic, out[x])
            fade = np.exp(-(depth * norm) / haze)
            for a in range(3):
                out[x, a] = out[x, a] * level * fade + horizon[a] * (1.0 - fade)
        else:
            up = min(1.0, max(0.0, slope * 2.2))
            cloud = 0.5 + 0.5 * np.sin(3.1 * ray[0] / norm + 2.0 * np.sin(5.0 * slope + 1.3 * ray[1] / norm))
            for a in range(3):
                out[x, a] = horizon[a] + (zenith[a] - horizon[a]) * up + 14.0 * cloud * up


@njit(cache=True)
def _pattern(material, f, along, z, lit, own_red):
    """Return the colour of a patterned face at ``along``, m along it, and the height ``z``, m.

    ``lit`` is its colour under the light, and ``own_red`` the red of its own colour.
    """
    tone = 1.0
    red, green, blue = lit
    if material == WINDOWS:
        cu, cv = along / 2.6, z / 2.9
        pu, pv = cu - np.floor(cu), cv - np.floor(cv)
        if 0.22 < pu < 0.78 and 0.28 < pv < 0.8:
            pane = _noise(int(np.floor(cu)) + 977, int(np.floor(cv)) + f)
            tone = 0.42 + 0.3 * pane
            blue = min(255.0, blue * 1.25)
        else:
            tone = 1.0 - 0.1 * (pv > 0.94 or pv < 0.03)
    elif material == STRIPES:
        s = (along + z) / 0.36
        if s - np.floor(s) < 0.5:
            shade = red / max(own_red, 1.0)
            red, green, blue = 240.0 * shade, 240.0 * shade, 238.0 * shade
    elif material == LEAVES:
        tone = 0.8 + 0.4 * _noise(int(np.floor(along * 4.0)) + 501, int(np.floor(z * 4.0)) + 77)
    return red * tone, green * tone, blue * tone


@njit(cache=True)
def _resolve_row(y, back, buffers, surfaces, rotation, position, lens, air, image, instance, seen):
    """Draw row ``y`` of the picture before its background ``back`` (W, 3); other arguments as those
    of :func:`resolve`.

    A row is one call: Numba counts the references to every array that a call takes, and a call for
    each pixel makes the renderer three times as slow.
    """
    face_at, inverse_depth, shadow = buffers.face_at, buffers.inverse_depth, buffers.shadow
    owner, materials, lit, colors = surfaces.owner, surfaces.materials, surfaces.lit, surfaces.colors
    origin, direction, horizon, haze = surfaces.origin, surfaces.along, air.horizon, air.haze
    in_shadow = (air.ambient + 0.02) / (air.sun[2] * air.strength + air.ambient)
    share = 1.0 / (SAMPLES * SAMPLES)
    ray = np.empty(3)
    for x in range(len(back)):
        norm = _ray(x, y, lens, rotation, ray)
        r = g = b = 0.0
        best, best_depth = -1, 0.0
        last, last_r, last_g, last_b = -1, 0.0, 0.0, 0.0
        for sample in range(SAMPLES * SAMPLES):
            yy, xx = y * SAMPLES + sample // SAMPLES, x * SAMPLES + sample % SAMPLES
            f = face_at[yy, xx]
            if f < 0:
                dim = 1.0
                if shadow[yy, xx] == 1 and ray[2] / norm < _HORIZON:  # haze hides shadows, too
                    fade = np.exp(position[2] / ray[2] * norm / haze)
                    dim = in_shadow * fade + 1.0 - fade
                r, g, b = r + back[x, 0] * dim, g + back[x, 1] * dim, b + back[x, 2] * dim
                continue
            depth = 1.0 / inverse_depth[yy, xx]
            seen[owner[f]] += 1
            if best < 0 or depth < best_depth:
                best, best_depth = owner[f], depth
            if f == last:  # a plain face has one colour within a pixel
                r, g, b = r + last_r, g + last_g, b + last_b
                continue
            color = lit[f, 0], lit[f, 1], lit[f, 2]
            if materials[f] not in (FLAT, GLOW):
                wx, wy, wz = position[0] + depth * ray[0], position[1] + depth * ray[1], position[2] + depth * ray[2]
                along = (wx - origin[f, 0]) * direction[f, 0] + (wy - origin[f, 1]) * direction[f, 1]
                color = _pattern(materials[f], f, along, wz, color, colors[f, 0])
            fade = np.exp(-depth * norm / haze)
            red = color[0] * fade + horizon[0] * (1.0 - fade)
            green = color[1] * fade + horizon[1] * (1.0 - fade)
            blue = color[2] * fade + horizon[2] * (1.0 - fade)
            r, g, b = r + red, g + green, b + blue
            if materials[f] in (FLAT, GLOW):
                last, last_r, last_g, last_b = f, red, green, blue
        instance[y, x] = best
        image[y, x, 0] = np.uint8(min(255.0, max(0.0, b * share + 0.5)))
        image[y, x, 1] = np.uint8(min(255.0, max(0.0, g * share + 0.5)))
        image[y, x, 2] = np.uint8(min(255.0, max(0.0, r * share + 0.5)))


@njit(cache=True)
def resolve(buffers, surfaces, rotation, position, lens, mosaic, air, image, instance, seen):
    """Turn the buffers into a picture.

    Parameters
    ----------
    rotation, position : (3, 3) and (3,) float64
        From the camera's frame to the global frame, m.
    lens
        In pixels of the picture.
    image : (H, W, 3) uint8
        Gets the picture: blue, green, red.
    instance : (H, W) int32
        Gets the nearest object of each pixel, or -1.
    seen : (N,) int64
        The number of samples that each object shows is added to it.
    """
    back = np.empty((instance.shape[1], 3))
    for y in range(len(instance)):
        _background_row(y, buffers.face_at, rotation, position, lens, mosaic, air, back)
        _resolve_row(y, back, buffers, surfaces, rotation, position, lens, air, image, instance, seen)
