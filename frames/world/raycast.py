"""One ray caster for LiDAR and cameras: a grid of rays against oriented boxes.

A *solid* is a group of boxes (its *parts*) that share one rotation, such as a car made of body,
cabin and wheels. Rays start at the sensor's origin. Each solid is tested only in the window of the
grid that its bounding box covers.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Int8, Int32, Int64

# Below this a ray counts as parallel to a box face; keeps 1 / direction finite.
PARALLEL = 1e-9
# Parts of a solid nearer to a camera than this are not drawn, metres.
NEAR = 0.05
EDGES = np.array(
    [[0, 1], [2, 3], [4, 5], [6, 7], [0, 2], [1, 3], [4, 6], [5, 7], [0, 4], [1, 5], [2, 6], [3, 7]]
)


@dataclass(frozen=True, slots=True)
class Solids:
    """Shapes of all solids of a scene; poses change, these do not.

    Attributes:
        centre: Part centres in their solid's frame, metres.
        half: Half sizes of parts, metres.
        owner: Solid of each part, ascending.
        starts: First part of each solid, with the number of parts at the end.
    """

    centre: Float32[np.ndarray, "p 3"]
    half: Float32[np.ndarray, "p 3"]
    owner: Int64[np.ndarray, " p"]
    starts: Int64[np.ndarray, " s"]

    @classmethod
    def gather(cls, shapes: list[Float[np.ndarray, "_ 6"]]) -> "Solids":
        """From one array of parts (centre, half size) for each solid."""
        parts = np.concatenate(shapes).astype(np.float32)
        counts = [len(shape) for shape in shapes]
        return cls(
            parts[:, :3].copy(),
            parts[:, 3:].copy(),
            np.repeat(np.arange(len(shapes)), counts),
            np.cumsum([0, *counts]),
        )

    def corners(self) -> Float32[np.ndarray, "g 8 3"]:
        """Corners of each solid's bounding box, in the solid's frame, metres."""
        low = np.minimum.reduceat(self.centre - self.half, self.starts[:-1])
        high = np.maximum.reduceat(self.centre + self.half, self.starts[:-1])
        bits = (np.arange(8)[:, None] >> np.array([2, 1, 0])) & 1
        return np.where(bits, high[:, None], low[:, None])


@dataclass(frozen=True, slots=True)
class Placement:
    """Poses of solids seen from a sensor.

    Attributes:
        rotation: ``sensor_from_solid`` rotations.
        translation: Solid origins in the sensor frame, metres.
    """

    rotation: Float32[np.ndarray, "g 3 3"]
    translation: Float32[np.ndarray, "g 3"]

    def apply(self, points: Float32[np.ndarray, "g k 3"]) -> Float32[np.ndarray, "g k 3"]:
        """Points of each solid's frame, moved to the sensor frame."""
        moved: Float32[np.ndarray, "g k 3"] = points @ self.rotation.transpose(0, 2, 1)
        moved += self.translation[:, None]
        return moved


@dataclass(frozen=True, slots=True)
class Hits:
    """The first thing each ray meets.

    Attributes:
        depth: Distance along the unit ray, metres; inf where nothing is met.
        part: Part met; -1 for ground and sky.
        face: Face met: 2 * axis, plus 1 for the face towards the axis's positive end.
        cosine: |cos| of the angle between ray and surface normal.
        unhidden: Rays that would meet each solid if it stood alone.
    """

    depth: Float32[np.ndarray, "rows cols"]
    part: Int32[np.ndarray, "rows cols"]
    face: Int8[np.ndarray, "rows cols"]
    cosine: Float32[np.ndarray, "rows cols"]
    unhidden: Int64[np.ndarray, " g"]


def ground_depth(
    directions: Float32[np.ndarray, "rows cols 3"], up: Float64[np.ndarray, "3"], height: float
) -> Float32[np.ndarray, "rows cols"]:
    """Distance at which each ray meets the ground; inf for rays that never do.

    Args:
        directions: Unit rays in the sensor frame.
        up: Unit vector away from the ground, in the sensor frame.
        height: Sensor above ground, metres.
    """
    descent = -(directions @ up)
    downward = descent > PARALLEL
    depth = np.full(descent.shape, np.inf, dtype=np.float32)
    depth[downward] = height / descent[downward]
    return depth


def camera_windows(
    corners: Float32[np.ndarray, "g 8 3"],
    image_from_cam: Float64[np.ndarray, "3 3"],
    size: tuple[int, int],
) -> Int64[np.ndarray, "w 5"]:
    """Pixel rectangles that cover the solids a camera can see.

    Args:
        corners: Bounding boxes in the camera frame, metres, in the order of ``Solids.corners``.
        image_from_cam: Intrinsic matrix, pixels.
        size: (height, width), pixels.

    Returns:
        Rows (solid, first row, last row + 1, first column, last column + 1).
    """
    a, b = corners[:, EDGES[:, 0]], corners[:, EDGES[:, 1]]
    crosses = (a[..., 2] < NEAR) != (b[..., 2] < NEAR)
    share = (NEAR - a[..., 2]) / np.where(crosses, b[..., 2] - a[..., 2], 1)
    cuts = a + share[..., None] * (b - a)
    cuts[..., 2] = NEAR
    points = np.concatenate([corners, cuts], axis=1)
    seen = np.concatenate([corners[..., 2] >= NEAR, crosses], axis=1)
    pixels = points[..., :2] / np.maximum(points[..., 2:], NEAR)
    pixels = pixels * image_from_cam[[0, 1], [0, 1]] + image_from_cam[:2, 2]
    low = np.where(seen[..., None], pixels, np.inf).min(1)
    high = np.where(seen[..., None], pixels, -np.inf).max(1)
    limit = np.array(size[::-1])
    first = np.floor(np.clip(low, 0, limit)).astype(np.int64)
    last = np.ceil(np.clip(high + 1, 0, limit)).astype(np.int64)
    solid = np.flatnonzero((first < last).all(1))
    return np.stack(
        [solid, first[solid, 1], last[solid, 1], first[solid, 0], last[solid, 0]], axis=1
    )


def azimuth_windows(
    corners: Float32[np.ndarray, "g 8 3"],
    elevations: Float64[np.ndarray, " rows"],
    steps: int,
    start: float = 0.0,
) -> Int64[np.ndarray, "w 5"]:
    """Windows of a spinning LiDAR's grid that cover the solids.

    Column j looks to azimuth start + 2 pi j / steps, counter-clockwise from +x, row i to
    ``elevations[i]`` (ascending). A solid across the seam gets two windows.

    Args:
        corners: Bounding boxes in the sensor frame (z up), metres, upright.
        elevations: Radians above the sensor's horizon.
        steps: Columns of one turn.
        start: Azimuth of the first column, radians.

    Returns:
        Rows (solid, first row, last row + 1, first column, last column + 1).
    """
    middle = corners.mean(1)
    centre = np.arctan2(middle[:, 1], middle[:, 0]) - start
    spread = np.arctan2(corners[..., 1], corners[..., 0]) - start - centre[:, None]
    spread = (spread + math.pi) % (2 * math.pi) - math.pi
    pitch = 2 * math.pi / steps
    first = np.floor((centre + spread.min(1)) / pitch).astype(np.int64)
    last = np.ceil((centre + spread.max(1)) / pitch).astype(np.int64) + 1
    around = spread.max(1) - spread.min(1) >= math.pi
    first, last = np.where(around, 0, first), np.where(around, steps, last)
    turns = first // steps
    first, last = first - turns * steps, last - turns * steps
    rows = _elevation_rows(corners, elevations)
    whole = np.stack([np.arange(len(first)), *rows, first, np.minimum(last, steps)], axis=1)
    wrapped = np.stack([whole[:, 0], *rows, np.zeros_like(first), last - steps], axis=1)
    met = whole[:, 1] < whole[:, 2]
    windows: Int64[np.ndarray, "w 5"] = np.concatenate([whole[met], wrapped[met & (last > steps)]])
    return windows


def _elevation_rows(
    corners: Float32[np.ndarray, "g 8 3"], elevations: Float64[np.ndarray, " rows"]
) -> tuple[Int64[np.ndarray, " g"], Int64[np.ndarray, " g"]]:
    """First row and last row + 1 that could meet upright bounding boxes; may be generous."""
    middle = corners.mean(1)[:, None, :2]
    far = np.linalg.norm(corners[..., :2], axis=-1).max(1)
    radius = np.linalg.norm(corners[..., :2] - middle, axis=-1).max(1)
    near = np.maximum(np.linalg.norm(middle[:, 0], axis=-1) - radius, NEAR)
    bottom, top = corners[..., 2].min(1), corners[..., 2].max(1)
    lowest = np.arctan2(bottom, np.where(bottom < 0, near, far))
    highest = np.arctan2(top, np.where(top > 0, near, far))
    slack = 1e-6
    first = np.searchsorted(elevations, lowest - slack)
    last = np.searchsorted(elevations, highest + slack)
    return first.astype(np.int64), last.astype(np.int64)


def cast(
    directions: Float32[np.ndarray, "rows cols 3"],
    ground: Float32[np.ndarray, "rows cols"],
    solids: Solids,
    placement: Placement,
    windows: Int64[np.ndarray, "w 5"],
) -> Hits:
    """The first thing each ray meets: a part, the ground, or nothing.

    Args:
        directions: Unit rays in the sensor frame, from its origin.
        ground: Of ``ground_depth``.
        solids: What may be hit.
        placement: Where the solids are.
        windows: Of ``camera_windows`` or ``azimuth_windows``; solids without one are not tested.
    """
    depth = ground.copy()
    part = np.full(depth.shape, -1, dtype=np.int32)
    face = np.zeros(depth.shape, dtype=np.int8)
    cosine = np.zeros(depth.shape, dtype=np.float32)
    unhidden = np.zeros(len(placement.rotation), dtype=np.int64)
    for solid, top, bottom, left, right in windows.tolist():
        rotation = placement.rotation[solid]
        parts = slice(solids.starts[solid], solids.starts[solid + 1])
        rays = directions[top:bottom, left:right].reshape(-1, 3) @ rotation
        # Seen from the sensor's origin, in the solid's axes.
        offset = solids.centre[parts] + placement.translation[solid] @ rotation
        hit, near, first, axis, lean = _slab(rays, offset, solids.half[parts])
        unhidden[solid] += len(hit)
        rows, cols = np.divmod(hit, right - left)
        rows, cols = rows + top, cols + left
        nearer = near < depth[rows, cols]
        rows, cols, axis, lean = rows[nearer], cols[nearer], axis[nearer], lean[nearer]
        depth[rows, cols] = near[nearer]
        part[rows, cols] = first[nearer] + parts.start
        face[rows, cols] = 2 * axis + (lean < 0)
        cosine[rows, cols] = np.abs(lean)
    return Hits(depth, part, face, cosine, unhidden)


def _slab(
    rays: Float32[np.ndarray, "n 3"],
    centre: Float32[np.ndarray, "k 3"],
    half: Float32[np.ndarray, "k 3"],
) -> tuple[
    Int64[np.ndarray, " h"],
    Float32[np.ndarray, " h"],
    Int64[np.ndarray, " h"],
    Int64[np.ndarray, " h"],
    Float32[np.ndarray, " h"],
]:
    """Which rays meet which of k axis-aligned boxes first (slab test).

    Returns:
        Of the rays that hit: their index, distance, box, axis of the face, and the ray's component
        along that axis.
    """
    steep = np.where(np.abs(rays) < PARALLEL, np.float32(PARALLEL), rays)
    inverse = np.float32(1) / steep.T
    spread = np.abs(inverse)
    enter = np.full((len(centre), len(rays)), NEAR, dtype=np.float32)
    leave = np.full_like(enter, np.inf)
    for axis in range(3):
        middle = centre[:, axis, None] * inverse[axis]
        radius = half[:, axis, None] * spread[axis]
        np.maximum(enter, middle - radius, out=enter)
        np.minimum(leave, middle + radius, out=leave)
    enter[(enter > leave) | (enter <= NEAR)] = np.inf
    box = enter.argmin(0)
    near = enter[box, np.arange(len(rays))]
    hit = np.flatnonzero(np.isfinite(near))
    box = box[hit]
    entries = centre[box] * inverse.T[hit] - half[box] * spread.T[hit]
    axis = entries.argmax(1)
    return hit, near[hit], box, axis, rays[hit, axis]
