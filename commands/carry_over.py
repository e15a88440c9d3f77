"""The error of carrying canonical targets into augmented frames, against a run of the teacher.

The carried targets are made by the very code that students train with.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from frames.augment import BevAugment
from frames.box_code import (
    CODE_SIZE,
    CODE_VELOCITY,
    HEIGHT,
    LOG_SIZE,
    OFFSET,
    SIN_COS,
    code_size,
)
from frames.boxes import CENTRE, SIZE, VELOCITY, YAW
from frames.cell_masks import AnchorMask, anchors_of
from frames.frame import Frame
from frames.grid import BEVGrid
from nets.read_at import read_at
from store.choices import Coverage
from store.plan import HALF_RESOLUTION, array_name, plan_arrays
from store.reader import Cache
from store.rows import CachedRow
from store.schema import Need, Places, Target
from student_train.targets import FrameTargets, frame_targets
from teacher_dump.protocol import Teacher
from teacher_dump.teacher_rows import teacher_rows

# What is carried and what the teacher says, at the same places: (places, numbers) each.
Pairs = dict[str, tuple[Tensor, Tensor]]
_CODE_PARTS = {
    "offset": OFFSET,
    "height": HEIGHT,
    "log_size": LOG_SIZE,
    "heading": SIN_COS,
    "velocity": CODE_VELOCITY,
    "iou": slice(CODE_SIZE, None),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CarryGap:
    """How far one carried target is from the teacher's own, on average over augmented frames.

    Attributes:
        target: A map at the foreground cells or at the boxes' points, or a part of the box codes
            there or of the boxes: ``boxes/centre`` is the offset from the true centre,
            ``boxes/heading`` the unit vector of the yaw.
        frames: Augmented frames that have a place.
        relative_l2: ``|carried - own| / |own|`` over all places of a frame.
        cosine: Between the two, over all places of a frame.
        mean_abs: Mean absolute difference, in the target's own unit.
    """

    target: str
    frames: int
    relative_l2: float
    cosine: float
    mean_abs: float


def measure_carry_over(
    teacher: Teacher,
    cache: Cache,
    shown: Sequence[tuple[Frame, BevAugment]],
    on_frames: Callable[[int], None] = lambda _frames: None,
) -> list[CarryGap]:
    """Run the teacher on augmented frames and compare with the store's targets, carried there.

    Args:
        teacher: The store's own.
        cache: A canonical store.
        shown: Some of its frames, each with an augmentation.
        on_frames: Told how many more are done.

    Raises:
        CacheError: A row is damaged.
        DataError: A frame's file is missing or damaged.
    """
    found: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for frame, augment in shown:
        for name, (carried, own) in _pairs(teacher, cache, frame, augment).items():
            if len(own):
                found[name].append(_compare(carried, own))
        on_frames(1)
    means = {name: np.mean(samples, axis=0).tolist() for name, samples in found.items()}
    return [
        CarryGap(target=name, frames=len(found[name]), relative_l2=l2, cosine=cos, mean_abs=gap)
        for name, (l2, cos, gap) in means.items()
    ]


def _pairs(teacher: Teacher, cache: Cache, frame: Frame, augment: BevAugment) -> Pairs:
    needs, grid = _held(cache), cache.fingerprint.grid
    carried = frame_targets(cache[frame.token], needs, grid, augment)
    arrays = plan_arrays(needs, Coverage.DENSE, teacher.info.shapes)
    (now,) = teacher_rows(teacher, [frame], arrays, cache.fingerprint.masks, [augment])
    row = CachedRow(token=frame.token, view=0, augment=augment, gt=now.gt, arrays=now.arrays)
    own = frame_targets(row, needs, grid, BevAugment.identity())
    pairs = _cell_pairs(carried.cells, carried.at_cells, row, grid)
    pairs |= _cell_pairs(carried.coarse_cells, carried.at_coarse_cells, row, grid)
    pairs |= {
        array_name(target, Places.POINTS): (values.float(), own.at_points[target].float())
        for target, values in carried.at_points.items()
    }
    if carried.relation is not None and own.relation is not None:
        pairs["boxes/relation"] = (carried.relation, own.relation)
    if carried.codes is not None and own.codes is not None:
        assert carried.coded is not None, "it comes with the codes"
        assert own.coded is not None, "it comes with the codes"
        both = carried.coded & own.coded
        pairs["boxes/box_code"] = (carried.codes[both], own.codes[both])
    if carried.detections:
        pairs |= _detection_pairs(carried.detections, own.detections, now.gt.values)
    if carried.anchors:
        pairs |= _anchor_pairs(carried.anchors, own.anchors, now.gt.values)
    return pairs | _box_pairs(carried, own, now.gt.values)


def _cell_pairs(
    cells: Tensor | None, at_cells: Mapping[Target, Tensor], now: CachedRow, grid: BEVGrid
) -> Pairs:
    """Carried values, and the teacher's whole maps of the augmented frame where these have gone."""
    if cells is None:
        return {}
    on_grid, points = grid.contains(cells), grid.to_unit(cells)[None]
    pairs: Pairs = {}
    for target, values in at_cells.items():
        at_same = read_at(torch.from_numpy(now.arrays[str(target)])[None], points)[0]
        pair = values[on_grid].float(), at_same[on_grid]
        pairs |= _code_pairs(*pair) if target is Target.BOX_CODE else {str(target): pair}
    return pairs


def _held(cache: Cache) -> list[Need]:
    """What students may read of the cache."""
    held = {spec.name for spec in cache.fingerprint.arrays}
    needs = [Need(Target.BOXES, Places.BOXES)] if "boxes/centre" in held else []
    if f"{Places.DETECTIONS}/centre" in held:
        needs.append(Need(Target.DETECTIONS, Places.DETECTIONS))
    needs += [Need(Target.RELATION, Places.BOXES)] if "boxes/relation" in held else []
    if anchors := anchors_of(cache.fingerprint.masks):
        needs.append(Need(Target.ANCHORS, Places.ANCHORS, mask=AnchorMask(anchors=anchors)))
    if array_name(Target.BOX_CODE, Places.BOXES) in held:
        needs.append(Need(Target.BOX_CODE, Places.BOXES))
    for target in Target:
        if array_name(target, Places.POINTS) in held:
            needs.append(Need(target, Places.POINTS))
        cells = Places.COARSE_CELLS if target in HALF_RESOLUTION else Places.CELLS
        whole = array_name(target, Places.MAP) in held and cells.index_array in held
        if whole or array_name(target, cells) in held:
            needs.append(Need(target, cells))
    return needs


def _code_pairs(carried: Float[Tensor, "k c"], own: Float[Tensor, "k c"]) -> Pairs:
    """Parts of all tasks' box codes."""
    size = code_size(own.shape[1])
    a, b = (code.reshape(-1, size) for code in (carried, own))
    parts = {f"{Target.BOX_CODE}/{n}": (a[:, at], b[:, at]) for n, at in _CODE_PARTS.items()}
    return {name: pair for name, pair in parts.items() if pair[0].shape[1]}


def _anchor_pairs(
    carried: Mapping[str, Tensor], own: Mapping[str, Tensor], truth: Float32[Tensor, "m 9"]
) -> Pairs:
    """Parts of the boxes at the anchors that are positive before and after."""
    both, before, after = np.intersect1d(carried["index"], own["index"], return_indices=True)
    if not len(both):
        return {}
    (a, b), objects = (carried["box"][before], own["box"][after]), truth[own["object"][after]]
    # Half a turn makes no difference before the direction classifier.
    heading = [torch.stack([(2 * x[:, 6]).cos(), (2 * x[:, 6]).sin()], 1) for x in (a, b)]
    return {
        "anchors/centre": (a[:, CENTRE] - objects[:, CENTRE], b[:, CENTRE] - objects[:, CENTRE]),
        "anchors/size": (a[:, SIZE], b[:, SIZE]),
        "anchors/heading": (heading[0], heading[1]),
        "anchors/score": (carried["score"][before][:, None], own["score"][after][:, None]),
    }


def _detection_pairs(
    carried: Mapping[str, Tensor], own: Mapping[str, Tensor], truth: Float32[Tensor, "m 9"]
) -> Pairs:
    """Parts of the best detections of the objects that are found before and after."""
    before, after = (_first_of_objects(found["object"]) for found in (carried, own))
    both = sorted(before.keys() & after.keys())
    if not both:
        return {}
    objects = truth[both]
    a, b = (
        {name: values[[first[m] for m in both]] for name, values in found.items()}
        for found, first in ((carried, before), (own, after))
    )
    parts, now = (_parts(found["box"], objects) for found in (a, b))
    pairs = {name: (parts[name], now[name]) for name in parts}
    pairs |= {name: (a[name][:, None], b[name][:, None]) for name in ("score", "iou")}
    return {f"{Places.DETECTIONS}/{name}": pair for name, pair in pairs.items()}


def _first_of_objects(owners: Tensor) -> dict[int, int]:
    """Of each object the first detection, which scores best."""
    first: dict[int, int] = {}
    for k, owner in enumerate(owners.tolist()):
        if owner >= 0:
            first.setdefault(owner, k)
    return first


def _box_pairs(carried: FrameTargets, own: FrameTargets, truth: Float32[Tensor, "m 9"]) -> Pairs:
    """Parts of the boxes that the teacher gives before and after."""
    if carried.answered is None or own.answered is None:
        return {}
    both = carried.answered & own.answered
    (before, score), (after, score_now) = (
        (_parts(_given(found.boxes), truth), _given(found.scores)) for found in (carried, own)
    )
    parts = {f"boxes/{name}": (before[name][both], after[name][both]) for name in before}
    return parts | {"boxes/score": (score[both][:, None], score_now[both][:, None])}


def _given(values: Tensor | None) -> Tensor:
    assert values is not None, "answered comes with boxes and scores"
    return values


def _parts(boxes: Float[Tensor, "n 9"], truth: Float[Tensor, "n 9"]) -> dict[str, Tensor]:
    yaw = boxes[:, YAW]
    return {
        # Else the distance to the car would make any error look small.
        "centre": boxes[:, CENTRE] - truth[:, CENTRE],
        "size": boxes[:, SIZE],
        "heading": torch.stack([yaw.cos(), yaw.sin()], dim=1),
        "velocity": boxes[:, VELOCITY],
    }


def _compare(carried: Tensor, own: Tensor) -> tuple[float, float, float]:
    a, b = carried.double().flatten(), own.double().flatten()
    gap = a - b
    tiny = 1e-12
    return (
        float(gap.norm() / b.norm().clamp(min=tiny)),
        float(a @ b / (a.norm() * b.norm()).clamp(min=tiny)),
        float(gap.abs().mean()),
    )
