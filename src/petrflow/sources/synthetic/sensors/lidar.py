"""A spinning lidar of 32 beams: each ray returns the nearest of the scene's faces and the ground."""

from __future__ import annotations

import numpy as np
from numba import njit

from petrflow.sources.synthetic.sensors.camera import Faces
from petrflow.sources.synthetic.sensors.groups import Mesh, Placed
from petrflow.sources.synthetic.sensors.raster import place_face

BEAMS = np.radians(np.linspace(-30.67, 10.67, 32))  # rad above the horizon
COLUMNS = 660  # per turn
# Columns. Only every sixth keeps returns from the ground and from scenery: they make up most of a
# sweep, and boxes are not among them.
SPARSE_EVERY = 6
MAX_RANGE = 70.0  # m


@njit(cache=True)
def _columns_of(points, n, columns):
    """Return the first and the last column of a turn that the first ``n`` points (K, 3), lidar
    frame, lie in.
    """
    tau = 2.0 * np.pi
    middle = np.arctan2(points[0, 1], points[0, 0])
    low = high = 0.0
    for k in range(n):
        turn = np.arctan2(points[k, 1], points[k, 0]) - middle
        turn -= tau * np.floor(turn / tau + 0.5)
        low, high = min(low, turn), max(high, turn)
    return int(np.ceil((middle + low) / tau * columns)), int(np.floor((middle + high) / tau * columns))


@njit(cache=True)
def _inside(points, n, nx, ny, nz, qx, qy, qz):
    """Say whether q, a point of a convex face's plane, lies in the face of normal (nx, ny, nz)."""
    for k in range(n):
        j = (k + 1) % n
        ex, ey, ez = points[j, 0] - points[k, 0], points[j, 1] - points[k, 1], points[j, 2] - points[k, 2]
        wx, wy, wz = qx - points[k, 0], qy - points[k, 1], qz - points[k, 2]
        if nx * (ey * wz - ez * wy) + ny * (ez * wx - ex * wz) + nz * (ex * wy - ey * wx) < 0.0:
            return False
    return True


@njit(cache=True)
def _cast(mesh, placed, beams, columns, best, hit):
    """Write the distance to the nearest face, m, into ``best`` and its object into ``hit``, both
    (columns, beams).

    All vectors are in the lidar frame; azimuths count from x to y.
    """
    tau = 2.0 * np.pi
    points = np.empty((mesh.vertices.shape[1], 3))
    for c in range(len(placed.chosen)):
        obj = placed.chosen[c]
        for f in range(mesh.starts[obj], mesh.starts[obj + 1]):
            n = mesh.counts[f]
            nx, ny, nz = place_face(mesh, f, placed.rotations[c], placed.translations[c], points)
            offset = nx * points[0, 0] + ny * points[0, 1] + nz * points[0, 2]
            if offset >= 0.0:
                continue
            first, last = _columns_of(points, n, columns)
            for column in range(first, last + 1):
                azimuth = column * tau / columns
                ca, sa = np.cos(azimuth), np.sin(azimuth)
                index = column % columns
                for b in range(len(beams)):
                    cb = np.cos(beams[b])
                    dx, dy, dz = cb * ca, cb * sa, np.sin(beams[b])
                    facing = nx * dx + ny * dy + nz * dz
                    if facing > -1e-9:
                        continue
                    distance = offset / facing
                    if distance >= best[index, b]:
                        continue
                    qx, qy, qz = distance * dx, distance * dy, distance * dz
                    if _inside(points, n, nx, ny, nz, qx, qy, qz):
                        best[index, b] = distance
                        hit[index, b] = obj


def sweep(
    faces: Faces,
    radii: np.ndarray,
    sparse: np.ndarray,
    centres: np.ndarray,
    yaws: np.ndarray,
    rotation: np.ndarray,
    position: np.ndarray,
) -> np.ndarray:
    """Return the points of one turn of the lidar.

    Parameters
    ----------
    faces, radii : Faces and (N,) float64
        The objects, and the distance of each one's outermost point from its origin, m.
    sparse : (N,) bool
        Objects of which only some columns keep returns.
    centres, yaws : (N, 3) and (N,) float64
        Where the objects are, global frame, m and rad.
    rotation, position : (3, 3) and (3,) float64
        From the lidar's frame to the global frame, m.

    Returns
    -------
    (P, 5) float32
        x, y, z in m in the lidar frame, intensity 0 to 255, beam index: the layout of nuScenes'
        .pcd.bin files.
    """
    in_lidar = (centres - position) @ rotation
    distance = np.linalg.norm(in_lidar, axis=1)
    chosen = np.nonzero(distance - radii < MAX_RANGE)[0]
    cos, sin = np.cos(yaws[chosen]), np.sin(yaws[chosen])
    zero, one = np.zeros_like(cos), np.ones_like(cos)
    turned = np.stack(
        [np.stack([cos, -sin, zero], -1), np.stack([sin, cos, zero], -1), np.stack([zero, zero, one], -1)], axis=-2
    )
    best = np.full((COLUMNS, len(BEAMS)), MAX_RANGE)
    hit = np.full((COLUMNS, len(BEAMS)), -1, dtype=np.int64)
    placed = Placed(chosen, np.ascontiguousarray(rotation.T @ turned), np.ascontiguousarray(in_lidar[chosen]))
    _cast(Mesh(faces.vertices, faces.counts, faces.normals, faces.starts), placed, BEAMS, COLUMNS, best, hit)
    azimuth = np.arange(COLUMNS) * (2 * np.pi / COLUMNS)
    ca, sa, cb, sb = np.cos(azimuth)[:, None], np.sin(azimuth)[:, None], np.cos(BEAMS)[None], np.sin(BEAMS)[None]
    rays = np.stack([ca * cb, sa * cb, np.broadcast_to(sb, (COLUMNS, len(BEAMS)))], axis=-1)
    down = rays @ rotation[2]
    to_ground = np.where(down < -1e-3, position[2] / np.maximum(-down, 1e-3), MAX_RANGE)
    on_ground = to_ground < best
    ground = on_ground & (to_ground < MAX_RANGE)
    thin = on_ground | sparse[np.maximum(hit, 0)]
    kept = (ground | (~on_ground & (hit >= 0))) & (~thin | (np.arange(COLUMNS) % SPARSE_EVERY == 0)[:, None])
    distance = np.where(ground, to_ground, best)
    columns, beams = np.nonzero(kept)
    points = rays[columns, beams] * distance[columns, beams, None]
    intensity = np.where(ground[columns, beams], 18.0, 40.0 + (hit[columns, beams] * 37) % 120)
    return np.concatenate([points, intensity[:, None], beams[:, None]], axis=1).astype(np.float32)


def count_inside(points: np.ndarray, centres: np.ndarray, rotations: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Count the points in each box: (M,) int64.

    Parameters
    ----------
    points : (P, 3) float64
    centres : (M, 3) float64
        In the frame of the points, m.
    rotations : (M, 3, 3) float64
        From the box's frame to that of the points.
    sizes : (M, 3) float64
        Width, length, height, m.
    """
    counts = np.zeros(len(centres), dtype=np.int64)
    half = sizes[:, [1, 0, 2]] / 2
    for i in range(len(centres)):
        delta = points - centres[i]
        near = delta[(np.abs(delta) < np.linalg.norm(half[i]) + 1e-3).all(axis=1)]
        counts[i] = int((np.abs(near @ rotations[i]) <= half[i]).all(axis=1).sum())
    return counts
