"""How things move: poses on a scene's clock, in street coordinates (along, left, yaw)."""

import math

import numpy as np
from jaxtyping import Float64

# Seconds between two poses; poses in between are interpolated.
STEP = 0.05
# The clock starts this long before the first key frame: cameras are exposed before the LiDAR.
LEAD = 0.1


def clock(duration: float) -> Float64[np.ndarray, " t"]:
    """Times of a scene's poses, seconds after its first key frame."""
    return np.arange(round((duration + 2 * LEAD) / STEP) + 1) * STEP - LEAD


def at(states: Float64[np.ndarray, "g t 3"], time: float) -> Float64[np.ndarray, "g 3"]:
    """Poses (x, y, yaw) at a time of the scene, seconds."""
    position = (time + LEAD) / STEP
    index = min(max(math.floor(position), 0), states.shape[1] - 2)
    share = position - index
    return (1 - share) * states[:, index] + share * states[:, index + 1]


def still(
    times: Float64[np.ndarray, " t"], along: float, left: float, yaw: float
) -> Float64[np.ndarray, "t 3"]:
    """Standing at a place."""
    return np.tile(np.array([along, left, yaw]), (len(times), 1))


def distance(
    times: Float64[np.ndarray, " t"], speed: float, acceleration: float
) -> Float64[np.ndarray, " t"]:
    """Metres driven since time 0; braking ends at a stop."""
    if acceleration < 0:
        times = np.minimum(times, -speed / acceleration)
    return speed * times + acceleration * times**2 / 2


def straight(
    driven: Float64[np.ndarray, " t"], start: tuple[float, float], yaw: float
) -> Float64[np.ndarray, "t 3"]:
    """Along a line of the street's coordinates; such a line along a lane bends with the street."""
    along = start[0] + driven * math.cos(yaw)
    left = start[1] + driven * math.sin(yaw)
    return np.stack([along, left, np.full_like(along, yaw)], axis=1)


def turning(
    driven: Float64[np.ndarray, " t"], corner: tuple[float, float], radius: float, side: int
) -> Float64[np.ndarray, "t 3"]:
    """From driving along the street into the side street.

    Args:
        driven: Metres after the start of the arc, negative before it.
        corner: Where the lane left meets the lane taken (along, left).
        radius: Of the arc, metres.
        side: +1 to the left, -1 to the right.
    """
    arc = radius * math.pi / 2
    angle = np.clip(driven, 0, arc) / radius
    along = corner[0] - radius + np.minimum(driven, 0) + radius * np.sin(angle)
    left = radius * (1 - np.cos(angle)) + np.maximum(driven - arc, 0)
    return np.stack([along, corner[1] + side * left, side * angle], axis=1)


def opposite(track: Float64[np.ndarray, "t 3"], crossing: float) -> Float64[np.ndarray, "t 3"]:
    """The same motion for the traffic that comes the other way: half a turn about the crossing."""
    turned: Float64[np.ndarray, "t 3"] = track * np.array([-1.0, -1.0, 1.0])
    turned += np.array([2 * crossing, 0.0, math.pi])
    return turned
