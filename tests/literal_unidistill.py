"""UniDistill's losses as docs/methods.md states them, in slow loops on whole maps."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from frames.boxes import Boxes3D
from frames.grid import BEVGrid
from store.schema import Target

Maps = Mapping[Target, Tensor]
CORNERS = [(-1, -1), (-1, 1), (1, 1), (1, -1)]
UNITS = [*CORNERS, (0, 0), (-1, 0), (0, 1), (1, 0), (0, -1)]


def nine_points(box: Tensor) -> list[tuple[float, float]]:
    x, y, _, length, width, _, yaw = box.tolist()[:7]
    points = []
    for u, v in UNITS:
        forward, left = u * length / 2, v * width / 2
        points.append(
            (
                x + forward * math.cos(yaw) - left * math.sin(yaw),
                y + forward * math.sin(yaw) + left * math.cos(yaw),
            )
        )
    return points


def in_range(boxes: Boxes3D, grid: BEVGrid) -> Boxes3D:
    """Those with a corner over the grid, as the released data set keeps them."""
    rows, cols = grid.shape
    x_max, y_max = grid.x_min + cols * grid.cell_size, grid.y_min + rows * grid.cell_size
    kept = [
        any(
            grid.x_min <= x < x_max and grid.y_min <= y < y_max
            for x, y in nine_points(box)[: len(CORNERS)]
        )
        for box in boxes.values
    ]
    return Boxes3D(boxes.values[kept], boxes.labels[kept])


def bilinear(map_: Tensor, x: float, y: float, grid: BEVGrid, *, transposed: bool) -> Tensor:
    """One sample, cell by cell; what lies off the map is zero."""
    rows, cols = grid.shape
    # As grid_sample has it: -1 and 1 at the outer edges, the code swaps the two.
    u = (x - grid.x_min) / grid.cell_size / (cols / 2) - 1
    v = (y - grid.y_min) / grid.cell_size / (rows / 2) - 1
    if transposed:
        u, v = v, u
    col, row = (u + 1) * cols / 2 - 0.5, (v + 1) * rows / 2 - 0.5
    total = map_.new_zeros(map_.shape[0])
    for r in (math.floor(row), math.floor(row) + 1):
        for c in (math.floor(col), math.floor(col) + 1):
            if 0 <= r < rows and 0 <= c < cols:
                total = total + (1 - abs(row - r)) * (1 - abs(col - c)) * map_[:, r, c]
    return total


def cosines(vectors: Sequence[Tensor]) -> list[list[Tensor]]:
    unit = [vector / (vector.norm() + 1e-4) for vector in vectors]
    return [[(a * b).sum() for b in unit] for a in unit]


def radius(length: float, width: float, overlap: float) -> int:
    """Of a box of that many cells."""
    b1, c1 = length + width, length * width * (1 - overlap) / (1 + overlap)
    b2, c2 = 2 * (length + width), (1 - overlap) * length * width
    b3, c3 = -2 * overlap * (length + width), (overlap - 1) * length * width
    r1 = (b1 + math.sqrt(b1**2 - 4 * c1)) / 2
    r2 = (b2 + math.sqrt(b2**2 - 16 * c2)) / 2
    r3 = (b3 + math.sqrt(b3**2 - 16 * overlap * c3)) / 2
    return max(0, math.floor(min(r1, r2, r3)))


def gaussian_mask(boxes: Boxes3D, grid: BEVGrid) -> Tensor:
    mask = torch.zeros(grid.shape)
    for x, y, _, length, width, *_ in boxes.values.tolist():
        cx, cy = (x - grid.x_min) / grid.cell_size, (y - grid.y_min) / grid.cell_size
        if not (0 <= cx < grid.shape[1] and 0 <= cy < grid.shape[0]):
            continue
        r = radius(length / grid.cell_size, width / grid.cell_size, 0.7)
        sigma = (2 * r + 1) / 6
        for dy in range(-r, r + 1):
            for dx in range(-r, r + 1):
                row, col = math.floor(cy) + dy, math.floor(cx) + dx
                if 0 <= row < grid.shape[0] and 0 <= col < grid.shape[1]:
                    value = math.exp(-(dx**2 + dy**2) / (2 * sigma**2))
                    mask[row, col] = max(float(mask[row, col]), value)
    return mask


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Which of the published forms."""

    temperature: float = 2.0
    clamp: float = 1e-4
    transposed: bool = False
    padding: bool = False
    # What becomes of what the teacher says at a place, before it is compared.
    kept: Callable[[Tensor], Tensor] = lambda value: value


def literal(
    student: Maps, teacher: Maps, frames: Sequence[Boxes3D], grid: BEVGrid, form: Form
) -> list[Tensor]:
    """Feature, relation, class and regression loss of a batch, before their weights.

    Gradient reaches the maps of both sides. Boxes without a corner in range are no ground truth.
    """
    at_boxes, at_cells, weight = torch.zeros(2), torch.zeros(2), torch.zeros(())
    frames = [in_range(boxes, grid) for boxes in frames]
    most = max(len(boxes) for boxes in frames)
    for b, boxes in enumerate(frames):
        own = {target: maps[b] for target, maps in student.items()}
        other = {target: maps[b] for target, maps in teacher.items()}
        for box in boxes.values:
            at_boxes = at_boxes + of_a_box(own, other, box, grid, form)
        mask = gaussian_mask(boxes, grid)
        if form.padding and len(boxes) < most:
            mask[math.floor(-grid.y_min / grid.cell_size)][
                math.floor(-grid.x_min / grid.cell_size)
            ] = 1.0
        for row, col in mask.nonzero().tolist():
            at_cells = at_cells + mask[row, col] * of_a_cell(own, other, row, col, form)
        weight = weight + mask.sum()
    count = sum(len(boxes) for boxes in frames) + 1e-4
    return [*(at_boxes / count), *(at_cells / (weight + 1e-4))]


def of_a_box(student: Maps, teacher: Maps, box: Tensor, grid: BEVGrid, form: Form) -> Tensor:
    """Mean feature difference, mean difference of the 81 cosines."""
    feature, relation, points = torch.zeros(()), torch.zeros(()), nine_points(box)
    samples = {
        level: [
            [bilinear(m[level], *point, grid, transposed=form.transposed) for point in points]
            for m in (student, teacher)
        ]
        for level in (Target.BEV_LOW, Target.BEV_HIGH)
    }
    for own, other in zip(*samples[Target.BEV_LOW], strict=True):
        for c in range(len(own)):
            feature = feature + (own[c] - form.kept(other[c])).abs() / (9 * len(own))
    own_cosines, other_cosines = (cosines(vectors) for vectors in samples[Target.BEV_HIGH])
    for i in range(9):
        for j in range(9):
            relation = relation + (own_cosines[i][j] - form.kept(other_cosines[i][j])).abs() / 81
    return torch.stack([feature, relation])


def of_a_cell(student: Maps, teacher: Maps, row: int, col: int, form: Form) -> Tensor:
    """Difference of the likeliest classes, mean difference of the regression channels."""
    own = student[Target.HEATMAP_LOGIT][:, row, col].sigmoid().clamp(1e-4, 1 - 1e-4)
    other = form.kept(teacher[Target.HEATMAP_LOGIT][:, row, col])
    other = (other / form.temperature).sigmoid().clamp(form.clamp, 1 - form.clamp)
    own_code, other_code = (m[Target.BOX_CODE][:, row, col] for m in (student, teacher))
    gap = torch.zeros(())
    for c in range(len(own_code)):
        gap = gap + (own_code[c] - form.kept(other_code[c])).abs() / len(own_code)
    return torch.stack([(own.max() - other.max()).abs(), gap])
