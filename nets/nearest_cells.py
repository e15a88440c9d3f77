"""Which cells answer for which object in UniDistill's head: the nine nearest to its centre.

Facts of Megvii's ``fcos_assigner.py`` (CVPR2023-UniDistill, commit 8bbab40): a cell is where its
outer corner is, not its centre; a cell that several objects of a task claim, or that merely lies
nearer to another object of the task, belongs to the nearest one, so that an object among others may
keep fewer than nine. There an object off the grid still claims cells at its edge; here it counts
nowhere, as in all that reads objects on the grid.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from frames.boxes import BoxBatch
from frames.grid import BEVGrid
from frames.heatmap import on_grid


@dataclass(frozen=True, slots=True)
class PositiveCells:
    """Cells that answer for an object, in the order of frame, task, cell.

    Attributes:
        frame: Of the batch.
        task: Of the head.
        cell: Flat index row * W + col; each once in a frame and task.
        box: Index of the object among the frame's boxes.
    """

    frame: Int64[Tensor, " k"]
    task: Int64[Tensor, " k"]
    cell: Int64[Tensor, " k"]
    box: Int64[Tensor, " k"]

    def heatmap(
        self, boxes: BoxBatch, grid: BEVGrid, classes: int
    ) -> Float32[Tensor, "b {classes} {grid.shape[0]} {grid.shape[1]}"]:
        """1 at each cell for its object's class, else 0."""
        target = boxes.values.new_zeros(len(boxes.labels), classes, grid.num_cells)
        target[self.frame, boxes.labels[self.frame, self.box], self.cell] = 1
        return target.view(*target.shape[:2], *grid.shape)


def nearest_cells(
    boxes: BoxBatch, grid: BEVGrid, class_task: Int64[Tensor, " classes"], count: int
) -> PositiveCells:
    """The positive cells of a batch.

    Args:
        boxes: Ground truth.
        grid: Of the head's maps.
        class_task: Task of each class.
        count: Cells that an object claims, at most all there are.
    """
    present, task = on_grid(boxes, grid), class_task[boxes.labels]
    distance = _corner_distances(boxes.values[..., :2], grid)
    claimed = distance.topk(min(count, grid.num_cells), largest=False).indices
    per_box = claimed.shape[-1]
    cell = claimed.flatten(1)
    # Of each claim the distance to all objects; those of other tasks are no rivals.
    to_all = distance.gather(2, cell[:, None].expand(-1, distance.shape[1], -1))
    claim_task = task.repeat_interleave(per_box, 1)
    rival = present[:, :, None] & (task[:, :, None] == claim_task[:, None])
    owner = to_all.masked_fill(~rival, torch.inf).argmin(1)
    claim = present.repeat_interleave(per_box, 1).nonzero()
    frame, slot = claim.unbind(1)
    tasks = int(class_task.max()) + 1
    owners = torch.full((len(cell), tasks, grid.num_cells), -1, device=cell.device)
    owners[frame, claim_task[frame, slot], cell[frame, slot]] = owner[frame, slot]
    found = (owners >= 0).nonzero()
    frame, of_task, at = found.unbind(1)
    return PositiveCells(frame, of_task, at, owners[frame, of_task, at])


def _corner_distances(
    xy: Float[Tensor, "b m 2"], grid: BEVGrid
) -> Float[Tensor, "b m {grid.num_cells}"]:
    """Squared distance, in cells, from points to each cell's corner of least x and y."""
    rows, cols = grid.shape
    corner = grid.to_cells(xy) + 0.5
    dx = (corner[..., :1] - torch.arange(cols, device=xy.device)).square()
    dy = (corner[..., 1:] - torch.arange(rows, device=xy.device)).square()
    return (dy[..., :, None] + dx[..., None, :]).flatten(2)
