"""Which footprints ever touch: separating axes of rectangles over a whole scene."""

import numpy as np
from jaxtyping import Bool, Float64


def touches(
    states: Float64[np.ndarray, "t 3"],
    size: Float64[np.ndarray, "2"],
    others: Float64[np.ndarray, "m t 3"],
    sizes: Float64[np.ndarray, "m 2"],
    gap: float,
) -> Bool[np.ndarray, " m"]:
    """Whether a body comes closer than about ``gap`` to each of the others at any time.

    Args:
        states: (x, y, yaw) of the body over time.
        size: Its (length, width), metres.
        others: (x, y, yaw) of the others at the same times.
        sizes: Their (length, width), metres.
        gap: Added on every side of the body, metres.
    """
    size = size + 2 * gap
    offset = others[..., :2] - states[:, :2]
    reach = (np.linalg.norm(size) + np.linalg.norm(sizes, axis=1)) / 2
    close = (offset**2).sum(-1) < reach[:, None] ** 2
    other, time = np.nonzero(close)
    offset, yaw, turn = offset[other, time], states[time, 2], others[other, time, 2]
    apart = _separated(offset, yaw, turn, size[None], sizes[other])
    apart |= _separated(-offset, turn, yaw, sizes[other], size[None])
    hit = np.zeros(len(others), dtype=bool)
    hit[other[~apart]] = True
    return hit


def _separated(
    offset: Float64[np.ndarray, "n 2"],
    yaw: Float64[np.ndarray, " n"],
    turn: Float64[np.ndarray, " n"],
    size: Float64[np.ndarray, "#n 2"],
    other: Float64[np.ndarray, "#n 2"],
) -> Bool[np.ndarray, " n"]:
    """Whether an axis of the rectangles at ``yaw`` separates them from those ``offset`` away."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    ahead = np.abs(offset[:, 0] * cos + offset[:, 1] * sin)
    aside = np.abs(offset[:, 1] * cos - offset[:, 0] * sin)
    along, across = np.abs(np.cos(turn - yaw)), np.abs(np.sin(turn - yaw))
    length = (size[:, 0] + other[:, 0] * along + other[:, 1] * across) / 2
    width = (size[:, 1] + other[:, 0] * across + other[:, 1] * along) / 2
    separated: Bool[np.ndarray, " n"] = (ahead > length) | (aside > width)
    return separated
