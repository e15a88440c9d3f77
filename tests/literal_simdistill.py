"""SimDistill's losses as docs/simdistill.md states them, in slow loops on whole maps.

The released code's own words: rows and columns are swapped against ours, which no loss sees.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from frames.boxes import Boxes3D
from frames.grid import BEVGrid

CODE_WEIGHTS = [1.0] * 8 + [0.2] * 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one of the two says of a batch.

    Attributes:
        camera: Its camera map (b, c, h, w).
        lidar: The LiDAR map, or the student's simulated and adapted one.
        fused: The fused map.
        logit: (b, 10, h, w).
        code: (b, tasks, 10, h, w).
    """

    camera: Tensor
    lidar: Tensor
    fused: Tensor
    logit: Tensor
    code: Tensor


def gaussian_radius(length: float, width: float, overlap: float) -> float:
    b1, c1 = length + width, length * width * (1 - overlap) / (1 + overlap)
    b2, c2 = 2 * (length + width), (1 - overlap) * length * width
    b3, c3 = -2 * overlap * (length + width), (overlap - 1) * length * width
    return min(
        (b1 + math.sqrt(b1**2 - 4 * c1)) / 2,
        (b2 + math.sqrt(b2**2 - 16 * c2)) / 2,
        (b3 + math.sqrt(b3**2 - 16 * overlap * c3)) / 2,
    )


def cell_of(box: Tensor, grid: BEVGrid) -> tuple[int, int] | None:
    """Row and column of the centre, if it is on the grid."""
    col = math.floor((float(box[0]) - grid.x_min) / grid.cell_size)
    row = math.floor((float(box[1]) - grid.y_min) / grid.cell_size)
    on = 0 <= row < grid.shape[0] and 0 <= col < grid.shape[1]
    return (row, col) if on else None


def object_mask(boxes: Boxes3D, grid: BEVGrid) -> Tensor:
    """Sum over classes of each class's heatmap, which is a maximum over its objects."""
    classes = torch.zeros(10, *grid.shape)
    for box, label in zip(boxes.values, boxes.labels.tolist(), strict=True):
        cell = cell_of(box, grid)
        if cell is None:
            continue
        size = [float(edge) / grid.cell_size for edge in box[3:5]]
        r = max(2, int(gaussian_radius(size[0], size[1], 0.1)))
        sigma = (2 * r + 1) / 6
        for row in range(max(0, cell[0] - r), min(grid.shape[0], cell[0] + r + 1)):
            for col in range(max(0, cell[1] - r), min(grid.shape[1], cell[1] + r + 1)):
                square = (row - cell[0]) ** 2 + (col - cell[1]) ** 2
                value = math.exp(-square / (2 * sigma**2))
                classes[label, row, col] = max(float(classes[label, row, col]), value)
    return classes.sum(0)


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    total, count = student.new_zeros(()), 0
    for own, other in zip(student, teacher, strict=True):
        for a, b in zip(own, other, strict=True):
            total = total + ((a - b) ** 2).sum()
            count += a.numel()
    return total / count


def cmd(student: Tensor, teacher: Tensor, masks: Sequence[Tensor]) -> Tensor:
    """Without its factor of 100."""
    total = student.new_zeros(())
    for own, other, mask in zip(student, teacher, masks, strict=True):
        for row in range(mask.shape[0]):
            for col in range(mask.shape[1]):
                if mask[row, col] > 0:
                    gap = mask[row, col] * (own[:, row, col] - other[:, row, col])
                    total = total + (gap**2).sum()
    return total / student.numel()


def probability(logit: Tensor) -> Tensor:
    return torch.sigmoid(logit).clamp(1e-4, 1 - 1e-4)


def binary_cross_entropy(logit: Tensor, target: Tensor) -> Tensor:
    p = torch.sigmoid(logit)
    return -(target * torch.log(p) + (1 - target) * torch.log(1 - p))


def classes_of(class_task: Tensor, task: int) -> list[int]:
    return [k for k, own in enumerate(class_task.tolist()) if own == task]


def classification(
    student: Tensor, teacher: Tensor, class_task: Tensor, *, released: bool
) -> Tensor:
    """Without the 0.25."""
    frames, _, rows, cols = student.shape
    total = student.new_zeros(())
    for task in range(int(class_task.max()) + 1):
        own = classes_of(class_task, task)
        for b in range(frames):
            p, z = probability(teacher[b, own]), student[b, own]
            if released:
                x, t = probability(z), torch.sigmoid(p)
                loss = binary_cross_entropy(x, t) * (torch.sigmoid(x) - t) ** 2
                total = total + loss.sum() / (rows * cols / len(own))
            else:
                loss = binary_cross_entropy(z, p) * (torch.sigmoid(z) - p) ** 2
                positive = int((p > 0.1).sum())
                total = total + loss.sum() / max(1, positive) / frames
    return total


def smooth_l1(gap: Tensor) -> Tensor:
    beta, size = 1 / 9, gap.abs()
    return torch.where(size < beta, size**2 / (2 * beta), size - beta / 2).sum()


def one_box(own: Tensor, other: Tensor, *, released: bool) -> Tensor:
    own, other = list(own.unbind()), list(other.unbind())  # type: ignore[assignment]
    if released:
        a, b = own[6], other[6]
        own[6], other[6] = torch.sin(a) * torch.cos(b), torch.cos(a) * torch.sin(b)
    return smooth_l1(
        torch.stack([w * (a - b) for w, a, b in zip(CODE_WEIGHTS, own, other, strict=True)])
    )


def boxes_of(
    student: Tensor,
    teacher: Tensor,
    frames: Sequence[Boxes3D],
    grid: BEVGrid,
    class_task: Tensor,
    *,
    slots: int | None,
) -> Tensor:
    """Without the 0.25; with slots the released form."""
    total = student.new_zeros(())
    for task in range(student.shape[1]):
        for b, boxes in enumerate(frames):
            cells = [
                cell_of(box, grid)
                for box, label in zip(boxes.values, boxes.labels.tolist(), strict=True)
                if int(class_task[label]) == task
            ]
            own = [cell for cell in cells if cell is not None]
            if slots is not None:
                read = [*own, *[(0, 0)] * (slots - len(own))]
                share = 1 / slots
            else:
                read, share = own, 1 / max(1, len(own)) / len(frames)
            for row, col in read:
                pair = student[b, task, :, row, col], teacher[b, task, :, row, col]
                total = total + share * one_box(*pair, released=slots is not None)
    return total


def literal(
    student: Side,
    teacher: Side,
    frames: Sequence[Boxes3D],
    grid: BEVGrid,
    class_task: Tensor,
    *,
    slots: int | None = None,
) -> dict[str, Tensor]:
    """All four weighted terms, in the intended or (with slots) the released form of MMD-P."""
    masks = [object_mask(boxes, grid) for boxes in frames]
    released = slots is not None
    prediction = classification(
        student.logit, teacher.logit, class_task, released=released
    ) + boxes_of(student.code, teacher.code, frames, grid, class_task, slots=slots)
    return {
        "imd": mse(student.camera, teacher.camera),
        "cmd": 100 * cmd(student.lidar, teacher.lidar, masks),
        "mmd_f": mse(student.fused, teacher.fused),
        "mmd_p": 0.25 * prediction,
    }
