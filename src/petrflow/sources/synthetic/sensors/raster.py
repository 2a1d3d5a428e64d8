"""The compiled loop that draws faces into a depth buffer and marks their shadows.

Numba compiles it without fast-math, so that the same scene gives the same bytes.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from petrflow.sources.synthetic.sensors.mesh import MAX_VERTICES

NEAR = 0.25  # m; what is nearer to the camera is cut off


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
