"""The compiled loops that turn the buffers of `raster` into a picture.

Numba compiles them without fast-math, so that the same scene gives the same bytes.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from petrflow.sources.synthetic.sensors.groups import SAMPLES
from petrflow.sources.synthetic.sensors.mesh import FLAT, GLOW, LEAVES, STRIPES, WINDOWS

_HORIZON = -0.004  # a ray's upward component (of length 1) below which it meets the ground


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
