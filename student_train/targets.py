"""From cached rows to the teacher targets of a batch, carried into the student's frame.

Canonical targets are those of unaugmented frames. Boxes and box codes move by the transform, cells
move as points, so flips, turns, scales and shifts of the BEV frame need no warped maps: the
student's own map is read where the teacher's cell has gone. The nine points of a box go by index.
Targets of stored views are in their student's frame already (carried by the identity, they stay as
they are).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from frames.anchors import BOX_CODE
from frames.augment import BevAugment
from frames.box_code import OFFSET, code_size, move_codes
from frames.box_points import MIRRORED
from frames.boxes import YAW, BoxBatch
from frames.cell_masks import (
    CellMask,
    OriginMask,
    RandomMask,
    anchors_of,
    at_origin,
    at_random,
)
from frames.detection_classes import DETECTION_CLASSES
from frames.errors import DataError
from frames.grid import BEVGrid
from frames.heatmap import CENTER_HEAD, GaussianMask, center_heatmap, halved
from nets.anchor_loss import directed, direction
from nets.box_features import MIRRORED_PAIRS, at_box_points
from store.plan import array_name
from store.rows import CachedRow
from store.schema import NO_BOX, NO_OBJECT, Need, Places, Target
from student_train.methods.base import AnchorTargets, DetectionTargets, TeacherTargets
from student_train.whole_maps import carried_map


@dataclass(frozen=True, slots=True)
class FrameTargets:
    """Targets of one frame, before padding; fields as in ``TeacherTargets``."""

    boxes: Float32[Tensor, "m 9"] | None = None
    scores: Float32[Tensor, " m"] | None = None
    answered: Bool[Tensor, " m"] | None = None
    cells: Float32[Tensor, "k 2"] | None = None
    cell_valid: Bool[Tensor, " k"] | None = None
    cell_weight: Mapping[CellMask, Float32[Tensor, " k"]] = field(default_factory=dict)
    cell_heatmap: Float32[Tensor, "k classes"] | None = None
    at_cells: Mapping[Target, Tensor] = field(default_factory=dict)
    coarse_cells: Float32[Tensor, "q 2"] | None = None
    coarse_weight: Float32[Tensor, " q"] | None = None
    at_coarse_cells: Mapping[Target, Tensor] = field(default_factory=dict)
    codes: Float32[Tensor, "m _"] | None = None
    coded: Bool[Tensor, " m"] | None = None
    at_points: Mapping[Target, Tensor] = field(default_factory=dict)
    relation: Float[Tensor, "m 45"] | None = None
    anchors: Mapping[str, Tensor] = field(default_factory=dict)
    detections: Mapping[str, Tensor] = field(default_factory=dict)
    maps: Mapping[Target, Tensor] = field(default_factory=dict)
    past: Mapping[int, "FrameTargets"] = field(default_factory=dict)
    reached: Bool[Tensor, ""] | None = None


def frame_targets(
    row: CachedRow, needs: Collection[Need], grid: BEVGrid, augment: BevAugment
) -> FrameTargets:
    """What the needs read of one cached row, carried by the augmentation from the row's frame.

    Needs of past frames are of other rows (``student_train/past_rows.py``).
    """
    needs = [need for need in needs if not need.offset]
    found: dict[str, Any] = {}
    if any(need.target is Target.BOXES for need in needs):
        found |= _boxes(row, augment)
    if any((need.target, need.places) == (Target.BOX_CODE, Places.BOXES) for need in needs):
        found |= _codes(row, grid, augment)
    at_cells = [need for need in needs if need.places is Places.CELLS]
    at_coarse = [need for need in needs if need.places is Places.COARSE_CELLS]
    if at_cells:
        index = torch.from_numpy(row.arrays[Places.CELLS.index_array]).long()
        xy = augment.xy(grid.cell_centres(index))
        found["cells"], found["cell_valid"] = xy, grid.contains(xy)
        weights = _weights({need.mask for need in at_cells}, row, grid, index)
        found["cell_weight"] = {m: weight * found["cell_valid"] for m, weight in weights.items()}
        if any(need.mask == CENTER_HEAD for need in at_cells):
            heatmap = center_heatmap(BoxBatch.pad([row.gt]), grid, len(DETECTION_CLASSES))
            found["cell_heatmap"] = (heatmap[0].flatten(1)[:, index] * found["cell_valid"]).T
    if at_coarse:
        found |= _coarse_cells(row, grid, augment)
    if any(need.target is Target.RELATION for need in needs):
        relation = torch.from_numpy(row.arrays["boxes/relation"])
        found["relation"] = relation[:, MIRRORED_PAIRS] if augment.mirrors else relation
    at_points = {need.target for need in needs if need.places is Places.POINTS}
    return FrameTargets(
        **found,
        at_cells={
            t: _at_cells(row, t, augment) for t in sorted({need.target for need in at_cells})
        },
        at_coarse_cells={
            need.target: _at_cells(row, need.target, augment, Places.COARSE_CELLS)
            for need in at_coarse
        },
        at_points={t: _at_points(row, t, grid, augment) for t in sorted(at_points)},
        anchors=_at_anchors(row, needs, augment),
        detections=_detections(row, augment)
        if any(need.target is Target.DETECTIONS for need in needs)
        else {},
        maps={
            need.target: carried_map(
                torch.from_numpy(row.arrays[need.target]), need.target, augment
            )
            for need in needs
            if need.places is Places.MAP
        },
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

    def stack(values: Sequence[Tensor | None]) -> Tensor | None:
        given = [value for value in values if value is not None]
        return torch.stack(given) if given else None

    def pad_each(name: str) -> dict[Any, Tensor]:
        each: list[Mapping[Any, Tensor]] = [getattr(frame, name) for frame in frames]
        padded = {target: pad([values[target] for values in each]) for target in each[0]}
        return {target: values for target, values in padded.items() if values is not None}

    return TeacherTargets(
        boxes=pad([frame.boxes for frame in frames]),
        scores=pad([frame.scores for frame in frames]),
        answered=pad([frame.answered for frame in frames]),
        cells=pad([frame.cells for frame in frames]),
        cell_valid=pad([frame.cell_valid for frame in frames]),
        cell_weight=pad_each("cell_weight"),
        cell_heatmap=pad([frame.cell_heatmap for frame in frames]),
        at_cells=pad_each("at_cells"),
        coarse_cells=pad([frame.coarse_cells for frame in frames]),
        coarse_weight=pad([frame.coarse_weight for frame in frames]),
        at_coarse_cells=pad_each("at_coarse_cells"),
        codes=pad([frame.codes for frame in frames]),
        coded=pad([frame.coded for frame in frames]),
        at_points=pad_each("at_points"),
        relation=pad([frame.relation for frame in frames]),
        anchors=AnchorTargets(**pad_each("anchors")) if frames[0].anchors else None,
        detections=DetectionTargets(**pad_each("detections")) if frames[0].detections else None,
        maps={t: torch.stack([frame.maps[t] for frame in frames]) for t in frames[0].maps},
        past={
            offset: pad_targets([frame.past[offset] for frame in frames])
            for offset in frames[0].past
        },
        reached=stack([frame.reached for frame in frames]),
    )


def _boxes(row: CachedRow, augment: BevAugment) -> dict[str, Tensor]:
    label = torch.from_numpy(np.asarray(row.arrays["boxes/label"]))
    return {
        "boxes": augment.boxes(_composed(row, Places.BOXES)),
        "scores": torch.from_numpy(np.asarray(row.arrays["boxes/score"])),
        "answered": label != NO_BOX,
    }


def _detections(row: CachedRow, augment: BevAugment) -> dict[str, Tensor]:
    """Fields of ``DetectionTargets``; an IoU stays what it is, whatever the frame."""
    part = {
        name: torch.from_numpy(np.asarray(row.arrays[f"{Places.DETECTIONS}/{name}"]))
        for name in ("score", "probability", "object", "iou")
    }
    owner = part["object"].long()
    if len(owner) and not NO_OBJECT <= int(owner.min()) <= int(owner.max()) < len(row.gt):
        raise DataError(
            f"row {row.token}: its detections name the boxes {int(owner.min())} to "
            f"{int(owner.max())} of {len(row.gt)}: the cache is not one of this version; dump it "
            "again"
        )
    return {
        "box": augment.boxes(_composed(row, Places.DETECTIONS)),
        "score": part["score"],
        "probability": part["probability"].float(),
        "object": owner,
        "iou": part["iou"],
        "valid": torch.ones(len(owner), dtype=torch.bool),
    }


def _composed(row: CachedRow, places: Places) -> Float32[Tensor, "n 9"]:
    """Boxes from their stored parts."""
    part = {
        name: torch.from_numpy(np.asarray(row.arrays[f"{places}/{name}"]))
        for name in ("centre", "size", "yaw", "velocity")
    }
    return torch.cat([part["centre"], part["size"], part["yaw"][:, None], part["velocity"]], 1)


def _codes(row: CachedRow, grid: BEVGrid, augment: BevAugment) -> dict[str, Tensor]:
    """Codes at the cells of the true boxes, moved to the cells that these boxes have moved to."""
    codes = torch.from_numpy(row.arrays[array_name(Target.BOX_CODE, Places.BOXES)]).float()
    before, after = row.gt.values[:, :2], augment.xy(row.gt.values[:, :2])
    if not augment.is_identity:
        own = grid.cell_centres(grid.cell_index(after))
        shift = augment.xy(grid.cell_centres(grid.cell_index(before))) - own
        codes = move_codes(codes, augment)
        codes[:, OFFSET] += shift / grid.cell_size
    return {"codes": codes, "coded": grid.contains(before) & grid.contains(after)}


def _coarse_cells(row: CachedRow, grid: BEVGrid, augment: BevAugment) -> dict[str, Tensor]:
    index = torch.from_numpy(row.arrays[Places.COARSE_CELLS.index_array]).long()
    xy = augment.xy(grid.coarser.cell_centres(index))
    heatmap = center_heatmap(BoxBatch.pad([row.gt]), grid, len(DETECTION_CLASSES))
    weight = halved(heatmap.sum(1, keepdim=True)).flatten()[index]
    return {"coarse_cells": xy, "coarse_weight": weight * grid.contains(xy)}


def _weights(
    masks: Collection[CellMask], row: CachedRow, grid: BEVGrid, index: Int64[Tensor, " k"]
) -> dict[CellMask, Tensor]:
    """What each mask that has weights gives the cells."""
    weights: dict[CellMask, Tensor] = {}
    truth = row.gt
    for mask in masks:
        if isinstance(mask, GaussianMask):
            classes = int(truth.labels.max()) + 1 if len(truth) else 1
            heatmap = center_heatmap(BoxBatch.pad([truth]), grid, classes, mask)
            weights[mask] = heatmap[0].amax(0).flatten()[index]
        elif isinstance(mask, OriginMask):
            weights[mask] = at_origin(index, grid).float()
        elif isinstance(mask, RandomMask):
            weights[mask] = at_random(index, mask, grid, row.token).float()
    return weights


def _at_cells(
    row: CachedRow, target: Target, augment: BevAugment, places: Places = Places.CELLS
) -> Tensor:
    """The target's values (k, channels) at the row's cells, whichever coverage it has."""
    held = row.arrays.get(array_name(target, places))
    if held is None:
        whole = torch.from_numpy(row.arrays[str(target)])
        index = torch.from_numpy(row.arrays[places.index_array]).long()
        values = whole.flatten(1)[:, index].T.contiguous()
    else:
        values = torch.from_numpy(held)
    if target is not Target.BOX_CODE or augment.is_identity:
        return values
    size = code_size(values.shape[1])
    codes = values.float().view(len(values), values.shape[1] // size, size)
    return move_codes(codes, augment).flatten(1)


def _at_anchors(row: CachedRow, needs: Collection[Need], augment: BevAugment) -> dict[str, Tensor]:
    """Fields of ``AnchorTargets``. A mirrored anchor is the anchor of the mirrored cell.

    Rotations of anchors are their own mirror images: 0 exactly, 1.57 to within 0.0016 radians
    (StereoDistill specification, part 13).
    """
    masks = [need.mask for need in needs if need.places is Places.ANCHORS]
    config = anchors_of(masks)
    if config is None:
        return {}
    part = {
        name: torch.from_numpy(np.asarray(row.arrays[f"anchors/{name}"]))
        for name in ("index", "object", "box", "direction", "score")
    }
    index, box = part["index"].long(), part["box"]
    way = part["direction"].long()
    if len(index) and int(part["object"].max()) >= len(row.gt):
        raise DataError(
            f"row {row.token}: an anchor answers for box {int(part['object'].max())} of "
            f"{len(row.gt)}: the cache is not one of this version; dump it again"
        )
    if not augment.is_identity:
        _require_flip(augment)
        heading = directed(box[:, YAW], way)
        box = augment.boxes(torch.cat([box, box.new_zeros(len(box), 2)], 1))[:, :BOX_CODE]
        way = direction(-heading)
        slot = index % config.per_cell
        index = mirrored_cells(index // config.per_cell, config.grid) * config.per_cell + slot
    return {
        "index": index,
        "object": part["object"].long(),
        "box": box,
        "direction": way,
        "score": part["score"],
        "valid": torch.ones(len(index), dtype=torch.bool),
    }


def mirrored_cells(index: Tensor, grid: BEVGrid) -> Tensor:
    """Cells on the other side of the x axis, about which the grid is symmetric."""
    row, col = index // grid.shape[1], index % grid.shape[1]
    return (grid.shape[0] - 1 - row) * grid.shape[1] + col


def _require_flip(augment: BevAugment) -> None:
    """Refuse what cannot be carried over by index.

    Raises:
        DataError: The augmentation is more than a flip of y.
    """
    if not torch.equal(augment.matrix, BevAugment.compose(flip_y=True).matrix):
        raise DataError(
            "anchors can be carried over to a flip along y alone: set bev_augment to flip_y, or "
            "dump --views"
        )


def _at_points(row: CachedRow, target: Target, grid: BEVGrid, augment: BevAugment) -> Tensor:
    """The target's values (m, 9, channels) at the points of each true box, mirrored if it is."""
    held = row.arrays.get(array_name(target, Places.POINTS))
    if held is None:
        whole = torch.from_numpy(row.arrays[str(target)])
        values = at_box_points(whole[None], row.gt.values[None], grid)[0]
    else:
        values = torch.from_numpy(held)
    return values[:, MIRRORED] if augment.mirrors else values
