"""Which cells of the grid count as foreground: every loss that reads cells names its own mask."""

import hashlib
from collections.abc import Iterable
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int64
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from frames.anchor_assign import positive_anchors
from frames.anchors import AnchorConfig
from frames.boxes import BoxBatch, Boxes3D
from frames.geometry import in_footprints
from frames.grid import BEVGrid
from frames.heatmap import CENTER_HEAD, GaussianMask, halved, inside_gaussians


class FootprintMask(BaseModel):
    """Cells whose centre lies inside a box seen from above.

    Attributes:
        kind: Tells masks apart in JSON.
        margin: Metres by which each side of the box moves outward.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["footprint"] = "footprint"
    margin: NonNegativeFloat = 0.0


class RandomMask(BaseModel):
    """Random cells, the same for a frame at any time.

    Attributes:
        kind: Tells masks apart in JSON.
        count: How many, at most all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["random"] = "random"
    count: PositiveInt


class AnchorMask(BaseModel):
    """Cells with a positive anchor; values at anchors belong to these anchors.

    Attributes:
        kind: Tells masks apart in JSON.
        anchors: Of teacher and student alike.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["anchor"] = "anchor"
    anchors: AnchorConfig


class OriginMask(BaseModel):
    """The cell of the ego frame's origin: where the padding of released UniDistill lies.

    Attributes:
        kind: Tells masks apart in JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["origin"] = "origin"


AnyMask = GaussianMask | FootprintMask | RandomMask | AnchorMask | OriginMask
CellMask = Annotated[AnyMask, Field(discriminator="kind")]


def anchors_of(masks: Iterable[AnyMask]) -> AnchorConfig | None:
    """The anchors of which a plan speaks; it has one table at most."""
    tables = {mask.anchors for mask in masks if isinstance(mask, AnchorMask)}
    return tables.pop() if tables else None


def foreground_cells(
    boxes: Boxes3D,
    grid: BEVGrid,
    masks: Iterable[AnyMask] = (CENTER_HEAD,),
    token: str = "",
) -> Int64[Tensor, " k"]:
    """Flat indices, ascending, of the cells in any of the masks.

    Args:
        boxes: Ground truth of one frame.
        grid: Whose cells.
        masks: Union of these.
        token: Of the frame; seeds a random mask.
    """
    return _in_any(masks, boxes, grid, token).nonzero().squeeze(1)


def coarse_foreground_cells(
    boxes: Boxes3D,
    grid: BEVGrid,
    masks: Iterable[AnyMask] = (CENTER_HEAD,),
    token: str = "",
) -> Int64[Tensor, " k"]:
    """Flat indices, ascending, of the cells of ``grid.coarser`` that the halved masks reach.

    These are no masks drawn on the coarser grid: a loss there weighs a cell by its mask resized
    (``heatmap.halved``), and a cell that reads no foreground cell has no weight.

    Args:
        boxes: Ground truth of one frame.
        grid: The finer one.
        masks: Union of these, on the finer grid.
        token: Of the frame; seeds a random mask.
    """
    inside = _in_any(masks, boxes, grid, token).view(1, 1, *grid.shape)
    return halved(inside.float()).flatten().nonzero().squeeze(1)


def _in_any(
    masks: Iterable[AnyMask], boxes: Boxes3D, grid: BEVGrid, token: str
) -> Bool[Tensor, " k"]:
    inside = torch.zeros(grid.num_cells, dtype=torch.bool)
    for mask in masks:
        inside |= _inside(mask, boxes, grid, token)
    return inside


def at_origin(index: Int64[Tensor, " k"], grid: BEVGrid) -> Bool[Tensor, " k"]:
    """Which of the cells holds the ego frame's origin: none where that is off the grid."""
    origin = torch.zeros(2)
    return (index == grid.cell_index(origin)) & grid.contains(origin)


def at_random(
    index: Int64[Tensor, " k"], mask: RandomMask, grid: BEVGrid, token: str
) -> Bool[Tensor, " k"]:
    """Which of the cells are among a frame's random ones."""
    return _random(mask, grid, token)[index]


def _inside(mask: AnyMask, boxes: Boxes3D, grid: BEVGrid, token: str) -> Bool[Tensor, " k"]:
    if isinstance(mask, GaussianMask):
        return inside_gaussians(BoxBatch.pad([boxes]), grid, mask)[0].flatten()
    if isinstance(mask, FootprintMask):
        centres = grid.cell_centres(torch.arange(grid.num_cells))
        return in_footprints(centres, boxes.values, mask.margin).any(1)
    if isinstance(mask, OriginMask):
        return at_origin(torch.arange(grid.num_cells), grid)
    if isinstance(mask, AnchorMask):
        index, _ = positive_anchors(mask.anchors, boxes)
        positive = torch.zeros(grid.num_cells, dtype=torch.bool)
        positive[index // mask.anchors.per_cell] = True
        return positive
    return _random(mask, grid, token)


def _random(mask: RandomMask, grid: BEVGrid, token: str) -> Bool[Tensor, " k"]:
    seed = int.from_bytes(hashlib.sha256(token.encode()).digest()[:8], "big")
    order = np.random.default_rng(seed).permutation(grid.num_cells)
    chosen = torch.zeros(grid.num_cells, dtype=torch.bool)
    chosen[torch.from_numpy(order[: mask.count])] = True
    return chosen
