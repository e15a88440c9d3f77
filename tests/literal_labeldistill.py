"""LabelDistill's losses read literally: whole maps, cell by cell, slowly."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from frames.boxes import BoxBatch
from frames.grid import BEVGrid
from nets.center_head import CenterMaps


def class_heatmaps(boxes: BoxBatch, grid: BEVGrid) -> Tensor:
    """(b, 10, h, w): each object drawn by itself, classes merged by their largest."""
    rows, cols = grid.shape
    maps = torch.zeros(len(boxes.values), 10, rows, cols)
    for b in range(len(boxes.values)):
        for values, label, valid in zip(
            boxes.values[b].tolist(), boxes.labels[b].tolist(), boxes.valid[b].tolist(), strict=True
        ):
            col, row = (
                math.floor((values[k] - start) / grid.cell_size)
                for k, start in enumerate((grid.x_min, grid.y_min))
            )
            if not valid or not (0 <= row < rows and 0 <= col < cols):
                continue
            radius = _radius(values[3] / grid.cell_size, values[4] / grid.cell_size)
            sigma = (2 * radius + 1) / 6
            for r in range(max(0, row - radius), min(rows, row + radius + 1)):
                for c in range(max(0, col - radius), min(cols, col + radius + 1)):
                    value = math.exp(-((r - row) ** 2 + (c - col) ** 2) / (2 * sigma**2))
                    maps[b, label, r, c] = max(maps[b, label, r, c].item(), value)
    return maps


def _radius(length: float, width: float, overlap: float = 0.1) -> int:
    total, area = length + width, length * width
    roots = (
        (total + math.sqrt(total**2 - 4 * area * (1 - overlap) / (1 + overlap))) / 2,
        (2 * total + math.sqrt((2 * total) ** 2 - 16 * (1 - overlap) * area)) / 2,
        (
            -2 * overlap * total
            + math.sqrt((2 * overlap * total) ** 2 - 16 * overlap * (overlap - 1) * area)
        )
        / 2,
    )
    return max(2, math.floor(min(roots)))


def half_mask(mask: Tensor) -> Tensor:
    """(b, h, w) -> (b, h/2, w/2): bilinear, the corner cells' centres on each other."""
    batch, rows, cols = mask.shape
    out = torch.zeros(batch, rows // 2, cols // 2)
    for r in range(rows // 2):
        for c in range(cols // 2):
            at_row, at_col = (
                i * (n - 1) / (n // 2 - 1) if n > 2 else 0.0 for i, n in ((r, rows), (c, cols))
            )
            for rr in {math.floor(at_row), min(math.floor(at_row) + 1, rows - 1)}:
                for cc in {math.floor(at_col), min(math.floor(at_col) + 1, cols - 1)}:
                    near = (1 - abs(at_row - rr)) * (1 - abs(at_col - cc))
                    out[:, r, c] += near * mask[:, rr, cc]
    return out


def feature_term(
    teacher: Sequence[Tensor], student: Sequence[Tensor], mask: Tensor, *, binary: bool
) -> Tensor:
    """Both levels; the mask is that of level 0."""
    total = torch.zeros(())
    for t, s, m in zip(teacher, student, (mask, half_mask(mask)), strict=True):
        weight = (m > 0).float() if binary else m
        term = torch.zeros(())
        for b, y, x in weight.nonzero().tolist():
            term = term + weight[b, y, x] * sum((t[b, :, y, x] - s[b, :, y, x]) ** 2)
        total = total + term / max(1.0, weight.sum().item())
    return total


def heatmap_term(
    student: CenterMaps, teacher: CenterMaps, boxes: BoxBatch, grid: BEVGrid, form: str
) -> Tensor:
    """Class by class over all cells; normalised by the peaks of the class's task."""
    truth = class_heatmaps(boxes, grid)
    total = torch.zeros(())
    for label in range(10):
        same_task = [k for k in range(10) if student.class_task[k] == student.class_task[label]]
        peaks = max(1, sum(int((truth[:, k] == 1).sum()) for k in same_task))
        z, y = student.heatmap_logit[:, label], truth[:, label]
        target = teacher.heatmap_logit[:, label].sigmoid().clamp(1e-4, 1 - 1e-4) * y
        if form == "soft_target":
            p = z.sigmoid()
            entropy = -target * torch.log(p) - (1 - target) * torch.log(1 - p)
            each = (target - p) ** 2 * entropy
        else:
            p = z.sigmoid().clamp(1e-4, 1 - 1e-4)
            each = -torch.log(1 - p) * p**2 * (1 - target) ** 4
        total = total + each.sum() / peaks
    return total


def box_term(
    student: CenterMaps,
    teacher: CenterMaps,
    boxes: BoxBatch,
    grid: BEVGrid,
    weights: Sequence[float],
) -> Tensor:
    """L1 at the flat index of each object, a mean over the objects of each task."""
    sums: dict[int, Tensor] = {}
    counts: dict[int, int] = {}
    rows, cols = grid.shape
    for b in range(len(boxes.values)):
        for values, label, valid in zip(
            boxes.values[b].tolist(), boxes.labels[b].tolist(), boxes.valid[b].tolist(), strict=True
        ):
            col = math.floor((values[0] - grid.x_min) / grid.cell_size)
            row = math.floor((values[1] - grid.y_min) / grid.cell_size)
            if not valid or not (0 <= row < rows and 0 <= col < cols):
                continue
            mine, other = int(student.class_task[label]), int(teacher.class_task[label])
            gap = student.box_code[b, mine, :, row, col] - teacher.box_code[b, other, :, row, col]
            own = sum(w * gap[d].abs() for d, w in enumerate(weights))
            sums[mine] = sums.get(mine, torch.zeros(())) + own
            counts[mine] = counts.get(mine, 0) + 1
    return sum((sums[t] / counts[t] for t in sums), torch.zeros(()))
