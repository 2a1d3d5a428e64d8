"""Draws what stands and moves on a street: which things, how many, where."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from petrflow.sources.synthetic.path import Drive, make_drive
from petrflow.sources.synthetic.world import Placer, RoadLayout, Thing, World

_SIZES = {  # width, length, height, m: about nuScenes' class means
    "car": (1.93, 4.6, 1.68),
    "truck": (2.5, 7.2, 3.0),
    "bus": (2.9, 11.2, 3.45),
    "trailer": (2.75, 10.6, 3.8),
    "construction_vehicle": (2.7, 6.2, 3.1),
    "pedestrian": (0.66, 0.72, 1.76),
    "construction_worker": (0.7, 0.74, 1.8),
    "sitting": (0.66, 0.85, 1.3),
    "motorcycle": (0.78, 2.1, 1.25),
    "motorcycle_rider": (0.78, 2.1, 1.62),
    "bicycle": (0.6, 1.72, 1.1),
    "bicycle_rider": (0.6, 1.72, 1.72),
    "traffic_cone": (0.42, 0.42, 1.02),
    "barrier": (2.45, 0.55, 1.0),
    "bin": (0.7, 0.75, 1.15),
}


# A bus that keeps pace beside the ego vehicle hides half the street in every image: large vehicles
# are ahead, behind or passing.
_CLEAR_OF_LARGE = 15.0  # m along the road, averaged over the scene


def _size(rng: np.random.Generator, model: str) -> np.ndarray:
    return np.round(np.array(_SIZES[model]) * (1.0 + rng.uniform(-0.07, 0.07, size=3)), 3)


class _Populator:
    """Draws the things of one scene."""

    def __init__(self, rng: np.random.Generator, drive: Drive, layout: RoadLayout, duration: float) -> None:
        self.rng, self.drive, self.layout, self.duration = rng, drive, layout, duration
        self.placer = Placer(drive, duration)

    def along(self, reach: float = 46.0) -> float:
        """A distance along the road that some moment of the scene brings within `reach` m, and
        mostly within half of it.
        """
        return float(self.rng.uniform(-4.0, self.drive.length + 4.0) + self.rng.triangular(-reach, 2.0, reach))

    def side(self) -> float:
        return float(self.rng.choice([-1.0, 1.0]))

    def tries(self, wanted: int, attempts: int, make: Callable[[], list[Thing]]) -> None:
        """Call `make` until `wanted` of its proposals were accepted, at most `attempts` times for
        each.
        """
        for _ in range(wanted):
            for _ in range(attempts):
                proposal = make()
                if proposal and self.placer.add(*proposal):
                    break

    def fixed(
        self, model: str, category: str, s: float, d: float, turn: float, attribute: str = "", velocity: float = 0.0
    ) -> Thing:
        """Something off the lanes, at (s, d), turned `turn` rad from the road's direction, walking
        at `velocity` m/s where it looks.
        """
        xy, yaw = self.drive.point(np.array(s), d)
        heading = float(yaw) + turn
        direction = np.array([np.cos(heading), np.sin(heading)])
        # s is where it should be at a random moment of the scene, not at its start.
        xy = xy - direction * velocity * self.rng.uniform(0.0, self.duration)
        return Thing(
            model, category, _size(self.rng, model), attribute, xy=xy, velocity=direction * velocity, yaw=heading
        )

    def lane(self) -> tuple[float, float]:
        """A traffic lane's middle (d) and direction (+1 with the ego vehicle, -1 against it)."""
        layout = self.layout
        lanes = [(-(i + 1) * layout.lane, 1.0) for i in range(layout.right_lanes)]
        lanes += [((i + 1) * layout.lane, -1.0) for i in range(layout.left_lanes)]
        return lanes[int(self.rng.integers(len(lanes)))]

    def alongside(self, s0: float, speed: float) -> float:
        """Metres along the road between the ego vehicle and something at (s0 + speed * t), averaged
        over the scene.
        """
        times = np.linspace(0.0, self.duration, 9)
        return float(np.abs(s0 + speed * times - self.drive.ego_distance(times)).mean())

    def driving(
        self, model: str, category: str, low: float, high: float, attribute: str = "vehicle.moving", edge: bool = False
    ) -> list[Thing]:
        """Something in a traffic lane (at its edge if `edge`), between `low` and `high` m/s."""
        d, direction = self.lane()
        if edge:
            d += -direction * self.rng.uniform(0.7, 1.0)
        d += self.rng.uniform(-0.2, 0.2)
        speed = direction * self.rng.uniform(low, high)
        moment = self.rng.uniform(0.0, self.duration)
        s0 = float(self.drive.ego_distance(moment) + self.rng.triangular(-45.0, 4.0, 45.0) - speed * moment)
        if _SIZES[model][1] > 5.0 and self.alongside(s0, speed) < _CLEAR_OF_LARGE:
            return []
        turn = 0.0 if direction > 0 else np.pi
        return [Thing(model, category, _size(self.rng, model), attribute, True, s0, d, speed, yaw=turn)]

    def parked_d(self, width: float) -> tuple[float, float]:
        """Middle of a parking strip and the heading of what parks there."""
        side = self.side()
        edge = self.layout.left_edge if side > 0 else self.layout.right_edge
        return edge + side * (width / 2 + 0.25), 0.0 if side < 0 else np.pi

    def parked(self, model: str, category: str, attribute: str) -> list[Thing]:
        thing = self.fixed(model, category, 0.0, 0.0, 0.0, attribute)
        d, turn = self.parked_d(float(thing.size[0]))
        xy, yaw = self.drive.point(np.array(self.along()), d)
        thing.xy, thing.yaw = xy, float(yaw) + turn + self.rng.uniform(-0.06, 0.06)
        return [thing]

    def walk_d(self) -> float:
        """An offset on one of the two sidewalks."""
        layout, side = self.layout, self.side()
        edge = layout.left_edge if side > 0 else layout.right_edge
        return edge + side * (layout.parking + self.rng.uniform(-0.8, 0.7 * layout.walk))

    def road_train(self) -> list[Thing]:
        """A truck with a trailer behind it, driving or waiting."""
        d, direction = self.lane()
        speed = direction * self.rng.choice([0.0, self.rng.uniform(3.0, 8.0)])
        truck = Thing("truck", "vehicle.truck", _size(self.rng, "truck"), on_road=True, d=d, speed=speed)
        trailer = Thing("trailer", "vehicle.trailer", _size(self.rng, "trailer"), on_road=True, d=d, speed=speed)
        moment = self.rng.uniform(0.0, self.duration)
        gap = float(truck.size[1] / 2 + trailer.size[1] / 2 + 0.7)
        trailer.s0 = float(self.drive.ego_distance(moment) + self.rng.triangular(-40.0, 4.0, 40.0) - speed * moment)
        truck.s0 = trailer.s0 + direction * gap
        if self.alongside(0.5 * (truck.s0 + trailer.s0), speed) < _CLEAR_OF_LARGE:
            return []
        for thing in (truck, trailer):
            thing.yaw = 0.0 if direction > 0 else np.pi
            thing.attribute = "vehicle.moving" if speed else "vehicle.stopped"
        return [truck, trailer]

    def work_site(self) -> list[Thing]:
        """A stretch of lane closed by barriers and cones, a construction vehicle behind them and
        someone at work.
        """
        rng = self.rng
        side = self.side()
        layout = self.layout
        lanes = layout.left_lanes if side > 0 else layout.right_lanes
        d = side * lanes * layout.lane if lanes else side * (abs(layout.right_edge) + 1.6)
        s = self.along(28.0)
        length = rng.uniform(12.0, 20.0)
        things = [
            self.fixed(
                "construction_vehicle",
                "vehicle.construction",
                s,
                d,
                rng.uniform(-0.2, 0.2) + rng.choice([0.0, np.pi]),
                "vehicle.stopped",
            )
        ]
        things += self._fence(s, d - side * 2.0, length)
        for end in (-1.0, 1.0):
            for across in (-1.0, 0.4):
                things.append(
                    self.fixed(
                        "traffic_cone",
                        "movable_object.trafficcone",
                        s + end * (length / 2 + 1.2),
                        d + side * across,
                        0.0,
                    )
                )
        things.append(
            self.fixed(
                "construction_worker",
                "human.pedestrian.construction_worker",
                s + rng.choice([-1, 1]) * 5.2,
                d,
                rng.uniform(-3, 3),
                "pedestrian.standing",
            )
        )
        return things

    def _fence(self, s: float, d: float, length: float) -> list[Thing]:
        """Barriers, and a cone in every third place, along `length` m of the road around (s, d)."""
        rng = self.rng
        things = []
        row = np.arange(-length / 2, length / 2 + 0.1, rng.uniform(2.9, 3.4))
        for k, along in enumerate(row):
            if k % 3 == 2:
                things.append(
                    self.fixed("traffic_cone", "movable_object.trafficcone", s + along, d, rng.uniform(-0.3, 0.3))
                )
            else:
                things.append(
                    self.fixed("barrier", "movable_object.barrier", s + along, d, np.pi / 2 + rng.uniform(-0.08, 0.08))
                )
        return things

    def pedestrian(self) -> list[Thing]:
        rng = self.rng
        draw = rng.uniform()
        if draw < 0.12:
            return [
                self.fixed(
                    "sitting",
                    "human.pedestrian.adult",
                    self.along(36.0),
                    self.walk_d(),
                    rng.uniform(-np.pi, np.pi),
                    "pedestrian.sitting_lying_down",
                )
            ]
        child = rng.uniform() < 0.12
        category = "human.pedestrian.child" if child else "human.pedestrian.adult"
        if draw < 0.4:
            things = [
                self.fixed(
                    "pedestrian",
                    category,
                    self.along(36.0),
                    self.walk_d(),
                    rng.uniform(-np.pi, np.pi),
                    "pedestrian.standing",
                )
            ]
        else:
            turn = rng.choice([0.0, np.pi]) + rng.normal(0.0, 0.1)
            things = [
                self.fixed(
                    "pedestrian",
                    category,
                    self.along(36.0),
                    self.walk_d(),
                    turn,
                    "pedestrian.moving",
                    rng.uniform(0.8, 1.8),
                )
            ]
        if child:
            things[0].size = np.round(things[0].size * np.array([0.8, 0.8, 0.7]), 3)
        return things

    def row(self, model: str, category: str, count: int, spacing: float, turn: float) -> list[Thing]:
        """A short row of cones or barriers along an edge of the road."""
        side = self.side()
        edge = self.layout.left_edge if side > 0 else self.layout.right_edge
        s, d = self.along(28.0), edge + side * self.rng.uniform(-0.6, 1.2)
        return [
            self.fixed(model, category, s + k * spacing, d, turn + self.rng.uniform(-0.06, 0.06)) for k in range(count)
        ]


def _populate(p: _Populator, density: float) -> None:
    """Large and constrained things first; counts are per 130 m of road at density 1.

    From density 0.5 on, every scene has at least one of each detection class, so that every class
    can be learned and scored.
    """
    rng = p.rng
    scale = density * (p.drive.length + 100.0) / 130.0

    def count(mean: float) -> int:
        return int(np.floor(mean * scale + rng.uniform()))

    if density >= 0.5:
        p.tries(1, 60, p.work_site)
        p.tries(1, 60, p.road_train)
        p.tries(1, 60, lambda: p.driving("bus", "vehicle.bus.rigid", 3.0, 8.0))
        p.tries(2, 60, lambda: p.parked("bicycle", "vehicle.bicycle", "cycle.without_rider"))
        p.tries(1, 60, lambda: p.parked("motorcycle", "vehicle.motorcycle", "cycle.without_rider"))

    p.tries(count(0.2), 25, p.work_site)
    p.tries(count(0.3), 30, p.road_train)
    p.tries(count(0.7), 30, lambda: p.parked("trailer", "vehicle.trailer", "vehicle.parked"))
    p.tries(count(0.6), 30, lambda: p.driving("bus", "vehicle.bus.rigid", 3.0, 8.0))
    p.tries(count(0.6), 30, lambda: p.parked("bus", "vehicle.bus.rigid", "vehicle.stopped"))
    p.tries(count(0.6), 30, lambda: p.parked("truck", "vehicle.truck", "vehicle.parked"))
    p.tries(count(0.8), 30, lambda: p.driving("truck", "vehicle.truck", 3.0, 9.0))
    p.tries(count(0.8), 30, lambda: p.parked("construction_vehicle", "vehicle.construction", "vehicle.parked"))
    p.tries(count(4.0), 20, lambda: p.driving("car", "vehicle.car", 3.0, 10.0))
    p.tries(count(1.0), 20, lambda: p.driving("car", "vehicle.car", 0.0, 1e-9, "vehicle.stopped"))
    p.tries(count(2.0), 20, lambda: p.driving("motorcycle_rider", "vehicle.motorcycle", 4.0, 10.0, "cycle.with_rider"))
    p.tries(
        count(2.0), 20, lambda: p.driving("bicycle_rider", "vehicle.bicycle", 2.5, 6.0, "cycle.with_rider", edge=True)
    )
    p.tries(count(2.5), 20, lambda: p.parked("car", "vehicle.car", "vehicle.parked"))
    p.tries(count(0.7), 15, lambda: p.parked("motorcycle", "vehicle.motorcycle", "cycle.without_rider"))
    p.tries(count(0.8), 15, lambda: p.parked("bicycle", "vehicle.bicycle", "cycle.without_rider"))
    p.tries(
        count(1.4), 10, lambda: p.row("traffic_cone", "movable_object.trafficcone", int(rng.integers(2, 4)), 2.5, 0.0)
    )
    p.tries(count(1.4), 20, lambda: p.row("barrier", "movable_object.barrier", int(rng.integers(2, 4)), 3.0, np.pi / 2))
    p.tries(count(7.0), 10, p.pedestrian)
    p.tries(
        count(1.0),
        10,
        lambda: [p.fixed("bin", "movable_object.pushable_pullable", p.along(), p.walk_d(), rng.uniform(-3, 3))],
    )


def _scenery(p: _Populator) -> list[Thing]:
    """Buildings, trees and poles behind the sidewalks, clear of the whole road."""
    rng, drive, layout = p.rng, p.drive, p.layout
    line = drive.line_xy[::10]
    things: list[Thing] = []
    for side in (-1.0, 1.0):
        edge = layout.left_edge if side > 0 else -layout.right_edge
        kerb = edge + layout.parking + layout.walk
        s = drive.line_s[0] + 5.0
        while s < drive.line_s[-1] - 5.0:
            length, depth, height = rng.uniform(9, 22), rng.uniform(8, 14), rng.uniform(4.5, 15)
            if rng.uniform() < 0.72:
                size = np.array([depth, length, height])
                things.append(
                    _beside(drive, "building", s + length / 2, side * (kerb + rng.uniform(1.5, 7.0) + depth / 2), size)
                )
            s += length + rng.uniform(1.0, 9.0)
        s = drive.line_s[0] + rng.uniform(0, 10)
        while s < drive.line_s[-1]:
            if rng.uniform() < 0.55:
                crown = rng.uniform(2.2, 3.6)
                things.append(
                    _beside(
                        drive,
                        "tree",
                        s,
                        side * (kerb + rng.uniform(0.2, 0.9)),
                        np.array([crown, crown, rng.uniform(4.5, 7.5)]),
                    )
                )
            else:
                things.append(
                    _beside(drive, "pole", s, side * (kerb + 0.2), np.array([1.6, 0.4, rng.uniform(5.0, 7.0)]))
                )
            s += rng.uniform(7.0, 16.0)
    kept = []
    for thing in things:
        clear = -layout.right_edge if thing.model != "building" else -layout.right_edge + layout.parking + layout.walk
        cos, sin = np.cos(thing.yaw), np.sin(thing.yaw)
        delta = line - thing.xy
        along = np.abs(delta[:, 0] * cos + delta[:, 1] * sin) - thing.size[1] / 2
        across = np.abs(-delta[:, 0] * sin + delta[:, 1] * cos) - thing.size[0] / 2
        if np.hypot(np.maximum(along, 0), np.maximum(across, 0)).min() > clear:
            kept.append(thing)
    return kept


def _beside(drive: Drive, model: str, s: float, d: float, size: np.ndarray) -> Thing:
    xy, yaw = drive.point(np.array(s), d)
    return Thing(model, "", size, xy=xy, yaw=float(yaw))


def make_world(rng: np.random.Generator, duration: float, density: float) -> World:
    """Draw one scene of `duration` seconds; `density` 1 puts about 45 annotated objects within 55 m
    of the ego vehicle.
    """
    drive = make_drive(rng, duration)
    layout = RoadLayout(
        lane=float(rng.uniform(3.4, 3.7)),
        right_lanes=int(rng.integers(1, 3)) if rng.uniform() < 0.5 else 1,
        left_lanes=int(rng.integers(1, 3)),
        parking=3.2,
        walk=float(rng.uniform(3.0, 4.5)),
    )
    populator = _Populator(rng, drive, layout, duration)
    for thing in _scenery(populator):
        populator.placer.add(thing, margin=0.0)
    _populate(populator, density)
    return World(drive, layout, populator.placer.things, duration)
