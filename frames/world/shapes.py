"""What objects look like: a few coloured boxes inside the annotated box, front unlike back.

Parts are written in the object's unit box: x from -0.5 (back) to 0.5 (front), y from -0.5 (right)
to 0.5 (left), z from 0 (ground) to 1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from frames.world.catalogue import CLOTHS, COLOURS, PAINTS, REFLECTIVITY, WALLS

# Gap between the outermost part and the annotated box, metres: room for the LiDAR's range noise.
MARGIN = 0.03

# (x from, x to, y from, y to, z from, z to, colour)
Part = tuple[float, float, float, float, float, float, str]


@dataclass(frozen=True, slots=True)
class Shape:
    """Parts of one object, in its own frame: x forward, y left, z up from the ground.

    Attributes:
        parts: Centre and half size of each part, metres.
        colours: RGB of each part, 0..1.
        reflectivity: Share of the LiDAR's light sent back, 0..1.
    """

    parts: Float32[np.ndarray, "k 6"]
    colours: Float32[np.ndarray, "k 3"]
    reflectivity: Float32[np.ndarray, " k"]


def _both(left: Part) -> list[Part]:
    """A part on the left, and the same on the right."""
    x0, x1, y0, y1, z0, z1, colour = left
    return [left, (x0, x1, -y1, -y0, z0, z1, colour)]


def _lights(z: float) -> list[Part]:
    """White lamps at the very front, red ones at the very back."""
    front = _both((0.47, 0.5, 0.26, 0.46, z, z + 0.13, "lamp"))
    return front + _both((-0.5, -0.47, 0.26, 0.46, z, z + 0.16, "tail"))


def _car(rng: np.random.Generator) -> list[Part]:
    screen, hood = rng.uniform(0.06, 0.22), rng.uniform(0.44, 0.54)
    back = rng.uniform(-0.46, -0.30)
    return [
        (-0.488, screen + 0.06, -0.48, 0.48, 0.18, 0.60, "paint"),
        (screen + 0.06, 0.488, -0.47, 0.47, 0.18, hood, "paint"),
        (back, screen, -0.43, 0.43, 0.60, 0.93, "glass"),
        (back + 0.02, screen - 0.05, -0.41, 0.41, 0.93, 1.0, "paint"),
        *_lights(hood - 0.15),
        *_both((0.22, 0.38, 0.38, 0.5, 0.0, 0.36, "tyre")),
        *_both((-0.38, -0.22, 0.38, 0.5, 0.0, 0.36, "tyre")),
    ]


def _truck(rng: np.random.Generator) -> list[Part]:
    top = rng.uniform(0.66, 0.82)
    return [
        (0.26, 0.488, -0.46, 0.46, 0.16, top, "paint"),
        (0.488, 0.5, -0.42, 0.42, 0.46, top - 0.04, "glass"),
        (-0.49, 0.23, -0.5, 0.5, 0.28, 1.0, "second"),
        (-0.49, 0.45, -0.35, 0.35, 0.14, 0.28, "dark"),
        *_lights(0.20),
        *_both((0.28, 0.42, 0.38, 0.5, 0.0, 0.28, "tyre")),
        *_both((-0.42, -0.12, 0.38, 0.5, 0.0, 0.28, "tyre")),
    ]


def _bus(_: np.random.Generator) -> list[Part]:
    return [
        (-0.49, 0.49, -0.49, 0.49, 0.10, 0.92, "paint"),
        (0.49, 0.5, -0.45, 0.45, 0.34, 0.86, "glass"),
        *_both((-0.44, 0.44, 0.485, 0.5, 0.46, 0.76, "glass")),
        (-0.45, -0.10, -0.36, 0.36, 0.92, 1.0, "metal"),
        *_lights(0.14),
        *_both((0.26, 0.36, 0.40, 0.5, 0.0, 0.24, "tyre")),
        *_both((-0.34, -0.24, 0.40, 0.5, 0.0, 0.24, "tyre")),
    ]


def _trailer(_: np.random.Generator) -> list[Part]:
    return [
        (-0.49, 0.42, -0.5, 0.5, 0.28, 1.0, "second"),
        (0.42, 0.5, -0.10, 0.10, 0.22, 0.30, "dark"),
        (-0.48, 0.42, -0.30, 0.30, 0.18, 0.28, "dark"),
        *_both((-0.5, -0.48, 0.30, 0.48, 0.30, 0.36, "tail")),
        *_both((-0.42, -0.14, 0.36, 0.5, 0.0, 0.26, "tyre")),
        *_both((0.30, 0.34, 0.20, 0.28, 0.0, 0.28, "metal")),
    ]


def _construction_vehicle(_: np.random.Generator) -> list[Part]:
    return [
        *_both((-0.45, 0.22, 0.26, 0.5, 0.0, 0.28, "tyre")),
        (-0.5, 0.10, -0.42, 0.42, 0.28, 0.58, "yellow"),
        (-0.12, 0.12, 0.02, 0.42, 0.58, 1.0, "glass"),
        (0.02, 0.44, -0.28, -0.10, 0.62, 0.76, "yellow"),
        (0.36, 0.44, -0.28, -0.10, 0.30, 0.62, "yellow"),
        (0.32, 0.5, -0.44, 0.20, 0.04, 0.30, "metal"),
        *_both((-0.5, -0.49, 0.25, 0.40, 0.34, 0.46, "tail")),
    ]


def _rider(z: float) -> list[Part]:
    return [
        *_both((-0.05, 0.10, 0.12, 0.28, 0.25, z, "trousers")),
        (-0.20, 0.04, -0.34, 0.34, z - 0.05, 0.84, "cloth"),
        *_both((0.02, 0.22, 0.26, 0.38, 0.64, 0.72, "cloth")),
        (-0.12, 0.02, -0.17, 0.17, 0.84, 1.0, "hair"),
        (0.02, 0.05, -0.15, 0.15, 0.84, 0.97, "skin"),
    ]


def _cycle(frame: float, top: float, colour: str) -> list[Part]:
    return [
        (0.20, 0.5, -0.09, 0.09, 0.0, 0.44 * top, "tyre"),
        (-0.5, -0.20, -0.09, 0.09, 0.0, 0.44 * top, "tyre"),
        (-0.26, 0.28, -frame, frame, 0.26 * top, 0.58 * top, colour),
        (0.17, 0.25, -0.5, 0.5, 0.90 * top, top, "dark"),
        (0.25, 0.31, -0.2, 0.2, 0.66 * top, 0.84 * top, "lamp"),
        (-0.36, -0.30, -0.2, 0.2, 0.50 * top, 0.62 * top, "tail"),
    ]


def _motorcycle(_: np.random.Generator) -> list[Part]:
    return _cycle(0.22, 1.0, "paint")


def _ridden_motorcycle(_: np.random.Generator) -> list[Part]:
    return _cycle(0.22, 0.66, "paint") + _rider(0.5)


def _bicycle(_: np.random.Generator) -> list[Part]:
    return _cycle(0.08, 1.0, "paint")


def _ridden_bicycle(_: np.random.Generator) -> list[Part]:
    return _cycle(0.08, 0.66, "paint") + _rider(0.55)


def _pedestrian(rng: np.random.Generator) -> list[Part]:
    stride = rng.uniform(0.05, 0.28)
    return [
        (stride - 0.18, stride + 0.14, 0.04, 0.30, 0.0, 0.48, "trousers"),
        (-stride - 0.18, -stride + 0.14, -0.30, -0.04, 0.0, 0.48, "trousers"),
        (-0.20, 0.20, -0.34, 0.34, 0.46, 0.84, "cloth"),
        *_both((-0.10, 0.5, 0.34, 0.5, 0.50, 0.62, "cloth")),
        (-0.16, 0.10, -0.16, 0.16, 0.84, 1.0, "hair"),
        (0.10, 0.18, -0.15, 0.15, 0.85, 0.97, "skin"),
    ]


def _traffic_cone(_: np.random.Generator) -> list[Part]:
    return [
        (-0.5, 0.5, -0.5, 0.5, 0.0, 0.07, "dark"),
        (-0.32, 0.32, -0.32, 0.32, 0.07, 0.40, "orange"),
        (-0.22, 0.22, -0.22, 0.22, 0.40, 0.68, "white"),
        (-0.12, 0.12, -0.12, 0.12, 0.68, 1.0, "orange"),
    ]


def _barrier(_: np.random.Generator) -> list[Part]:
    return [
        (-0.5, 0.5, -0.5, 0.5, 0.0, 0.25, "metal"),
        *_both((-0.2, 0.2, 0.17, 0.5, 0.25, 1.0, "red")),
        (-0.2, 0.2, -0.17, 0.17, 0.25, 1.0, "white"),
    ]


def _building(rng: np.random.Generator) -> list[Part]:
    floors = int(rng.integers(2, 5))
    rows = [(f + 0.35) / floors for f in range(floors)]
    bands: list[Part] = [
        (-0.47, 0.47, -0.5, 0.5, z, z + 0.4 / floors, "glass") for z in rows if z + 0.4 / floors < 1
    ]
    return [(-0.5, 0.5, -0.495, 0.495, 0.0, 1.0, "wall"), *bands]


def _wall(_: np.random.Generator) -> list[Part]:
    return [(-0.5, 0.5, -0.5, 0.5, 0.0, 1.0, "wall")]


def _tree(_: np.random.Generator) -> list[Part]:
    return [
        (-0.08, 0.08, -0.08, 0.08, 0.0, 0.5, "trunk"),
        (-0.5, 0.5, -0.4, 0.4, 0.45, 0.85, "leaf"),
        (-0.3, 0.3, -0.35, 0.35, 0.85, 1.0, "leaf"),
    ]


SHAPES: dict[str, Callable[[np.random.Generator], list[Part]]] = {
    "car": _car,
    "truck": _truck,
    "bus": _bus,
    "trailer": _trailer,
    "construction_vehicle": _construction_vehicle,
    "motorcycle": _motorcycle,
    "ridden_motorcycle": _ridden_motorcycle,
    "bicycle": _bicycle,
    "ridden_bicycle": _ridden_bicycle,
    "pedestrian": _pedestrian,
    "traffic_cone": _traffic_cone,
    "barrier": _barrier,
    "building": _building,
    "wall": _wall,
    "tree": _tree,
}


def draw_shape(
    name: str, size: Float64[np.ndarray, "3"], rng: np.random.Generator, cloth: str = ""
) -> Shape:
    """A shape of ``SHAPES``, fitted into a box.

    Args:
        name: Key of ``SHAPES``.
        size: (length, width, height) of the annotated box, metres.
        rng: Draws proportions and colours.
        cloth: Name of a colour for clothes, instead of a drawn one.
    """
    rows = SHAPES[name](rng)
    palette = dict(COLOURS)
    for key, choices in (("paint", PAINTS), ("second", PAINTS), ("cloth", CLOTHS), ("wall", WALLS)):
        palette[key] = choices[rng.integers(len(choices))]
    if cloth:
        palette["cloth"] = COLOURS[cloth]
    bounds = np.array([row[:6] for row in rows]).reshape(-1, 3, 2)
    room = size - np.array([2 * MARGIN, 2 * MARGIN, MARGIN])
    low, high = bounds[..., 0] * room, bounds[..., 1] * room
    names = [row[6] for row in rows]
    colours = np.array([palette[name] for name in names], dtype=np.float32)
    reflectivity = [
        REFLECTIVITY.get(name, 0.08 + 0.5 * float(colour.mean()))
        for name, colour in zip(names, colours, strict=True)
    ]
    return Shape(
        np.concatenate([(low + high) / 2, (high - low) / 2], axis=1).astype(np.float32),
        colours,
        np.array(reflectivity, dtype=np.float32),
    )
