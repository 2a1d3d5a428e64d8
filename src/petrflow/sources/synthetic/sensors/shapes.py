"""What each kind of object looks like: flat convex faces around the centre of its box.

Every face lies inside the box, `INSET` metres or more from its sides, so that a lidar return from the object counts as inside
it whatever the rounding. Object frame: x forward, y left, z up, origin at the box centre, metres.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from petrflow.sources.synthetic.sensors.mesh import DARK, GLOW, LEAVES, STRIPES, WINDOWS, Color, Mesh

INSET = 0.012
GAP = 0.012  # between a body and the plates before it
GLASS: Color = (52, 66, 84)
HEADLIGHT: Color = (255, 250, 215)
TAILLIGHT: Color = (225, 20, 18)
SKIN: Color = (222, 172, 140)

Half = tuple[float, float, float]  # half length, half width, half height, already inset


def _pick(rng: np.random.Generator, colors: list[Color], spread: float = 14.0) -> Color:
    color = np.array(colors[int(rng.integers(len(colors)))]) + rng.uniform(-spread, spread, size=3)
    return tuple(np.clip(color, 4, 250).tolist())  # type: ignore[return-value]


def _lights(mesh: Mesh, half: Half, z: tuple[float, float], inner: float = 0.45) -> None:
    """Headlights at the front (white) and tail lights at the back (red), a hair outside the body and inside the box."""
    a, b, _ = half
    for side in (-1.0, 1.0):
        y = (side * inner * b, side * 0.94 * b)
        mesh.plate("x", a, y, z, HEADLIGHT, GLOW)
        mesh.plate("x", -a, y, z, TAILLIGHT, GLOW)


def _wheels(mesh: Mesh, half: Half, xs: tuple[float, ...], radius: float) -> None:
    _, b, c = half
    for x in xs:
        mesh.wheel(x, (-b, -b + 0.22), -c + radius, radius)
        mesh.wheel(x, (b - 0.22, b), -c + radius, radius)


_CAR_PAINTS: list[Color] = [
    (235, 235, 235), (150, 155, 160), (60, 62, 66), (170, 30, 32), (36, 62, 140), (88, 100, 112), (40, 92, 64),
]  # fmt: skip


def car(mesh: Mesh, half: Half, rng: np.random.Generator) -> None:
    """Body, glass cabin under a painted roof; a dark grille in front, a pale number plate behind."""
    a, b, c = half
    paint = _pick(rng, _CAR_PAINTS)
    waist = 0.08 * c
    body = (-a + GAP, a - GAP, -b + 0.03, b - 0.03)
    shoulder = (-a + 0.1, a - 0.15, -b + 0.06, b - 0.06)
    mesh.frustum(body, shoulder, -c + 0.28, waist, paint)
    cabin = (-0.78 * a, 0.46 * a, -b + 0.09, b - 0.09)
    roof = (-0.56 * a, 0.12 * a, -b + 0.25, b - 0.25)
    mesh.frustum(cabin, roof, waist, c, GLASS, roof=paint)
    _wheels(mesh, half, (-0.62 * a, 0.62 * a), 0.33)
    _lights(mesh, half, (-c + 0.62, -c + 0.84))
    mesh.plate("x", a, (-0.4 * b, 0.4 * b), (-c + 0.42, -c + 0.62), DARK)
    mesh.plate("x", -a, (-0.28 * b, 0.28 * b), (-c + 0.5, -c + 0.64), (225, 225, 200))


def truck(mesh: Mesh, half: Half, rng: np.random.Generator) -> None:
    """A coloured cab with glass all round, a gap, a plain pale box."""
    a, b, c = half
    cab = _pick(rng, [(190, 44, 40), (30, 80, 160), (225, 225, 220), (30, 120, 80)])
    cargo = _pick(rng, [(226, 226, 222), (200, 205, 212), (150, 172, 196)])
    split = a - 2.05
    low, high = 0.05 * c, 0.5 * c
    mesh.box((-a + GAP, a - 0.3), (-b + 0.2, b - 0.2), (-c + 0.5, -c + 1.0), DARK)
    floor = (split + 0.15, a - GAP, -b + 0.06, b - 0.06)
    roof = (split + 0.15, a - 0.25, -b + 0.1, b - 0.1)
    mesh.frustum(floor, roof, -c + 0.45, 0.62 * c, cab)
    w = b - 0.2
    mesh.face([[a - 0.1, -w, low], [a - 0.1, w, low], [a - 0.2, w, high], [a - 0.2, -w, high]], GLASS, (1.0, 0.0, 0.0))
    for side in (-1.0, 1.0):
        mesh.plate("y", side * (b - 0.055), (a - 1.2, a - 0.45), (low, high), GLASS)
    mesh.box((-a + GAP, split), (-b, b), (-c + 1.0, c), cargo)
    _wheels(mesh, half, (a - 1.0, -a + 1.0, -a + 2.1), 0.48)
    _lights(mesh, half, (-c + 0.55, -c + 0.8), inner=0.6)


def bus(mesh: Mesh, half: Half, rng: np.random.Generator) -> None:
    """Coloured below, cream above, a band of windows between; a lit sign over the windscreen."""
    a, b, c = half
    lower = _pick(rng, [(200, 30, 46), (20, 130, 84), (20, 96, 190), (110, 40, 130)])
    band = (-0.05 * c, 0.62 * c)
    outline = (-a + GAP, a - GAP, -b + GAP, b - GAP)
    mesh.frustum(outline, outline, -c + 0.3, band[0], lower, skip="t")
    mesh.frustum(outline, outline, band[0], c, (238, 236, 228), skip="b")
    edges = np.linspace(-a + 0.25, a - 0.25, max(4, int(2 * a / 1.6)) + 1).tolist()
    for left, right in itertools.pairwise(edges):
        for side in (-1.0, 1.0):
            mesh.plate("y", side * b, (left + 0.07, right - 0.07), (band[0] - 0.04, band[1]), GLASS)
    mesh.plate("x", a, (-0.88 * b, 0.88 * b), (-0.25 * c, 0.6 * c), GLASS)
    mesh.plate("x", -a, (-0.88 * b, 0.88 * b), (0.1 * c, 0.6 * c), GLASS)
    mesh.plate("x", a, (-0.6 * b, 0.6 * b), (0.68 * c, 0.9 * c), (255, 190, 40), GLOW)
    _wheels(mesh, half, (-0.55 * a, 0.6 * a), 0.46)
    _lights(mesh, half, (-c + 0.5, -c + 0.78), inner=0.6)


def trailer(mesh: Mesh, half: Half, rng: np.random.Generator) -> None:
    """A ribbed box with a red reflector line on three axles at the back and two legs at the front: no cab."""
    a, b, c = half
    body = _pick(rng, [(196, 200, 204), (214, 206, 188), (120, 128, 140)], 8.0)
    rib = (0.55 * body[0], 0.55 * body[1], 0.55 * body[2])
    mesh.box((-a + GAP, a - GAP), (-b + GAP, b - GAP), (-c + 1.15, c), body)
    mesh.box((-a + 0.3, a - 0.6), (-b + 0.5, b - 0.5), (-c + 0.85, -c + 1.15), DARK)
    for side in (-1.0, 1.0):
        mesh.plate("y", side * b, (-a + 0.05, a - 0.05), (-c + 1.15, -c + 1.4), (214, 70, 40))
        for x in np.arange(-a + 0.8, a - 0.4, 1.25).tolist():
            mesh.plate("y", side * b, (x, x + 0.16), (-c + 1.5, c - 0.1), rib)
    for y in (-0.7 * b, 0.62 * b):
        mesh.box((a - 2.0, a - 1.8), (y, y + 0.16), (-c, -c + 1.15), (90, 90, 94))
    _wheels(mesh, half, (-a + 0.9, -a + 2.0, -a + 3.1), 0.48)
    mesh.plate("x", -a, (-0.92 * b, 0.92 * b), (-c + 1.2, -c + 1.45), TAILLIGHT, GLOW)


def construction_vehicle(mesh: Mesh, half: Half, rng: np.random.Generator) -> None:
    """A yellow excavator on dark tracks: the boom rises from the body, bends over and ends in a bucket at the front."""
    a, b, c = half
    yellow = _pick(rng, [(246, 184, 12), (250, 166, 10)], 8.0)
    back, front = -a + GAP, 0.35 * a
    for y0, y1 in ((-b, -b + 0.55), (b - 0.55, b)):
        track = (back + 0.15, front, y0, y1)
        mesh.frustum(track, (back, front + 0.15, y0, y1), -c, -c + 0.75, DARK, roof=(60, 60, 62))
    mesh.box((back, front - 0.2), (-b + 0.12, b - 0.12), (-c + 0.75, -0.05 * c), yellow)
    cabin = (-0.35 * a, front - 0.1, 0.0, b - 0.2)
    mesh.frustum(cabin, (-0.3 * a, front - 0.35, 0.05, b - 0.25), -0.05 * c, 0.85 * c, GLASS, roof=yellow)
    arm = (-0.58, -0.22)
    mesh.frustum((0.0, 0.25 * a, *arm), (0.45 * a, 0.62 * a, *arm), -0.05 * c, c - 0.02, yellow)
    mesh.frustum((0.86 * a, a - 0.03, *arm), (0.5 * a, 0.62 * a, *arm), -0.45 * c, c - 0.02, yellow)
    bucket = (0.72 * a, a, -0.55 * b - 0.2, 0.55 * b - 0.2)
    mesh.frustum(bucket, (0.8 * a, a - 0.02, *bucket[2:]), -c + 0.12, -0.4 * c, (84, 80, 72))
    for side in (-1.0, 1.0):
        mesh.plate("x", -a, (side * 0.5 * b, side * 0.8 * b), (-0.3 * c, -0.15 * c), TAILLIGHT, GLOW)


def _person(
    mesh: Mesh, x: float, low: float, high: float, width: float, depth: float, top: Color, legs: Color, stride: float
) -> None:
    """A standing figure between z=`low` and `high`; faces look forward (x), hair shows from behind."""
    h = high - low
    hip, neck = low + 0.47 * h, low + 0.84 * h
    for side in (-1.0, 1.0):
        y = sorted((side * 0.06 * width, side * 0.5 * width))
        shift = side * stride
        mesh.frustum(
            (x + shift - 0.3 * depth, x + shift + 0.3 * depth, y[0], y[1]),
            (x - 0.35 * depth, x + 0.35 * depth, y[0], y[1]),
            low,
            hip,
            legs,
            skip="bt",
        )
    mesh.frustum(
        (x - 0.42 * depth, x + 0.42 * depth, -0.58 * width, 0.58 * width),
        (x - 0.42 * depth, x + 0.42 * depth, -0.8 * width, 0.8 * width),
        hip,
        neck,
        top,
    )
    mesh.box((x - 0.05, x + 0.36 * depth), (-0.27 * width, 0.27 * width), (neck, high - 0.05 * h), SKIN)
    mesh.box((x - 0.4 * depth, x + 0.05), (-0.3 * width, 0.3 * width), (neck + 0.03 * h, high), (44, 32, 26))


def pedestrian(mesh: Mesh, half: Half, rng: np.random.Generator) -> None:
    a, b, c = half
    top = _pick(
        rng,
        [(200, 60, 70), (60, 90, 170), (90, 140, 90), (220, 214, 200), (150, 80, 160), (60, 60, 66), (190, 120, 50)],
    )
    legs = _pick(rng, [(40, 44, 70), (60, 52, 46), (30, 30, 34)])
    _person(mesh, 0.0, -c, c, b / 0.8, 0.95 * a, top, legs, stride=0.35 * a)


def sitting(mesh: Mesh, half: Half, rng: np.random.Generator) -> None:
    a, b, c = half
    top = _pick(rng, [(200, 60, 70), (60, 90, 170), (220, 214, 200), (150, 80, 160)])
    legs = _pick(rng, [(40, 44, 70), (60, 52, 46)])
    mesh.box((-0.9 * a, 0.9 * a), (-0.7 * b, 0.7 * b), (-0.35 * c, 0.0), legs)
    mesh.box((0.55 * a, 0.9 * a), (-0.65 * b, 0.65 * b), (-c, -0.35 * c), legs)
    mesh.box((-a, -0.2 * a), (-b, b), (0.0, 0.6 * c), top)
    mesh.box((-0.65 * a, -0.2 * a), (-0.4 * b, 0.4 * b), (0.6 * c, 0.96 * c), SKIN)
    mesh.box((-0.95 * a, -0.6 * a), (-0.42 * b, 0.42 * b), (0.62 * c, c), (44, 32, 26))
    mesh.box((-a, 0.3 * a), (-b, b), (-c, -0.4 * c), (120, 96, 70))


def construction_worker(mesh: Mesh, half: Half, rng: np.random.Generator) -> None:
    a, b, c = half
    _person(mesh, 0.0, -c, c - 0.02, b / 0.8, 0.95 * a, (215, 240, 30), (40, 50, 90), stride=0.2 * a)
    mesh.box((-0.42 * a, 0.42 * a), (-0.42 * b, 0.42 * b), (0.9 * c, c), (250, 210, 30))


def motorcycle(mesh: Mesh, half: Half, rng: np.random.Generator, rider: bool) -> None:
    a, b, c = half
    paint = _pick(rng, [(180, 30, 30), (26, 26, 30), (30, 60, 150)])
    radius = 0.31
    for x in (-a + radius, a - radius):
        mesh.wheel(x, (-0.08, 0.08), -c + radius, radius)
    seat = -c + 0.82
    mesh.frustum((-0.62 * a, 0.55 * a, -0.16, 0.16), (-0.8 * a, 0.5 * a, -0.2, 0.2), -c + 0.3, seat, paint)
    mesh.box((0.42 * a, 0.55 * a), (-b, b), (seat + 0.12, seat + 0.2), DARK)
    mesh.frustum((0.5 * a, 0.85 * a, -0.1, 0.1), (0.4 * a, 0.55 * a, -0.1, 0.1), -c + 0.5, seat + 0.2, (90, 92, 96))
    mesh.box((0.55 * a, 0.62 * a), (-0.14, 0.14), (seat - 0.1, seat + 0.12), HEADLIGHT, GLOW)
    mesh.box((-0.86 * a, -0.8 * a), (-0.12, 0.12), (seat - 0.14, seat), TAILLIGHT, GLOW)
    if rider:
        jacket = _pick(rng, [(36, 36, 40), (120, 30, 30), (40, 60, 90)])
        mesh.frustum((-0.35 * a, 0.1 * a, -0.26, 0.26), (-0.15 * a, 0.2 * a, -0.3, 0.3), seat, c - 0.3, jacket)
        mesh.box((-0.05 * a, 0.24 * a), (-0.15, 0.15), (c - 0.3, c), _pick(rng, [(240, 240, 240), (220, 60, 30)]))
        for side in (-1.0, 1.0):
            y = sorted((side * 0.2, side * 0.32))
            mesh.box((-0.2 * a, 0.2 * a), (y[0], y[1]), (-c + 0.35, seat + 0.05), (34, 36, 48))


def bicycle(mesh: Mesh, half: Half, rng: np.random.Generator, rider: bool) -> None:
    a, b, c = half
    frame = _pick(rng, [(40, 170, 190), (60, 190, 90), (235, 120, 180)])
    radius = 0.33
    for x in (-a + radius, a - radius):
        mesh.ring(x, 0.0, -c + radius, radius, 0.075)
    seat = -c + 0.88
    mesh.frustum((-0.2 * a, 0.1 * a, -0.04, 0.04), (-0.3 * a, -0.15 * a, -0.04, 0.04), -c + 0.25, seat, frame)
    mesh.box((-0.3 * a, 0.55 * a), (-0.04, 0.04), (seat - 0.2, seat - 0.1), frame)
    mesh.frustum((0.55 * a, 0.68 * a, -0.04, 0.04), (0.45 * a, 0.56 * a, -0.04, 0.04), -c + 0.3, seat + 0.05, frame)
    mesh.box((-0.42 * a, -0.1 * a), (-0.09, 0.09), (seat - 0.03, seat + 0.04), DARK)
    mesh.box((0.44 * a, 0.54 * a), (-b, b), (seat + 0.02, seat + 0.1), DARK)
    mesh.box((0.58 * a, 0.64 * a), (-0.06, 0.06), (seat - 0.12, seat), HEADLIGHT, GLOW)
    mesh.box((-0.5 * a, -0.44 * a), (-0.06, 0.06), (seat - 0.2, seat - 0.08), TAILLIGHT, GLOW)
    if rider:
        shirt = _pick(rng, [(250, 210, 60), (90, 200, 235), (240, 110, 60)])
        mesh.frustum((-0.35 * a, 0.0, -0.2, 0.2), (-0.1 * a, 0.25 * a, -0.26, 0.26), seat, c - 0.27, shirt)
        mesh.box((0.02 * a, 0.32 * a), (-0.12, 0.12), (c - 0.27, c - 0.08), SKIN)
        mesh.box((-0.04 * a, 0.32 * a), (-0.13, 0.13), (c - 0.1, c), (235, 235, 240))
        for side in (-1.0, 1.0):
            y = sorted((side * 0.06, side * 0.2))
            mesh.box((-0.2 * a, 0.15 * a), (y[0], y[1]), (-c + 0.3, seat), (38, 40, 60))


def traffic_cone(mesh: Mesh, half: Half, rng: np.random.Generator) -> None:
    a, b, c = half
    orange = _pick(rng, [(252, 92, 14)], 8.0)
    mesh.box((-a, a), (-b, b), (-c, -c + 0.06), DARK)

    def width(z: float) -> float:
        return 0.82 * (1.0 - 0.8 * (z + c) / (2 * c))

    levels = [-c + 0.06, -0.2 * c, 0.3 * c, c]
    for low, high, color in zip(levels[:-1], levels[1:], (orange, (245, 245, 245), orange), strict=True):
        u, v = width(low), width(high)
        mesh.frustum((-u * a, u * a, -u * b, u * b), (-v * a, v * a, -v * b, v * b), low, high, color, skip="b")


def barrier(mesh: Mesh, half: Half, rng: np.random.Generator) -> None:
    a, b, c = half
    for low, high in ((-0.3 * c, 0.25 * c), (0.45 * c, c)):
        mesh.box((-0.35 * a, 0.35 * a), (-b, b), (low, high), (236, 66, 30), STRIPES)
    for y in (-0.85 * b, 0.78 * b):
        mesh.box((-0.25 * a, 0.25 * a), (y, y + 0.08), (-c, 0.95 * c), (200, 200, 196))
        mesh.box((-a, a), (y - 0.02, y + 0.1), (-c, -c + 0.1), DARK)


def bin_(mesh: Mesh, half: Half, rng: np.random.Generator) -> None:
    a, b, c = half
    paint = _pick(rng, [(50, 110, 60), (70, 76, 84), (40, 60, 120)])
    mesh.frustum((-0.8 * a, 0.8 * a, -0.8 * b, 0.8 * b), (-a, a, -b, b), -c + 0.05, 0.8 * c, paint)
    mesh.box((-a, a), (-b, b), (0.8 * c, c), (0.6 * paint[0], 0.6 * paint[1], 0.6 * paint[2]))


def building(mesh: Mesh, half: Half, rng: np.random.Generator) -> None:
    a, b, c = half
    wall = _pick(rng, [(172, 140, 118), (150, 150, 152), (190, 178, 156), (128, 110, 104), (160, 168, 176)], 10.0)
    mesh.frustum((-a, a, -b, b), (-a, a, -b, b), -c, c, wall, material=WINDOWS, skip="b")


def tree(mesh: Mesh, half: Half, rng: np.random.Generator) -> None:
    a, b, c = half
    green = _pick(rng, [(62, 104, 48), (80, 116, 54), (48, 88, 52)], 8.0)
    mesh.frustum((-0.14, 0.14, -0.14, 0.14), (-0.1, 0.1, -0.1, 0.1), -c, -0.4 * c, (92, 70, 52), skip="bt")
    mesh.frustum((-0.55 * a, 0.55 * a, -0.55 * b, 0.55 * b), (-a, a, -b, b), -0.5 * c, 0.05 * c, green, material=LEAVES)
    mesh.frustum((-a, a, -b, b), (-0.35 * a, 0.35 * a, -0.35 * b, 0.35 * b), 0.05 * c, c, green, material=LEAVES)


def pole(mesh: Mesh, half: Half, rng: np.random.Generator) -> None:
    _, b, c = half
    mesh.frustum((-0.08, 0.08, -0.08, 0.08), (-0.05, 0.05, -0.05, 0.05), -c, c, (108, 110, 112), skip="b")
    mesh.box((-0.08, 0.08), (-b, b), (c - 0.12, c - 0.02), (108, 110, 112))


_MODELS: dict[str, Callable[..., None]] = {
    "car": car,
    "truck": truck,
    "bus": bus,
    "trailer": trailer,
    "construction_vehicle": construction_vehicle,
    "pedestrian": pedestrian,
    "sitting": sitting,
    "construction_worker": construction_worker,
    "motorcycle": lambda m, h, r: motorcycle(m, h, r, False),
    "motorcycle_rider": lambda m, h, r: motorcycle(m, h, r, True),
    "bicycle": lambda m, h, r: bicycle(m, h, r, False),
    "bicycle_rider": lambda m, h, r: bicycle(m, h, r, True),
    "traffic_cone": traffic_cone,
    "barrier": barrier,
    "bin": bin_,
    "building": building,
    "tree": tree,
    "pole": pole,
}


def build(model: str, size: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Faces of one object of the given model; `size` (3,) is its box's width, length and height in m, nuScenes' order."""
    mesh = Mesh()
    width, length, height = (float(v) for v in size)
    half = (length / 2 - INSET, width / 2 - INSET, height / 2 - INSET)
    _MODELS[model](mesh, half, rng)
    return mesh.arrays()
