"""Sizes, names and colours of what stands and moves in a scene."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

# Common factor and own factor of each edge: the same outline in an image fits several distances.
SIZE_SPREAD = (0.85, 1.18)
EDGE_SPREAD = (0.95, 1.05)
# Lanes are 3.5 m wide.
WIDEST = 3.1


@dataclass(frozen=True, slots=True)
class Kind:
    """Things that look and move alike.

    Attributes:
        name: nuScenes' detection class: what they look like and how they move.
        categories: The tree's own names to draw from: fine nuScenes categories, or KITTI types.
        size: Mean (length, width, height), metres; the data set's own, the longest shorter.
        share: Share of a scene's objects; towed trailers bring a truck besides.
    """

    name: str
    categories: tuple[str, ...]
    size: tuple[float, float, float]
    share: float


KINDS = {
    kind.name: kind
    for kind in (
        Kind("construction_vehicle", ("vehicle.construction",), (6.4, 2.8, 3.2), 0.02),
        Kind("barrier", ("movable_object.barrier",), (0.5, 2.5, 1.0), 0.09),
        Kind("traffic_cone", ("movable_object.trafficcone",), (0.42, 0.42, 1.0), 0.07),
        Kind("trailer", ("vehicle.trailer",), (9.0, 2.7, 3.6), 0.015),
        Kind("bus", ("vehicle.bus.rigid",), (10.5, 2.8, 3.4), 0.02),
        Kind("truck", ("vehicle.truck",), (6.9, 2.5, 2.85), 0.03),
        Kind("car", ("vehicle.car",), (4.6, 1.95, 1.72), 0.385),
        Kind("motorcycle", ("vehicle.motorcycle",), (2.1, 0.8, 1.5), 0.05),
        Kind("bicycle", ("vehicle.bicycle",), (1.75, 0.62, 1.5), 0.06),
        Kind(
            "pedestrian",
            (
                "human.pedestrian.adult",
                "human.pedestrian.adult",
                "human.pedestrian.adult",
                "human.pedestrian.construction_worker",
                "human.pedestrian.child",
            ),
            (0.72, 0.66, 1.75),
            0.26,
        ),
    )
}
# A KITTI world: what KITTI labels, the category being its type. Sizes are KITTI's own means (Car,
# Pedestrian, Cyclist: the anchors of LIGA-Stereo, kitti_dataset_fused.yaml); trucks and trams are
# shorter. A tram looks like a bus; machines are Misc; barriers and cones are not labelled. Those
# for which room is scarce come first.
KITTI_KINDS = {
    kind.name: kind
    for kind in (
        Kind("bicycle", ("Cyclist",), (1.76, 0.6, 1.73), 0.22),
        Kind("pedestrian", ("Pedestrian",), (0.8, 0.6, 1.73), 0.28),
        Kind("car", ("Car",) * 9 + ("Van",), (3.9, 1.6, 1.56), 0.42),
        Kind("truck", ("Truck",), (7.5, 2.55, 3.1), 0.02),
        Kind("bus", ("Tram",), (11.0, 2.6, 3.5), 0.01),
        Kind("construction_vehicle", ("Misc",), (6.4, 2.8, 3.2), 0.01),
        Kind("barrier", ("",), (0.5, 2.5, 1.0), 0.02),
        Kind("traffic_cone", ("",), (0.42, 0.42, 1.0), 0.02),
    )
}
TREE_KINDS = {"nuscenes": KINDS, "kitti": KITTI_KINDS}
CATEGORIES = tuple(dict.fromkeys(name for kind in KINDS.values() for name in kind.categories))
# Length, width and height of a category against its kind: a van's are KITTI's means.
SCALES = {"human.pedestrian.child": (0.7, 0.7, 0.7), "Van": (1.30, 1.18, 1.40)}
# Without a rider a cycle ends at its handlebars.
RIDERLESS_HEIGHT = 0.72


def draw_size(
    kind: Kind, category: str, rng: np.random.Generator, *, rider: bool = True
) -> Float64[np.ndarray, "3"]:
    """A class-typical (length, width, height), metres."""
    size = np.array(kind.size) * rng.uniform(*SIZE_SPREAD) * rng.uniform(*EDGE_SPREAD, 3)
    size *= SCALES.get(category, (1.0, 1.0, 1.0))
    if not rider:
        size[2] *= RIDERLESS_HEIGHT
    if size[1] > WIDEST:
        size[1] = WIDEST
    return size


# RGB in 0..1. "paint", "cloth" and "wall" are drawn anew for each object.
COLOURS = {
    "tyre": (0.05, 0.05, 0.05),
    "glass": (0.12, 0.16, 0.22),
    "lamp": (1.0, 1.0, 0.92),
    "tail": (0.85, 0.05, 0.05),
    "metal": (0.45, 0.45, 0.47),
    "dark": (0.15, 0.15, 0.16),
    "skin": (0.80, 0.60, 0.48),
    "hair": (0.16, 0.11, 0.08),
    "trousers": (0.15, 0.17, 0.30),
    "orange": (0.95, 0.42, 0.08),
    "white": (0.92, 0.92, 0.92),
    "red": (0.80, 0.10, 0.10),
    "yellow": (0.92, 0.70, 0.10),
    "vest": (0.85, 0.95, 0.15),
    "trunk": (0.30, 0.22, 0.15),
    "leaf": (0.18, 0.36, 0.13),
}
PAINTS = (
    (0.85, 0.85, 0.87),
    (0.10, 0.10, 0.12),
    (0.55, 0.57, 0.60),
    (0.60, 0.10, 0.10),
    (0.12, 0.22, 0.50),
    (0.20, 0.38, 0.28),
    (0.70, 0.62, 0.45),
    (0.88, 0.75, 0.20),
)
CLOTHS = (
    (0.75, 0.15, 0.15),
    (0.20, 0.30, 0.65),
    (0.85, 0.85, 0.82),
    (0.15, 0.15, 0.17),
    (0.25, 0.50, 0.30),
    (0.80, 0.55, 0.20),
    (0.50, 0.30, 0.50),
)
WALLS = ((0.62, 0.42, 0.33), (0.72, 0.68, 0.60), (0.55, 0.57, 0.60), (0.80, 0.74, 0.58))
# Share of the LiDAR's light sent back at normal incidence; other surfaces by their brightness.
REFLECTIVITY = {
    "glass": 0.04,
    "tyre": 0.05,
    "lamp": 0.95,
    "tail": 0.80,
    "vest": 0.90,
    "orange": 0.75,
    "white": 0.80,
    "leaf": 0.35,
    "skin": 0.40,
}
