"""Ground-truth boxes painted onto the BEV grid, as LabelDistill's label encoder reads them.

The rule is the released code's (LabelDistill, commit 274ab26dc1; docs/label-encoder.md):

- A box covers its footprint at half its length and half its width. The corners, in cells from the
  grid's outer corner, are cut off to integers: cells are taken for points.
- The polygon of these corners is filled as scikit-image's ``draw.polygon`` does it: inside,
  vertices, edges. Of a polygon without area it keeps the vertices alone, so a narrow box may be
  painted at its two ends and not between them.
- Cells at negative coordinates are dropped; those beyond the last row or column are pushed onto it,
  also by boxes whose centre lies off the grid.
- Task by task, class by class, annotation by annotation: what is painted later covers the earlier.
- A box of which length or width is not positive is not painted.

The released 0/1 map of occupied cells, which nothing there reads, is left out.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from frames.boxes import YAW, BoxBatch
from frames.geometry import yaw_rotations
from frames.grid import BEVGrid

# A quarter of the size to each side of the centre: half the footprint.
SHRINK = 0.25


def painted_boxes(
    boxes: BoxBatch, grid: BEVGrid, class_order: Sequence[int]
) -> Int64[Tensor, "b {grid.shape[0]} {grid.shape[1]}"]:
    """Which box each cell shows: its index m in the batch; -1 where there is none.

    Args:
        boxes: Ground truth.
        grid: To be painted.
        class_order: The labels in the order in which they are painted.
    """
    rows, cols = grid.shape
    batch, count = boxes.labels.shape
    turn = torch.empty(len(class_order), dtype=torch.int64, device=boxes.labels.device)
    turn[list(class_order)] = torch.arange(len(class_order), device=turn.device)
    rank = turn[boxes.labels] * count + torch.arange(count, device=turn.device)
    drawn = boxes.valid & (boxes.values[..., 3:5] > 0).all(-1)
    frame, box = drawn.nonzero(as_tuple=True)
    polygon = _corners(boxes, grid)[frame, box]
    row, col, filled = _fill(polygon)
    cell = row.clamp(max=rows - 1) * cols + col.clamp(max=cols - 1)
    cell = frame[:, None] * (rows * cols) + cell
    shown = torch.full((batch * rows * cols,), -1, device=turn.device)
    ranks = rank[frame, box][:, None].expand_as(cell)
    shown = shown.scatter_reduce(0, cell[filled], ranks[filled], "amax")
    return torch.where(shown < 0, -1, shown % count).view(batch, rows, cols)


def _corners(boxes: BoxBatch, grid: BEVGrid) -> Int64[Tensor, "b m 4 2"]:
    """Corners (col, row) of the shrunk footprints, one after the other, cut off to integers."""
    # In float64: the same box must not be cut off differently on another device.
    values = boxes.values.double()
    heading, across = yaw_rotations(values[..., YAW]).unbind(-1)
    along, aside = (SHRINK * values[..., 3:5] / grid.cell_size).unbind(-1)
    centre = grid.to_cells(values[..., :2]) + 0.5
    corners = [
        centre + u * along[..., None] * heading + v * aside[..., None] * across
        for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1))
    ]
    return torch.stack(corners, dim=-2).trunc().long()


def _fill(
    polygon: Int64[Tensor, "n 4 2"],
) -> tuple[Int64[Tensor, "n k"], Int64[Tensor, "n k"], Bool[Tensor, "n k"]]:
    """Rows and columns of candidate cells, none negative, and which of them the polygons keep."""
    low = polygon.amin(1).clamp(min=0)
    span = (polygon.amax(1) - low).clamp(min=0)
    cols, rows = (span.amax(0) + 1).tolist() if len(span) else (1, 1)
    step = torch.arange(rows * cols, device=polygon.device)
    col, row = low[:, :1] + step % cols, low[:, 1:] + step // cols
    return row, col, _kept(polygon, col, row)


def _kept(
    polygon: Int64[Tensor, "n 4 2"], col: Int64[Tensor, "n k"], row: Int64[Tensor, "n k"]
) -> Bool[Tensor, "n k"]:
    """Vertices, and points from which an odd number of edges lies to the right, or to the left."""
    vertex = torch.zeros_like(col, dtype=torch.bool)
    right, left = torch.zeros_like(vertex), torch.zeros_like(vertex)
    # Seen from the point; in integers, so that lying on an edge is exact.
    x, y = polygon[:, :, :1] - col[:, None], polygon[:, :, 1:] - row[:, None]
    for k in range(polygon.shape[1]):
        (xa, ya), (xb, yb) = (x[:, k - 1], y[:, k - 1]), (x[:, k], y[:, k])
        vertex |= (xb == 0) & (yb == 0)
        # Sign of where the edge's line meets the point's row.
        side = (xb * ya - xa * yb) * (ya - yb)
        right ^= ((ya > 0) != (yb > 0)) & (side > 0)
        left ^= ((ya < 0) != (yb < 0)) & (side < 0)
    return vertex | right | left
