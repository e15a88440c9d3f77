"""What BEV maps say at the nine points of a box, and how these nine relate (UniDistill)."""

import torch
from jaxtyping import Float
from torch import Tensor

from frames.box_points import MIRRORED, NUM_POINTS, box_points
from frames.grid import BEVGrid
from nets.read_at import read_at

# Added to the norm, as the released code does; a point off the map has cosine 0 with all others.
NORM_EPSILON = 1e-4
PAIRS = torch.triu_indices(NUM_POINTS, NUM_POINTS)
_PAIR_OF = torch.zeros(NUM_POINTS, NUM_POINTS, dtype=torch.int64)
_PAIR_OF[PAIRS[0], PAIRS[1]] = _PAIR_OF[PAIRS[1], PAIRS[0]] = torch.arange(PAIRS.shape[1])
# Which pair of points becomes each pair of the mirror image.
MIRRORED_PAIRS = _PAIR_OF[MIRRORED[PAIRS[0]], MIRRORED[PAIRS[1]]]
# Share of each pair in a mean over the whole matrix, where all but the diagonal stand twice.
PAIR_SHARE = torch.where(PAIRS[0] == PAIRS[1], 1.0, 2.0) / NUM_POINTS**2


def at_box_points(
    maps: Float[Tensor, "b c h w"],
    boxes: Float[Tensor, "b m 9"],
    grid: BEVGrid,
    *,
    transposed: bool = False,
) -> Float[Tensor, "b m 9 c"]:
    """Bilinear samples of the maps at each box's nine points; zeros outside the map.

    Half a cell outside the outermost cell centres a sample fades to zero, on both sides of a
    distillation alike. ``transposed`` reads x as y and y as x, as released UniDistill does
    (its issue 7).
    """
    points = grid.to_unit(box_points(boxes)).flatten(1, 2)
    if transposed:
        points = points.flip(-1)
    sampled = read_at(maps, points, outside="zeros")
    return sampled.reshape(*boxes.shape[:2], NUM_POINTS, maps.shape[1])


def relation(features: Float[Tensor, "*n 9 c"]) -> Float[Tensor, "*n 45"]:
    """Cosines between the nine points' features: the upper triangle, diagonal included.

    The released 9 x 9 matrix is symmetric; its diagonal is 1 but for points off the map.
    """
    unit = features / (features.norm(dim=-1, keepdim=True) + NORM_EPSILON)
    # Not by a matrix product, which autocast would round.
    cosines: Tensor = (unit[..., PAIRS[0], :] * unit[..., PAIRS[1], :]).sum(-1)
    return cosines
