"""One scene: its street, the ego car, and everything that stands or moves around it."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64

from frames.world.catalogue import TREE_KINDS
from frames.world.collision import touches
from frames.world.config import SPLITS, StreetConfig
from frames.world.proposals import INNER_LANE, Body, Street, propose
from frames.world.raycast import Solids
from frames.world.road import Road
from frames.world.tracks import clock, distance, straight

FRAME_SECONDS = 0.5
# The ego car around the origin of its frame (the rear axle): nuScenes' Renault Zoe.
EGO_SIZE, EGO_CENTRE_AHEAD = np.array([4.1, 1.75]), 1.35
EGO_GAP, GAP = 0.6, 0.2
# What is wider keeps off the lane beside the ego car, where it would hide half the scene.
BULKY_WIDTH, BULKY_EGO_GAP = 2.25, 3.0
TRIES = 15
# Objects stand this much further along the street than they are annotated, metres.
BEYOND = 8.0
SCENERY_PER_100_M = {"building": 6.0, "wall": 2.0, "tree": 7.0}


@dataclass(frozen=True, slots=True)
class Scene:
    """A scene ready to be seen.

    Attributes:
        name: Unique in the world.
        road: The street.
        ego: (x, y, yaw) of the ego frame on the scene's clock, global.
        bodies: Annotated ones and scenery.
        states: Their poses (x, y, yaw) on the scene's clock, global.
        solids: Their shapes.
        colours: RGB of every part, 0..1.
        reflectivity: Of every part.
    """

    name: str
    road: Road
    ego: Float64[np.ndarray, "t 3"]
    bodies: tuple[Body, ...]
    states: Float64[np.ndarray, "g t 3"]
    solids: Solids
    colours: Float32[np.ndarray, "p 3"]
    reflectivity: Float32[np.ndarray, " p"]


def scene_rng(config: StreetConfig, split: str, index: int, *stream: int) -> np.random.Generator:
    """The scene's own source of chance; ``stream`` tells its uses apart."""
    return np.random.default_rng([config.seed, SPLITS.index(split), index, *stream])


def build_scene(config: StreetConfig, split: str, index: int) -> Scene:
    """Draw a scene; depends on nothing but the arguments."""
    rng = scene_rng(config, split, index)
    duration = (config.frames_per_scene - 1) * FRAME_SECONDS
    times = clock(duration)
    driven = distance(times, float(rng.uniform(2.5, 9.0)), float(rng.uniform(-0.6, 0.4)))
    road = Road(
        (float(rng.uniform(300, 1700)), float(rng.uniform(300, 1700))),
        float(rng.uniform(-np.pi, np.pi)),
        float(rng.choice([-1, 1]) / rng.uniform(90, 600)),
        float(rng.uniform(0.1, 0.9) * driven[-1] + 12),
    )
    ego = straight(driven, (0.0, -INNER_LANE), 0.0)
    ego[:, 1] += 0.15 * np.sin(driven / 9)
    ego[:, 2] += 0.15 / 9 * np.cos(driven / 9)
    margin = config.lidar_range + BEYOND
    low, high = float(driven[0]) - margin, float(driven[-1]) + margin
    street = Street(road, times, low, high, rng, TREE_KINDS[config.tree])
    bodies = _populate(config, street, road.to_global(ego))
    return Scene(
        config.scene_names(split)[index],
        road,
        road.to_global(ego),
        tuple(bodies),
        np.stack([body.states for body in bodies]),
        Solids.gather([body.shape.parts for body in bodies]),
        np.concatenate([body.shape.colours for body in bodies]),
        np.concatenate([body.shape.reflectivity for body in bodies]),
    )


def _populate(config: StreetConfig, street: Street, ego: Float64[np.ndarray, "t 3"]) -> list[Body]:
    """Bodies that touch neither each other nor the ego car, in global coordinates."""
    low, high = config.objects_per_frame
    length = street.high - street.low
    objects = street.rng.integers(low, high + 1) * length / (2 * config.lidar_range)
    wanted = {kind.name: objects * kind.share for kind in street.kinds.values()}
    wanted = {name: n * length / 100 for name, n in SCENERY_PER_100_M.items()} | wanted
    bodies: list[Body] = []
    for kind, count in wanted.items():
        target = int(count + street.rng.random())
        placed = 0
        for _ in range(TRIES * target):
            if placed >= target:
                break
            for body in _fitting(street, propose(street, kind), bodies, ego):
                bodies.append(body)
                placed += body.kind == kind
    return bodies


def _fitting(
    street: Street, group: list[Body], bodies: list[Body], ego: Float64[np.ndarray, "t 3"]
) -> list[Body]:
    """The group in global coordinates, or nothing if one of it touches anything."""
    centre = ego.copy()
    centre[:, 0] += EGO_CENTRE_AHEAD * np.cos(ego[:, 2])
    centre[:, 1] += EGO_CENTRE_AHEAD * np.sin(ego[:, 2])
    group = [replace(body, states=street.road.to_global(body.states)) for body in group]
    others = np.stack([centre, *(body.states for body in bodies)])
    sizes = np.stack([EGO_SIZE, *(body.size[:2] for body in bodies)])
    for body in group:
        ego_gap = BULKY_EGO_GAP if body.size[1] > BULKY_WIDTH else EGO_GAP
        sizes[0] = EGO_SIZE + 2 * (ego_gap - GAP)
        # Every second pose, 0.1 s apart, is close enough.
        hits = touches(body.states[::2], body.size[:2], others[:, ::2], sizes, GAP)
        if hits.any() or (not body.category and _on_street(street, body)):
            return []
    return group


def _on_street(street: Street, body: Body) -> bool:
    """Whether scenery would block the side street."""
    along, _ = street.road.from_global(body.states[:1, 0], body.states[:1, 1])
    return abs(float(along[0]) - street.road.crossing) < float(body.size[0]) / 2 + 6
