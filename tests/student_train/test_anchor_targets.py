"""A teacher's anchors through rows and back: as they are, and mirrored by index."""

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from frames.anchor_code import decode_at_anchors
from frames.augment import BevAugment
from frames.boxes import BoxBatch, Boxes3D
from frames.cell_masks import AnchorMask, FootprintMask
from frames.detection_classes import KITTI_CLASSES
from frames.detections import Detections
from frames.errors import DataError
from frames.frame import Frame
from frames.geometry import SE3
from nets.anchor_loss import direction
from store.choices import Coverage
from store.fingerprint import TeacherIdentity
from store.plan import TeacherShapes, masks_of, plan_arrays
from store.rows import CachedRow
from store.schema import Need, Places, Target
from student_train.methods.base import StudentMaps, TeacherTargets
from student_train.targets import frame_targets, pad_targets
from teacher_dump.protocol import AnchorOutput, TeacherInfo, TeacherOutput
from teacher_dump.teacher_rows import teacher_rows
from tests.student_train.anchor_suite import (
    ANCHORS,
    GRID,
    HIGH,
    LOW,
    TABLE,
    mirrored,
    some_anchor_maps,
    some_objects,
    targets_of,
)

FLIP = BevAugment.compose(flip_y=True)
POSITIVE = AnchorMask(anchors=ANCHORS)
NEEDS = frozenset(
    {
        Need(Target.ANCHORS, Places.ANCHORS, mask=POSITIVE),
        Need(Target.ANCHOR_LOGIT, Places.CELLS, "float32", mask=POSITIVE),
        Need(Target.BEV_LOW, Places.CELLS, "float32", mask=FootprintMask(margin=0.5)),
        Need(Target.BEV_HIGH, Places.MAP, "float32"),
    }
)


def frame_of(boxes: Boxes3D) -> Frame:
    return Frame(
        token="t",
        scene="s",
        timestamp_us=0,
        global_from_ego=SE3.identity(),
        cameras=(),
        sweeps=(),
        boxes=boxes,
        prev="",
        next="",
    )


class Said:
    """A teacher whose maps are given."""

    def __init__(self, maps: StudentMaps) -> None:
        self.maps = maps
        further = {Target.ANCHOR_LOGIT: 18}
        shapes = TeacherShapes(
            bev_low=LOW, bev_high=HIGH, classes=3, tasks=0, grid=GRID, further=further
        )
        self.info = TeacherInfo(
            identity=TeacherIdentity(
                name="said", kind="lidar", checkpoint_sha256="0" * 64, config={}
            ),
            shapes=shapes,
            classes=KITTI_CLASSES,
            sweeps=1,
            anchors=ANCHORS,
        )

    def __call__(
        self, frames: Sequence[Frame], boxes: BoxBatch, augments: Sequence[BevAugment]
    ) -> TeacherOutput:
        assert len(frames) == len(augments) == 1
        head = self.maps.anchors
        box = decode_at_anchors(head.code, TABLE.expand_as(head.code))
        return TeacherOutput(
            maps=self.maps.features,
            boxes=boxes.values,
            scores=boxes.valid.float(),
            labels=boxes.labels,
            answered=boxes.valid,
            anchors=AnchorOutput(logit=head.logit, box=box, direction=direction(box[..., 6])),
        )

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        raise NotImplementedError(f"{len(frames)} frames: not asked for here")


def row_of(maps: StudentMaps, boxes: Boxes3D) -> CachedRow:
    teacher = Said(maps)
    arrays = plan_arrays(NEEDS, Coverage.FOREGROUND, teacher.info.shapes)
    (values,) = teacher_rows(teacher, [frame_of(boxes)], arrays, masks_of(NEEDS))
    identity = BevAugment.identity()
    return CachedRow(token="t", view=0, augment=identity, gt=boxes, arrays=values.arrays)


def by_place(targets: TeacherTargets) -> dict[str, Tensor]:
    """Fields in the order of anchors and of cells, whichever way they came."""
    given = targets.anchors
    assert given is not None
    assert targets.cells is not None
    order = given.index[0].argsort()
    found = {f.name: getattr(given, f.name)[0, order] for f in fields(given)}
    cell = GRID.cell_index(targets.cells)[0]
    ascending = cell.argsort()
    found["cell"] = cell[ascending]
    for target in (Target.ANCHOR_LOGIT, Target.BEV_LOW):
        found[str(target)] = targets.at_cells[target][0, ascending]
    found["map"] = targets.maps[Target.BEV_HIGH][0]
    return found


def same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    for name, value in expected.items():
        if name == "direction":
            continue
        # Half a turn is nothing to a box before its direction is known; whole turns never are.
        gap = found[name].double() - value.double()
        if name == "box":
            gap[:, 6] = gap[:, 6].sin()
        assert gap.abs().max() <= tolerance, name


@pytest.mark.parametrize("seed", range(3))
def test_a_row_gives_what_the_teacher_said(seed: int):
    maps, boxes = some_anchor_maps(seed, 1), some_objects(seed)
    row = row_of(maps, boxes)
    found = by_place(pad_targets([frame_targets(row, NEEDS, GRID, BevAugment.identity())]))
    same(found, by_place(targets_of(maps, [boxes])), 1e-6)
    assert (found["direction"] == direction(found["box"][:, 6])).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_mirrored_row_is_what_the_mirrored_teacher_says(seed: int):
    maps, boxes = some_anchor_maps(seed, 1), some_objects(seed)
    other = FLIP.boxes3d(boxes)
    found = by_place(pad_targets([frame_targets(row_of(maps, boxes), NEEDS, GRID, FLIP)]))
    # Anchors turned by 1.57 are their own mirror images but for 0.0016 radians.
    same(found, by_place(targets_of(mirrored(maps), [other])), 2e-3)


def test_mirroring_keeps_the_heading_that_the_direction_chose():
    row = row_of(some_anchor_maps(0, 1), some_objects(0))
    box, way = row.arrays["anchors/box"], row.arrays["anchors/direction"]
    box[:3, 6], way[:3] = [0.2, 0.2, -1.0], [0, 1, 1]
    found = frame_targets(row, NEEDS, GRID, FLIP).anchors
    # The half turn from 0.78539 holds 0.2 + pi; the other one 0.2 + 2 pi and -1 + 2 pi.
    headings = torch.tensor([0.2 + np.pi, 0.2, -1.0])
    turned = torch.remainder(-headings - 0.78539, 2 * np.pi)
    assert found["direction"][:3].tolist() == (turned >= np.pi).long().tolist()


def test_twice_mirrored_is_as_it_was():
    row = row_of(some_anchor_maps(1, 1), some_objects(1))
    once = frame_targets(row, NEEDS, GRID, FLIP).anchors
    arrays = row.arrays | {
        "anchors/index": once["index"].numpy().astype(np.int32),
        "anchors/box": once["box"].numpy(),
        "anchors/direction": once["direction"].numpy().astype(np.uint8),
    }
    mirrored_row = replace(row, arrays=arrays)
    twice = frame_targets(mirrored_row, NEEDS, GRID, FLIP).anchors
    assert twice["index"].tolist() == row.arrays["anchors/index"].tolist()
    assert twice["direction"].tolist() == row.arrays["anchors/direction"].tolist()


def test_what_cannot_be_carried_is_refused():
    row = row_of(some_anchor_maps(1, 1), some_objects(1))
    with pytest.raises(DataError, match="can be carried over to a flip along y alone"):
        frame_targets(row, NEEDS, GRID, BevAugment.compose(yaw=0.1))


def test_an_anchor_of_no_object_is_refused():
    row = row_of(some_anchor_maps(1, 1), some_objects(1))
    row.arrays["anchors/object"][0] = 3
    with pytest.raises(DataError, match="an anchor answers for box 3 of 3"):
        frame_targets(row, NEEDS, GRID, BevAugment.identity())
