"""Exact overlap of turned boxes, on any device and in any floating type.

Boxes are x y z l w h yaw as in ``frames/boxes.py``, centre at half the height; columns beyond these
seven are not looked at. Leading axes broadcast.

No polygon is built. In the axes of the second rectangle the overlap is the closed integral of
clamp(y, -w/2, w/2) dx along the first one's edges, cut at x = -l/2 and l/2: clamping keeps order,
so between the upper and the lower edge just what is inside remains. Nothing is decided by a sign,
hence rounding stays rounding where boxes are equal, touch or have no area, and gradients are finite
there too.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from frames.geometry import yaw_rotations

# Front left, front right, rear right, rear left: clockwise, so that y dx is the area.
_CORNERS = ((1.0, 1.0), (1.0, -1.0), (-1.0, -1.0), (-1.0, 1.0))


def bev_intersection(
    first: Float[Tensor, "*#n d"], second: Float[Tensor, "*#n d"]
) -> Float[Tensor, "*n"]:
    """Area, square metres, that two boxes' footprints share."""
    offset = (first[..., :2] - second[..., :2])[..., None, :]
    centre = offset @ yaw_rotations(second[..., 6])
    turn = yaw_rotations(first[..., 6] - second[..., 6])
    start = (first.new_tensor(_CORNERS) * first[..., None, 3:5] / 2) @ turn.mT + centre
    step = start.roll(-1, dims=-2) - start
    x, y, dx, dy = start[..., 0], start[..., 1], step[..., 0], step[..., 1]
    half_length, half_width = second[..., 3:4] / 2, second[..., 4:5] / 2
    enters, leaves = (t.clamp(0, 1) for t in _crossings(x, dx, half_length))
    bends = [t.clamp(enters, leaves) for t in _crossings(y, dy, half_width)]
    t = torch.stack([enters, *bends, leaves], dim=-1)
    limit = half_width[..., None]
    height = (y[..., None] + t * dy[..., None]).clamp(-limit, limit)
    return (torch.trapezoid(height, t, dim=-1) * dx).sum(-1).clamp(min=0)


def _crossings(
    start: Float[Tensor, "*n 4"], step: Float[Tensor, "*n 4"], half: Float[Tensor, "*#n 1"]
) -> tuple[Float[Tensor, "*n 4"], Float[Tensor, "*n 4"]]:
    """Where ``start + t * step`` is at -half and half, the smaller t first."""
    # An edge that does not move crosses nowhere; any finite t will do.
    step = torch.where(step == 0, 1, step)
    at_low, at_high = (-half - start) / step, (half - start) / step
    return torch.minimum(at_low, at_high), torch.maximum(at_low, at_high)


def bev_iou(first: Float[Tensor, "*#n d"], second: Float[Tensor, "*#n d"]) -> Float[Tensor, "*n"]:
    """Intersection over union of footprints; 0 where neither has an area."""
    areas = first[..., 3] * first[..., 4], second[..., 3] * second[..., 4]
    return _over_union(bev_intersection(first, second), *areas)


def iou_3d(first: Float[Tensor, "*#n d"], second: Float[Tensor, "*#n d"]) -> Float[Tensor, "*n"]:
    """Intersection over union of volumes; 0 where neither has a volume."""
    top = torch.minimum(first[..., 2] + first[..., 5] / 2, second[..., 2] + second[..., 5] / 2)
    bottom = torch.maximum(first[..., 2] - first[..., 5] / 2, second[..., 2] - second[..., 5] / 2)
    shared = bev_intersection(first, second) * (top - bottom).clamp(min=0)
    return _over_union(shared, first[..., 3:6].prod(-1), second[..., 3:6].prod(-1))


def _over_union(
    shared: Float[Tensor, "*n"], first: Float[Tensor, "*#n"], second: Float[Tensor, "*#n"]
) -> Float[Tensor, "*n"]:
    union = first + second - shared
    return shared / union.clamp(min=torch.finfo(union.dtype).tiny)


def bounds_meet(
    first: Float[Tensor, "*#n d"], second: Float[Tensor, "*#n d"]
) -> Bool[Tensor, "*n"]:
    """Whether the axis-aligned bounds of two footprints share an area; without it, IoU is 0."""
    gap = (first[..., :2] - second[..., :2]).abs()
    return (gap < _half_bounds(first) + _half_bounds(second)).all(-1)


def _half_bounds(boxes: Float[Tensor, "*n d"]) -> Float[Tensor, "*n 2"]:
    return (yaw_rotations(boxes[..., 6]).abs() @ boxes[..., 3:5, None])[..., 0] / 2


def pairwise_bev_iou(
    first: Float[Tensor, "n d"], second: Float[Tensor, "m d"]
) -> Float[Tensor, "n m"]:
    """IoU of footprints, every box with every other; far pairs cost next to nothing."""
    return _pairwise(first, second, bev_iou)


def pairwise_iou_3d(
    first: Float[Tensor, "n d"], second: Float[Tensor, "m d"]
) -> Float[Tensor, "n m"]:
    """IoU of volumes, every box with every other; far pairs cost next to nothing."""
    return _pairwise(first, second, iou_3d)


def _pairwise(
    first: Float[Tensor, "n d"],
    second: Float[Tensor, "m d"],
    iou: Callable[[Tensor, Tensor], Tensor],
) -> Float[Tensor, "n m"]:
    rows, columns = bounds_meet(first[:, None], second).nonzero(as_tuple=True)
    found = first.new_zeros(len(first), len(second))
    found[rows, columns] = iou(first[rows], second[columns])
    return found
