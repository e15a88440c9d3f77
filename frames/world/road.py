"""The street of a scene: a gentle arc with lanes, parking strips, pavements and one crossing."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

LANE = 3.5
LANES_EDGE = 2 * LANE
KERB = 10.0
PAVEMENT_EDGE = 14.0
CROSSING_HALF = 4.0

ASPHALT = (0.30, 0.30, 0.32)
PAVEMENT = (0.55, 0.53, 0.50)
GRASS = (0.30, 0.36, 0.22)
WHITE_PAINT = (0.80, 0.80, 0.78)
YELLOW_PAINT = (0.75, 0.60, 0.20)


@dataclass(frozen=True, slots=True)
class Road:
    """A street along an arc; traffic keeps to the right.

    Attributes:
        origin: Global x, y of the centre line at ``along = 0``, metres.
        heading: Direction of the centre line there, radians.
        curvature: Left positive, 1/metres, not zero.
        crossing: Where along the street a side street crosses, metres.
    """

    origin: tuple[float, float]
    heading: float
    curvature: float
    crossing: float

    def to_global(self, poses: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """Global (x, y, yaw) of street poses (along, left of centre line, yaw against street)."""
        along, left, turn = np.moveaxis(poses, -1, 0)
        angle = self.heading + self.curvature * along
        x = (np.sin(angle) - math.sin(self.heading)) / self.curvature - left * np.sin(angle)
        y = (math.cos(self.heading) - np.cos(angle)) / self.curvature + left * np.cos(angle)
        return np.stack([x + self.origin[0], y + self.origin[1], angle + turn], axis=-1)

    def from_global(
        self, x: Float[np.ndarray, "*n"], y: Float[np.ndarray, "*n"]
    ) -> tuple[Float[np.ndarray, "*n"], Float[np.ndarray, "*n"]]:
        """(along, left) of global points, metres."""
        sign = math.copysign(1.0, self.curvature)
        x = x - (self.origin[0] - math.sin(self.heading) / self.curvature)
        y = y - (self.origin[1] + math.cos(self.heading) / self.curvature)
        turned = np.arctan2(sign * x, -sign * y) - self.heading
        turned = (turned + math.pi) % (2 * math.pi) - math.pi
        return turned / self.curvature, 1 / self.curvature - sign * np.hypot(x, y)


def ground_colour(
    along: Float[np.ndarray, " n"], left: Float[np.ndarray, " n"], crossing: float
) -> Float[np.ndarray, "n 3"]:
    """RGB in 0..1 of ground points in street coordinates: asphalt, markings, pavement, grass."""
    side = np.abs(left)
    from_crossing = np.abs(along - crossing)
    asphalt = (side < KERB) | (from_crossing < CROSSING_HALF)
    plain = from_crossing > CROSSING_HALF + 1
    dashed = (np.abs(side - LANE) < 0.1) & (along % 6 < 3)
    edge = np.abs(side - LANES_EDGE) < 0.1
    stop = (np.abs(from_crossing - CROSSING_HALF - 1.5) < 0.25) & (side < LANES_EDGE)
    surface = np.select([asphalt, side < PAVEMENT_EDGE], [0, 1], 2)
    surface[plain & (dashed | edge) | stop] = 3
    surface[plain & (side < 0.15)] = 4
    palette = np.array([ASPHALT, PAVEMENT, GRASS, WHITE_PAINT, YELLOW_PAINT], dtype=np.float32)
    grain = 0.05 * np.sin(1.7 * along + 0.6 * left) * np.sin(2.3 * left - 0.4 * along)
    slabs = 0.05 * ((along % 2 < 0.12) & (surface == 1))
    colour: Float[np.ndarray, "n 3"] = palette[surface]
    colour *= (1 + grain - slabs)[:, None]
    return colour
