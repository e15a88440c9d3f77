"""From cached rows to the teacher targets of a batch, carried into the student's frame.

Canonical targets are those of unaugmented frames. Boxes move by the transform, cells move as
points, so flips, turns and scales of the BEV frame need no warped maps: the student's own map is
read where the teacher's cell has gone. The nine points of a box go by index. Targets of stored
views are in their student's frame already (carried by the identity, they stay as they are).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from frames.augment import BevAugment
from frames.box_points import MIRRORED
from frames.boxes import BoxBatch
from frames.grid import BEVGrid
from frames.heatmap import center_heatmap
from nets.box_features import MIRRORED_PAIRS, at_box_points
from store.plan import array_name
from store.rows import CachedRow
from store.schema import Need, Places, Target
from student_train.methods.base import TeacherTargets

NO_BOX = -1


@dataclass(frozen=True, slots=True)
class FrameTargets:
    """Targets of one frame, before padding; fields as in ``TeacherTargets``."""

    boxes: Float32[Tensor, "m 9"] | None = None
    scores: Float32[Tensor, " m"] | None = None
    answered: Bool[Tensor, " m"] | None = None
    cells: Float32[Tensor, "k 2"] | None = None
    cell_weight: Float32[Tensor, " k"] | None = None
    at_cells: Mapping[Target, Tensor] = field(default_factory=dict)
    at_points: Mapping[Target, Tensor] = field(default_factory=dict)
    relation: Float32[Tensor, "m 45"] | None = None


def frame_targets(
    row: CachedRow, needs: Collection[Need], grid: BEVGrid, augment: BevAugment
) -> FrameTargets:
    """What the needs read of one cached row, carried by the augmentation from the row's frame."""
    found: dict[str, Tensor] = {}
    if any(need.target is Target.BOXES for need in needs):
        found |= _boxes(row, augment)
    at_cells = {need.target for need in needs if need.places is Places.CELLS}
    if at_cells:
        index = torch.from_numpy(row.arrays[Places.CELLS.index_array]).long()
        heatmap = center_heatmap(BoxBatch.pad([row.gt]), grid, _classes(row))
        xy = augment.xy(grid.cell_centres(index))
        found["cells"] = xy
        found["cell_weight"] = heatmap[0].amax(0).flatten()[index] * grid.contains(xy)
    if any(need.target is Target.RELATION for need in needs):
        relation = torch.from_numpy(row.arrays["boxes/relation"])
        found["relation"] = relation[:, MIRRORED_PAIRS] if augment.mirrors else relation
    at_points = {need.target for need in needs if need.places is Places.POINTS}
    return FrameTargets(
        **found,
        at_cells={t: _at_cells(row, t) for t in sorted(at_cells)},
        at_points={t: _at_points(row, t, grid, augment) for t in sorted(at_points)},
    )


def pad_targets(frames: Sequence[FrameTargets]) -> TeacherTargets:
    """Stack frames, padding with zeros; boxes are as wide as ``BoxBatch.pad`` makes them."""

    def pad(values: Sequence[Tensor | None]) -> Tensor | None:
        given = [value for value in values if value is not None]
        if not given:
            return None
        width = max(1, *(len(value) for value in given))
        padded = given[0].new_zeros(len(given), width, *given[0].shape[1:])
        for row, value in zip(padded, given, strict=True):
            row[: len(value)] = value
        return padded

    def pad_each(name: str) -> dict[Target, Tensor]:
        each: list[Mapping[Target, Tensor]] = [getattr(frame, name) for frame in frames]
        padded = {target: pad([values[target] for values in each]) for target in each[0]}
        return {target: values for target, values in padded.items() if values is not None}

    return TeacherTargets(
        boxes=pad([frame.boxes for frame in frames]),
        scores=pad([frame.scores for frame in frames]),
        answered=pad([frame.answered for frame in frames]),
        cells=pad([frame.cells for frame in frames]),
        cell_weight=pad([frame.cell_weight for frame in frames]),
        at_cells=pad_each("at_cells"),
        at_points=pad_each("at_points"),
        relation=pad([frame.relation for frame in frames]),
    )


def _boxes(row: CachedRow, augment: BevAugment) -> dict[str, Tensor]:
    part = {
        name: torch.from_numpy(np.asarray(row.arrays[f"boxes/{name}"]))
        for name in ("centre", "size", "yaw", "velocity", "score", "label")
    }
    values = torch.cat([part["centre"], part["size"], part["yaw"][:, None], part["velocity"]], 1)
    return {
        "boxes": augment.boxes(values),
        "scores": part["score"],
        "answered": part["label"] != NO_BOX,
    }


def _at_cells(row: CachedRow, target: Target) -> Tensor:
    """The target's values (k, channels) at the row's cells, whichever coverage it has."""
    at_cells = row.arrays.get(array_name(target, Places.CELLS))
    if at_cells is not None:
        return torch.from_numpy(at_cells)
    values = torch.from_numpy(row.arrays[str(target)])
    index = torch.from_numpy(row.arrays[Places.CELLS.index_array]).long()
    return values.flatten(1)[:, index].T.contiguous()


def _at_points(row: CachedRow, target: Target, grid: BEVGrid, augment: BevAugment) -> Tensor:
    """The target's values (m, 9, channels) at the points of each true box, mirrored if it is."""
    held = row.arrays.get(array_name(target, Places.POINTS))
    if held is None:
        whole = torch.from_numpy(row.arrays[str(target)])
        values = at_box_points(whole[None], row.gt.values[None], grid)[0]
    else:
        values = torch.from_numpy(held)
    return values[:, MIRRORED] if augment.mirrors else values


def _classes(row: CachedRow) -> int:
    return int(row.gt.labels.max()) + 1 if len(row.gt) else 1
