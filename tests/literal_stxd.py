"""STXD's losses read literally from the authors' slides, number by number, slowly."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from frames.boxes import BoxBatch
from frames.grid import BEVGrid
from nets.center_head import CenterMaps
from student_train.methods.base import DetectionTargets


def correlation(student: Tensor, teacher: Tensor, hat: str, off_diagonal: float) -> Tensor:
    """CD of rows (n, d)."""

    def columns(rows: Tensor) -> list[Tensor]:
        if hat == "rows_first":
            rows = torch.stack([row / row.square().sum().sqrt() for row in rows])
        found = []
        for column in rows.T:
            moved = column if hat == "scaled" else column - column.sum() / len(column)
            found.append(moved / moved.square().sum().sqrt())
        return found

    total = torch.zeros(())
    for i, f in enumerate(columns(teacher)):
        for j, g in enumerate(columns(student)):
            c = (f * g).sum()
            total = total + ((1 - c) ** 2 if i == j else off_diagonal * c**2)
    return total


def temporal(
    student: Tensor,
    teacher: Tensor,
    past: Tensor,
    temperature: float,
    *,
    scores: str = "cosine",
    softmax: str = "row",
    divergence: str = "student_teacher",
    rows: str = "mean",
) -> Tensor:
    """TD of one frame, rows (k, d), against one past frame (p, d)."""

    def relation(own: Tensor) -> list[list[Tensor]]:
        table = []
        for f in own:
            line = []
            for p in past:
                score = (f * p).sum()
                if scores == "cosine":
                    score = score / (f.square().sum().sqrt() * p.square().sum().sqrt())
                line.append((score / temperature).exp())
            table.append(line)
        whole = sum(sum(line) for line in table)
        return [[x / (sum(line) if softmax == "row" else whole) for x in line] for line in table]

    s, t = relation(student), relation(teacher)
    if divergence == "teacher_student":
        s, t = t, s
    total = torch.zeros(())
    for line_s, line_t in zip(s, t, strict=True):
        for x, y in zip(line_s, line_t, strict=True):
            total = total + x * torch.log(x / y)
    return total / len(student) if softmax == "row" and rows == "mean" else total


def response_at_objects(
    head: CenterMaps,
    found: DetectionTargets,
    boxes: BoxBatch,
    grid: BEVGrid,
    *,
    gamma: float,
    code: Sequence[float],
    top: int,
) -> Tensor:
    """RD, the best detection of each true box against the student's answer at its centre cell."""
    rows, cols = grid.shape
    total = torch.zeros((), dtype=torch.float64)
    for b, m in boxes.valid.nonzero().tolist():
        label = int(boxes.labels[b, m])
        col = math.floor((boxes.values[b, m, 0].item() - grid.x_min) / grid.cell_size)
        row = math.floor((boxes.values[b, m, 1].item() - grid.y_min) / grid.cell_size)
        best, quality = _best(found, b, (m, label), gamma, top)
        if best < 0 or not (0 <= row < rows and 0 <= col < cols):
            continue
        said = head.box_code[b, int(head.class_task[label]), :, row, col].double()
        box = found.box[b, best].double()
        target = [
            (box[0] - grid.x_min) / grid.cell_size - col,
            (box[1] - grid.y_min) / grid.cell_size - row,
            box[2],
            *(torch.log(side) for side in box[3:6]),
            *(torch.sin(box[6]), torch.cos(box[6]), box[7], box[8]),
        ]
        distance = sum(w * (said[k] - target[k]).abs() for k, w in enumerate(code))
        divergence = torch.zeros(())
        for k in range(head.heatmap_logit.shape[1]):
            c = found.probability[b, best, k].double()
            p = head.heatmap_logit[b, k, row, col].double().sigmoid()
            divergence = divergence + c * torch.log(c / p) + (1 - c) * torch.log((1 - c) / (1 - p))
        total = total + quality * (distance + divergence)
    return total / len(boxes.values)


def _best(
    found: DetectionTargets, b: int, owner: tuple[int, int], gamma: float, top: int
) -> tuple[int, float]:
    """Which of a frame's first detections is the best of an object, a box and its label."""
    best, quality = -1, 0.0
    for i in range(min(top, found.box.shape[1])):
        if found.valid[b, i] and found.object[b, i] == owner[0]:
            confidence = found.probability[b, i, owner[1]].item()
            own = confidence ** (1 - gamma) * found.iou[b, i].item() ** gamma
            if own > quality:
                best, quality = i, own
    return best, quality
