"""Where an object of each class might stand or drive; the scene keeps those that hit nothing."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from frames.world.catalogue import Kind, draw_size
from frames.world.road import KERB, LANE, LANES_EDGE, PAVEMENT_EDGE, Road
from frames.world.shapes import Shape, draw_shape
from frames.world.tracks import distance, opposite, still, straight, turning

INNER_LANE, OUTER_LANE = LANE / 2, 1.5 * LANE
PARKING = (LANES_EDGE + KERB) / 2
HITCH = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """Something solid in a scene.

    Attributes:
        kind: Detection class, or "building", "wall", "tree".
        category: nuScenes category, or KITTI type; "" for what is not annotated.
        size: (length, width, height) of the annotated box, metres.
        shape: What is drawn.
        states: (x, y, yaw) on the scene's clock; street coordinates until the scene places it.
        parked: Without an intent to move.
        rider: Somebody sits on the cycle.
    """

    kind: str
    category: str
    size: Float64[np.ndarray, "3"]
    shape: Shape
    states: Float64[np.ndarray, "t 3"]
    parked: bool = False
    rider: bool = False


@dataclass(frozen=True, slots=True)
class Street:
    """What proposals draw from.

    Attributes:
        road: The street.
        times: The scene's clock, seconds.
        low: Start of the part of the street with objects, metres along.
        high: Its end.
        rng: Source of chance.
        kinds: What there is, by name.
    """

    road: Road
    times: Float64[np.ndarray, " t"]
    low: float
    high: float
    rng: np.random.Generator
    kinds: dict[str, Kind]

    def along(self) -> float:
        """Somewhere along the street."""
        return float(self.rng.uniform(self.low, self.high))

    def side(self) -> int:
        """+1 (left) or -1 (right)."""
        return int(self.rng.choice([-1, 1]))

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return bool(self.rng.random() < probability)


def _body(
    street: Street,
    kind: Kind,
    states: Float64[np.ndarray, "t 3"],
    *,
    parked: bool = False,
    rider: bool = False,
) -> Body:
    category = str(street.rng.choice(kind.categories))
    two_wheels = kind.name in {"motorcycle", "bicycle"}
    size = draw_size(kind, category, street.rng, rider=rider or not two_wheels)
    name = f"ridden_{kind.name}" if rider else kind.name
    cloth = "vest" if category.endswith("construction_worker") else ""
    shape = draw_shape(name, size, street.rng, cloth)
    return Body(
        kind=kind.name,
        category=category,
        size=size,
        shape=shape,
        states=states,
        parked=parked,
        rider=rider,
    )


def _kerbside(street: Street, kind: Kind) -> list[Body]:
    side = street.side()
    yaw = (0.0 if side < 0 else math.pi) + street.rng.normal(0, 0.03)
    left = side * (PARKING - street.rng.uniform(-0.1, 0.2))
    return [_body(street, kind, still(street.times, street.along(), left, yaw), parked=True)]


def _lot(street: Street, kind: Kind) -> list[Body]:
    """Parked across, beyond the pavement."""
    left = street.side() * street.rng.uniform(17.5, 20.0)
    yaw = street.rng.choice([-1, 1]) * math.pi / 2 + street.rng.normal(0, 0.06)
    track = still(street.times, street.along(), float(left), float(yaw))
    return [_body(street, kind, track, parked=True)]


def _lane_track(
    street: Street, lane: float, speeds: tuple[float, float]
) -> Float64[np.ndarray, "t 3"]:
    speed = 0.0 if street.chance(0.15) else float(street.rng.uniform(*speeds))
    driven = distance(street.times, speed, float(street.rng.uniform(-0.4, 0.4)) if speed else 0.0)
    # Somewhere in the street in the middle of the scene.
    start = street.along() - float(driven[len(driven) // 2])
    track = straight(driven, (start, -lane), 0.0)
    return track if street.chance(0.5) else opposite(track, (street.low + street.high) / 2)


def _driving(street: Street, kind: Kind) -> list[Body]:
    lane = float(street.rng.choice([INNER_LANE, OUTER_LANE])) + float(street.rng.normal(0, 0.1))
    return [_body(street, kind, _lane_track(street, lane, (3.0, 12.0)))]


def _crossing(street: Street, kind: Kind) -> list[Body]:
    """Turning into the side street, or driving along it."""
    speed = float(street.rng.uniform(3.0, 6.5))
    driven = speed * street.times - float(street.rng.uniform(-5.0, 30.0))
    middle = street.road.crossing
    way = street.rng.integers(3)
    if way == 0:
        track = turning(driven, (middle - INNER_LANE, -OUTER_LANE), 6.5, -1)
    elif way == 1:
        track = turning(driven, (middle + INNER_LANE, -INNER_LANE), 9.0, 1)
    else:
        track = straight(driven, (middle + INNER_LANE, 0.0), math.pi / 2)
    track = track if street.chance(0.5) else opposite(track, middle)
    return [_body(street, kind, track)]


def _towed(street: Street, kind: Kind) -> list[Body]:
    """A trailer behind its truck."""
    track = _lane_track(street, OUTER_LANE, (3.0, 9.0))
    truck = _body(street, street.kinds["truck"], track)
    trailer = _body(street, kind, track)
    forward = math.cos(track[0, 2])
    behind = (truck.size[0] + trailer.size[0]) / 2 + HITCH
    moved = track - np.array([forward * behind, 0.0, 0.0])
    return [truck, replace(trailer, states=moved)]


def _works(street: Street, kind: Kind) -> list[Body]:
    """A machine standing at the roadside or creeping along the outer lane."""
    if street.chance(0.25):
        return [_body(street, kind, _lane_track(street, OUTER_LANE, (0.6, 2.0)))]
    left = street.side() * float(street.rng.choice([PARKING, 17.0, 19.0]))
    yaw = float(street.rng.uniform(-math.pi, math.pi))
    yaw = yaw if abs(left) > PAVEMENT_EDGE else yaw / 8
    return [_body(street, kind, still(street.times, street.along(), left, yaw), parked=True)]


def _row(street: Street, kind: Kind) -> list[Body]:
    """Barriers end to end, or cones some metres apart, beside the lanes."""
    count = int(street.rng.integers(4, 8))
    spacing = kind.size[1] * 1.35 if kind.name == "barrier" else float(street.rng.uniform(1.5, 3.0))
    side, start = street.side(), street.along()
    left = side * float(street.rng.choice([LANE + 0.4, LANES_EDGE + 0.4]))
    slant = float(street.rng.uniform(-0.08, 0.08))
    row = []
    for index in range(count):
        place = (start + index * spacing, left + side * index * spacing * abs(slant))
        track = still(street.times, *place, math.pi / 2 + side * abs(slant))
        row.append(_body(street, kind, track))
    return row


def _cycle(street: Street, kind: Kind) -> list[Body]:
    if street.chance(0.35):
        left = street.side() * float(street.rng.uniform(KERB + 0.5, KERB + 1.5))
        yaw = float(street.rng.uniform(-math.pi, math.pi))
        track = still(street.times, street.along(), left, yaw)
        return [_body(street, kind, track, parked=True)]
    speeds = (2.5, 6.0) if kind.name == "bicycle" else (4.0, 11.0)
    lane = float(street.rng.uniform(LANE + 0.6, LANES_EDGE - 0.6))
    return [_body(street, kind, _lane_track(street, lane, speeds), rider=True)]


def _walking(street: Street, kind: Kind) -> list[Body]:
    speed = float(street.rng.uniform(0.7, 1.8))
    left = street.side() * float(street.rng.uniform(KERB + 0.5, PAVEMENT_EDGE - 0.4))
    along = street.along()
    if street.chance(0.25):
        yaw = float(street.rng.uniform(-math.pi, math.pi))
        return [_body(street, kind, still(street.times, along, left, yaw))]
    if street.chance(0.25):
        yaw = -math.copysign(math.pi / 2, left)
        driven = speed * street.times - float(street.rng.uniform(-8.0, 4.0))
    else:
        yaw = float(street.rng.choice([0.0, math.pi]))
        driven = speed * (street.times - street.times[-1] / 2)
    return [_body(street, kind, straight(driven, (along, left), yaw))]


def _scenery(street: Street, name: str) -> list[Body]:
    side = street.side()
    if name == "building":
        size = np.array([street.rng.uniform(9, 22), street.rng.uniform(8, 14), 0.0])
        size[2] = street.rng.uniform(4, 14)
        left = PAVEMENT_EDGE + size[1] / 2 + float(street.rng.choice([1.0, 3.0, 14.0]))
    elif name == "wall":
        size = np.array([street.rng.uniform(4, 12), 0.3, street.rng.uniform(0.7, 2.0)])
        left = PAVEMENT_EDGE + 0.5
    else:
        size = np.array([1.0, 1.0, 0.0]) * street.rng.uniform(1.8, 2.6)
        size[2] = street.rng.uniform(4.5, 7.0)
        left = PAVEMENT_EDGE - 0.9
    track = still(street.times, street.along(), side * left, 0.0)
    shape = draw_shape(name, size, street.rng)
    return [Body(kind=name, category="", size=size, shape=shape, states=track, parked=True)]


Proposal = Callable[[Street, Kind], list[Body]]
# How often each manner is tried for a class.
MANNERS: dict[str, tuple[tuple[float, Proposal], ...]] = {
    "construction_vehicle": ((1.0, _works),),
    "barrier": ((1.0, _row),),
    "traffic_cone": ((1.0, _row),),
    "trailer": ((0.50, _kerbside), (0.50, _towed)),
    "bus": ((0.15, _kerbside), (0.70, _driving), (0.15, _crossing)),
    "truck": ((0.20, _kerbside), (0.60, _driving), (0.20, _crossing)),
    "car": ((0.12, _kerbside), (0.16, _lot), (0.54, _driving), (0.18, _crossing)),
    "motorcycle": ((1.0, _cycle),),
    "bicycle": ((1.0, _cycle),),
    "pedestrian": ((1.0, _walking),),
}


def propose(street: Street, kind: str) -> list[Body]:
    """Bodies that stand or fall together: one, a row, or a truck with its trailer.

    Args:
        street: Where.
        kind: Name in ``street.kinds``, or "building", "wall", "tree".
    """
    if kind not in MANNERS:
        return _scenery(street, kind)
    weights = [weight for weight, _ in MANNERS[kind]]
    manners = [manner for _, manner in MANNERS[kind]]
    manner = manners[int(street.rng.choice(len(manners), p=weights))]
    return manner(street, street.kinds[kind])
