"""Checks every method on an anchor head must pass; a method's test file subclasses this."""

from dataclasses import fields, replace
from functools import cache

import pytest
import torch
from torch import Tensor

from frames.anchor_assign import positive_anchors
from frames.anchor_code import decode_at_anchors
from frames.anchors import KITTI_ANCHORS, AnchorConfig
from frames.boxes import BoxBatch, Boxes3D
from frames.cell_masks import AnchorMask, FootprintMask, foreground_cells
from frames.detection_classes import KITTI_CLASSES
from frames.grid import BEVGrid
from nets.anchor_head import AnchorMaps
from store.schema import Places, Target
from student_train.methods.base import (
    AnchorTargets,
    Method,
    MethodContext,
    StudentMaps,
    TeacherTargets,
)

GRID = BEVGrid(x_min=2.0, y_min=-8.0, cell_size=1.0, shape=(16, 16))
ANCHORS = AnchorConfig(grid=GRID)
TABLE = ANCHORS.boxes()
HEIGHTS, LOW, HIGH = 2, 4, 3
CONTEXT = MethodContext(
    grid=GRID,
    student_channels={Target.BEV_LOW: LOW, Target.BEV_HIGH: HIGH},
    teacher_channels={Target.BEV_LOW: LOW, Target.BEV_HIGH: HIGH},
    classes=KITTI_CLASSES,
    anchors=ANCHORS,
)


@cache
def some_objects(seed: int) -> Boxes3D:
    """Two cars and a cyclist, apart from each other: 21 positive anchors, or so, a frame."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.tensor([0, 0, 2])
    size = torch.tensor([kind.size for kind in KITTI_ANCHORS])[labels]
    place = torch.tensor([[5.0, -5, -1], [12, 0, -1], [7, 5, 0]])
    place = place + torch.rand(3, 3, generator=rng)
    yaw = torch.rand(3, 1, generator=rng) * 6 - 3
    return Boxes3D(torch.cat([place, size, yaw, torch.zeros(3, 2)], 1), labels)


def some_anchor_maps(seed: int, batch: int) -> StudentMaps:
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=rng)

    features = {Target.BEV_LOW: draw(LOW, 16, 16), Target.BEV_HIGH: draw(HIGH, 16, 16)}
    count = ANCHORS.count
    return StudentMaps(features, AnchorMaps(draw(count, 3), 0.2 * draw(count, 7), draw(count, 2)))


def targets_of(maps: StudentMaps, frames: list[Boxes3D]) -> TeacherTargets:
    """What a cache holds if these maps are the teacher's: a slow, frame by frame reading."""
    masks = (AnchorMask(anchors=ANCHORS), FootprintMask(margin=0.5))
    found = [positive_anchors(ANCHORS, frame) for frame in frames]
    cells = [foreground_cells(frame, GRID, masks) for frame in frames]
    n, k = (max(1, *(len(own) for own in of)) for of in ([i for i, _ in found], cells))
    b = len(frames)
    anchors = AnchorTargets(
        index=torch.zeros(b, n, dtype=torch.int64),
        object=torch.zeros(b, n, dtype=torch.int64),
        box=torch.zeros(b, n, 7),
        direction=torch.zeros(b, n, dtype=torch.int64),
        score=torch.zeros(b, n),
        valid=torch.zeros(b, n, dtype=torch.bool),
    )
    boxes = BoxBatch.pad(frames)
    width = boxes.labels.shape[1]
    best, score = torch.zeros(b, width, 9), torch.zeros(b, width)
    at = {Target.ANCHOR_LOGIT: 18, Target.BEV_LOW: LOW, Target.BEV_HIGH: HIGH}
    at_cells = {target: torch.zeros(b, k, channels) for target, channels in at.items()}
    xy, valid = torch.zeros(b, k, 2), torch.zeros(b, k, dtype=torch.bool)
    said = decode_at_anchors(maps.anchors.code, TABLE.expand(b, -1, -1))
    for f in range(b):
        for i, (index, owner) in enumerate(zip(*found[f], strict=True)):
            label = frames[f].labels[owner]
            own = maps.anchors.logit[f, index, label].sigmoid()
            anchors.index[f, i], anchors.object[f, i] = index, owner
            anchors.box[f, i], anchors.score[f, i] = said[f, index], own
            anchors.valid[f, i] = True
            if own > score[f, owner]:
                best[f, owner, :7], score[f, owner] = said[f, index], own
        for i, cell in enumerate(cells[f].tolist()):
            xy[f, i], valid[f, i] = GRID.cell_centres(torch.tensor(cell)), True
            logits = maps.anchors.logit[f].view(256, 18)[cell]
            at_cells[Target.ANCHOR_LOGIT][f, i] = logits
            for target, values in maps.features.items():
                at_cells[target][f, i] = values[f, :, cell // 16, cell % 16]
    whole = maps.anchors.logit.view(b, 16, 16, 18).movedim(3, 1)
    return TeacherTargets(
        boxes=best,
        scores=score,
        answered=boxes.valid,
        cells=xy,
        cell_valid=valid,
        at_cells=at_cells,
        anchors=anchors,
        maps={Target.ANCHOR_LOGIT: whole, **maps.features},
    )


def with_gradient(maps: StudentMaps) -> StudentMaps:
    features = {t: m.clone().requires_grad_() for t, m in maps.features.items()}
    head = maps.anchors
    return StudentMaps(
        features,
        AnchorMaps(*(getattr(head, f.name).clone().requires_grad_() for f in fields(head))),
    )


def leaves(maps: StudentMaps) -> list[Tensor]:
    head = maps.anchors
    return [*maps.features.values(), head.logit, head.code, head.direction]


def one_frame(maps: StudentMaps, b: int) -> StudentMaps:
    features = {t: m[b : b + 1] for t, m in maps.features.items()}
    head = maps.anchors
    return StudentMaps(
        features, AnchorMaps(*(getattr(head, f.name)[b : b + 1] for f in fields(head)))
    )


def mirrored(maps: StudentMaps) -> StudentMaps:
    """The maps of the mirrored scene: rows reversed, y and heading of the codes negated."""
    head = maps.anchors
    sign = torch.tensor([1.0, -1, 1, 1, 1, 1, -1])

    def rows(values: Tensor) -> Tensor:
        table = values.view(len(values), 16, 16, 6, -1)
        return table.flip(1).reshape(values.shape)

    return StudentMaps(
        {t: m.flip(2) for t, m in maps.features.items()},
        AnchorMaps(rows(head.logit), rows(head.code) * sign, rows(head.direction)),
    )


class AnchorSuite:
    def build(self) -> Method:
        """The method, its adapters being the identity."""
        raise NotImplementedError

    @pytest.fixture
    def frames(self) -> list[Boxes3D]:
        return [some_objects(1), some_objects(2)]

    def total(self, student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch) -> Tensor:
        return torch.stack(list(self.build()(student, targets, boxes).terms.values())).sum()

    def test_a_perfect_student_is_at_the_minimum(self, frames: list[Boxes3D]):
        maps, boxes = some_anchor_maps(0, 2), BoxBatch.pad(frames)
        targets = targets_of(maps, frames)
        student = with_gradient(maps)
        loss = self.total(student, targets, boxes)
        assert loss.item() == pytest.approx(0, abs=1e-4)
        loss.backward()
        gradients = [leaf.grad for leaf in leaves(student) if leaf.grad is not None]
        assert all(gradient.abs().max() < 2e-3 for gradient in gradients)

    def test_another_student_has_a_loss(self, frames: list[Boxes3D]):
        targets = targets_of(some_anchor_maps(0, 2), frames)
        assert self.total(some_anchor_maps(5, 2), targets, BoxBatch.pad(frames)) > 0.01

    def test_no_boxes_gives_zero_and_finite_gradients(self):
        empty = [Boxes3D.empty(), Boxes3D.empty()]
        student = with_gradient(some_anchor_maps(3, 2))
        loss = self.total(student, targets_of(some_anchor_maps(4, 2), empty), BoxBatch.pad(empty))
        assert loss.item() == 0
        loss.backward()
        assert all(leaf.grad is None or leaf.grad.isfinite().all() for leaf in leaves(student))

    def test_only_the_student_gets_gradient(self, frames: list[Boxes3D]):
        student, teacher = (with_gradient(some_anchor_maps(seed, 2)) for seed in (3, 4))
        self.total(student, targets_of(teacher, frames), BoxBatch.pad(frames)).backward()
        assert any(leaf.grad is not None and leaf.grad.any() for leaf in leaves(student))
        assert all(leaf.grad is None for leaf in leaves(teacher))

    def test_padding_is_ignored(self, frames: list[Boxes3D]):
        student, targets = some_anchor_maps(3, 2), targets_of(some_anchor_maps(4, 2), frames)
        boxes = BoxBatch.pad(frames)
        wide = BoxBatch(
            torch.cat([boxes.values, torch.ones(2, 4, 9)], 1),
            torch.cat([boxes.labels, torch.ones(2, 4, dtype=torch.int64)], 1),
            torch.cat([boxes.valid, torch.zeros(2, 4, dtype=torch.bool)], 1),
        )

        def more(value: Tensor | None, fill: float) -> Tensor:
            assert value is not None
            return torch.cat([value, value.new_full((2, 4, *value.shape[2:]), fill)], 1)

        assert targets.anchors is not None
        filled = {f.name: more(getattr(targets.anchors, f.name), 1) for f in fields(AnchorTargets)}
        filled["valid"] = more(targets.anchors.valid, 0)
        padded = replace(
            targets,
            boxes=more(targets.boxes, 7.0),
            scores=more(targets.scores, 1.0),
            answered=more(targets.answered, 1.0),
            cells=more(targets.cells, 8.5),
            cell_valid=more(targets.cell_valid, 0),
            at_cells={t: more(v, 9.0) for t, v in targets.at_cells.items()},
            anchors=AnchorTargets(**filled),
        )
        assert self.total(student, padded, wide).item() == pytest.approx(
            self.total(student, targets, boxes).item(), rel=1e-5
        )

    def test_a_batch_of_equal_frames_is_each_of_them(self, frames: list[Boxes3D]):
        student, teacher = some_anchor_maps(3, 1), some_anchor_maps(4, 1)
        boxes = frames[:1]
        single = self.total(student, targets_of(teacher, boxes), BoxBatch.pad(boxes)).item()

        def twice(maps: StudentMaps) -> StudentMaps:
            head = maps.anchors
            return StudentMaps(
                {t: torch.cat([m, m]) for t, m in maps.features.items()},
                AnchorMaps(*(torch.cat([getattr(head, f.name)] * 2) for f in fields(head))),
            )

        both = self.total(
            twice(student), targets_of(twice(teacher), boxes * 2), BoxBatch.pad(boxes * 2)
        ).item()
        assert both == pytest.approx(single, rel=1e-4)

    def test_mirrored_inputs_have_the_same_loss(self, frames: list[Boxes3D]):
        student, teacher = some_anchor_maps(3, 2), some_anchor_maps(4, 2)
        sign = torch.tensor([1.0, -1, 1, 1, 1, 1, -1, 1, -1])
        others = [Boxes3D(frame.values * sign, frame.labels) for frame in frames]
        here = self.total(student, targets_of(teacher, frames), BoxBatch.pad(frames))
        there = self.total(
            mirrored(student), targets_of(mirrored(teacher), others), BoxBatch.pad(others)
        )
        # An anchor turned by 1.57 is its own mirror image but for 0.0016 radians.
        assert there.item() == pytest.approx(here.item(), rel=2e-3)

    def test_it_reads_exactly_what_it_declares(self, frames: list[Boxes3D]):
        method = self.build()
        needs = method.needs(method.config, ANCHORS)
        targets = targets_of(some_anchor_maps(4, 2), frames)
        kinds: dict[Places, set[Target]] = {places: set() for places in Places}
        for need in needs:
            kinds[need.places].add(need.target)
        boxes, at_cells = bool(kinds[Places.BOXES]), kinds[Places.CELLS]
        declared = TeacherTargets(
            boxes=targets.boxes if boxes else None,
            scores=targets.scores if boxes else None,
            answered=targets.answered if boxes else None,
            cells=targets.cells if at_cells else None,
            cell_valid=targets.cell_valid if at_cells else None,
            at_cells={t: v for t, v in targets.at_cells.items() if t in at_cells},
            anchors=targets.anchors if kinds[Places.ANCHORS] else None,
            maps={t: v for t, v in targets.maps.items() if t in kinds[Places.MAP]},
        )
        student = some_anchor_maps(3, 2)
        padded = BoxBatch.pad(frames)
        # A method may be given more than it asks for, as where it shares a cache.
        given = replace(targets, maps=declared.maps)
        assert self.total(student, declared, padded) == self.total(student, given, padded)
