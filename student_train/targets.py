"""From cached rows to the teacher targets of a batch, carried into the student's frame.

Canonical targets are those of unaugmented frames. Boxes and box codes move by the transform, cells
move as points, so flips, turns, scales and shifts of the BEV frame need no warped maps: the
student's own map is read where the teacher's cell has gone. The nine points of a box go by index.
Targets of stored views are in their student's frame already (carried by the identity, they stay as
they are).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

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

Needs = Collection[Need]
# Some of those of ``FrameTargets``.
Fields = dict[str, Any]


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


def frame_targets(row: CachedRow, needs: Needs, grid: BEVGrid, augment: BevAugment) -> FrameTargets:
    """What the needs read of one cached row, carried by the augmentation from the row's frame.

    Needs of past frames are of other rows (``student_train/past_rows.py``).
    """
    readers = {
        Places.CELLS: _cells,
        Places.COARSE_CELLS: _coarse_cells,
        Places.POINTS: _points,
        Places.BOXES: _boxes,
        Places.ANCHORS: _anchors,
        Places.DETECTIONS: _detections,
        Places.MAP: _maps,
    }
    found: Fields = {}
    for places, read in readers.items():
        if there := [need for need in needs if need.places is places and not need.offset]:
            found |= read(row, there, grid, augment)
    return FrameTargets(**found)


def pad_targets(frames: Sequence[FrameTargets]) -> TeacherTargets:
    """Stack frames, padding with zeros; boxes are as wide as ``BoxBatch.pad`` makes them."""
    batch = {
        f.name: _padded([getattr(frame, f.name) for frame in frames]) for f in fields(frames[0])
    }
    for name, kind in (("anchors", AnchorTargets), ("detections", DetectionTargets)):
        batch[name] = kind(**batch[name]) if batch[name] else None
    return TeacherTargets(**batch)


def _padded(values: Sequence[Any]) -> Any:
    """One field of all frames; of a mapping each entry."""
    first = values[0]
    if first is None:
        return None
    if isinstance(first, FrameTargets):
        return pad_targets(values)
    if isinstance(first, Mapping):
        return {key: _padded([value[key] for value in values]) for key in first}
    if first.numel() and all(value.shape == first.shape for value in values):
        return torch.stack(list(values))
    padded = pad_sequence(list(values), batch_first=True)
    return padded if padded.shape[1] else padded.new_zeros(len(values), 1, *first.shape[1:])


def _cells(row: CachedRow, needs: Needs, grid: BEVGrid, augment: BevAugment) -> Fields:
    index, masks = _index(row, Places.CELLS), {need.mask for need in needs}
    xy = augment.xy(grid.cell_centres(index))
    valid = grid.contains(xy)
    weights = _weights(masks, row, grid, index)
    found = {
        "cells": xy,
        "cell_valid": valid,
        "cell_weight": {mask: weight * valid for mask, weight in weights.items()},
        "at_cells": _at_cells(row, needs, augment),
    }
    if CENTER_HEAD in masks:
        heatmap = center_heatmap(BoxBatch.pad([row.gt]), grid, len(DETECTION_CLASSES))
        found["cell_heatmap"] = (heatmap[0].flatten(1)[:, index] * valid).T
    return found


def _coarse_cells(row: CachedRow, needs: Needs, grid: BEVGrid, augment: BevAugment) -> Fields:
    index = _index(row, Places.COARSE_CELLS)
    xy = augment.xy(grid.coarser.cell_centres(index))
    heatmap = center_heatmap(BoxBatch.pad([row.gt]), grid, len(DETECTION_CLASSES))
    weight = halved(heatmap.sum(1, keepdim=True)).flatten()[index]
    return {
        "coarse_cells": xy,
        "coarse_weight": weight * grid.contains(xy),
        "at_coarse_cells": _at_cells(row, needs, augment),
    }


def _points(row: CachedRow, needs: Needs, grid: BEVGrid, augment: BevAugment) -> Fields:
    targets = sorted({need.target for need in needs})
    return {"at_points": {t: _at_points(row, t, grid, augment) for t in targets}}


def _boxes(row: CachedRow, needs: Needs, grid: BEVGrid, augment: BevAugment) -> Fields:
    """What there is one of for each true box."""
    targets = {need.target for need in needs}
    found: Fields = {}
    if Target.BOXES in targets:
        label = torch.from_numpy(np.asarray(row.arrays["boxes/label"]))
        found |= {
            "boxes": augment.boxes(_composed(row, Places.BOXES)),
            "scores": torch.from_numpy(np.asarray(row.arrays["boxes/score"])),
            "answered": label != NO_BOX,
        }
    if Target.BOX_CODE in targets:
        found |= _codes(row, grid, augment)
    if Target.RELATION in targets:
        relation = torch.from_numpy(row.arrays["boxes/relation"])
        found["relation"] = relation[:, MIRRORED_PAIRS] if augment.mirrors else relation
    return found


def _detections(row: CachedRow, _needs: Needs, _grid: BEVGrid, augment: BevAugment) -> Fields:
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
    detections = {
        "box": augment.boxes(_composed(row, Places.DETECTIONS)),
        "score": part["score"],
        "probability": part["probability"].float(),
        "object": owner,
        "iou": part["iou"],
        "valid": torch.ones(len(owner), dtype=torch.bool),
    }
    return {"detections": detections}


def _maps(row: CachedRow, needs: Needs, _grid: BEVGrid, augment: BevAugment) -> Fields:
    targets = sorted({need.target for need in needs})
    return {"maps": {t: carried_map(torch.from_numpy(row.arrays[t]), t, augment) for t in targets}}


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


def _index(row: CachedRow, places: Places) -> Int64[Tensor, " k"]:
    """The cells whose values the row holds."""
    return torch.from_numpy(row.arrays[places.index_array]).long()


def _at_cells(row: CachedRow, needs: Needs, augment: BevAugment) -> dict[Target, Tensor]:
    """Values (k, channels) at the row's cells by target, whichever coverage the cache has."""
    found = {}
    for target, places in sorted({(need.target, need.places) for need in needs}):
        held = row.arrays.get(array_name(target, places))
        if held is None:
            whole = torch.from_numpy(row.arrays[str(target)])
            values = whole.flatten(1)[:, _index(row, places)].T.contiguous()
        else:
            values = torch.from_numpy(held)
        if target is Target.BOX_CODE and not augment.is_identity:
            size = code_size(values.shape[1])
            codes = values.float().view(len(values), values.shape[1] // size, size)
            values = move_codes(codes, augment).flatten(1)
        found[target] = values
    return found


def _anchors(row: CachedRow, needs: Needs, _grid: BEVGrid, augment: BevAugment) -> Fields:
    """Fields of ``AnchorTargets``. A mirrored anchor is the anchor of the mirrored cell.

    Rotations of anchors are their own mirror images: 0 exactly, 1.57 to within 0.0016 radians.
    """
    config = anchors_of(need.mask for need in needs)
    assert config is not None, "a need at anchors says which"
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
    anchors = {
        "index": index,
        "object": part["object"].long(),
        "box": box,
        "direction": way,
        "score": part["score"],
        "valid": torch.ones(len(index), dtype=torch.bool),
    }
    return {"anchors": anchors}


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
