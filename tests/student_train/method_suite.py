"""Checks every method must pass; a method's test file subclasses this."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from frames.box_code import decode_boxes
from frames.boxes import BoxBatch, Boxes3D
from frames.cell_masks import foreground_cells
from frames.detection_classes import DETECTION_CLASSES
from frames.grid import BEVGrid
from frames.heatmap import center_heatmap
from nets.center_head import CenterMaps, codes_at
from store.schema import Places, Target
from student_train.methods.base import Method, MethodContext, StudentMaps, TeacherTargets

GRID = BEVGrid(x_min=-8.0, y_min=-8.0, cell_size=1.0, shape=(16, 16))
CHANNELS = 4
CLASS_TASK = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
CONTEXT = MethodContext(
    grid=GRID,
    student_channels={Target.BEV_LOW: CHANNELS, Target.BEV_HIGH: CHANNELS},
    teacher_channels={Target.BEV_LOW: CHANNELS, Target.BEV_HIGH: CHANNELS},
    classes=DETECTION_CLASSES,
)


def some_boxes(seed: int, count: int = 3) -> Boxes3D:
    """Boxes on the grid, each in a cell of its own."""
    rng = torch.Generator().manual_seed(seed)
    cells = torch.randperm(GRID.num_cells, generator=rng)[:count]
    xy = GRID.cell_centres(cells) + torch.rand(count, 2, generator=rng) - 0.5
    rest = torch.rand(count, 7, generator=rng) + 0.5
    return Boxes3D(torch.cat([xy, rest], 1), torch.randint(0, 10, (count,), generator=rng))


def some_maps(seed: int, batch: int) -> StudentMaps:
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, 16, 16, generator=rng)

    features = {Target.BEV_LOW: draw(CHANNELS), Target.BEV_HIGH: draw(CHANNELS)}
    code = draw(2, 10)
    # Cached boxes hold an angle, so only a heading of unit length survives the round trip.
    code[:, :, 6:8] = nn.functional.normalize(code[:, :, 6:8], dim=2)
    return StudentMaps(features, CenterMaps(draw(10), code, CLASS_TASK))


def targets_of(maps: StudentMaps, frames: list[Boxes3D]) -> TeacherTargets:
    """What a cache holds if these maps are the teacher's: a slow, frame by frame reading."""
    boxes = BoxBatch.pad(frames)
    index = [foreground_cells(frame, GRID) for frame in frames]
    width = max(1, *(len(cells) for cells in index))
    cells = torch.zeros(len(frames), width, 2)
    weight = torch.zeros(len(frames), width)
    heatmap = center_heatmap(boxes, GRID, 10).amax(1).flatten(1)
    maps_of = {Target.HEATMAP_LOGIT: maps.center.heatmap_logit, **maps.features}
    at_cells = {t: torch.zeros(len(frames), width, m.shape[1]) for t, m in maps_of.items()}
    for b, own in enumerate(index):
        cells[b, : len(own)] = GRID.cell_centres(own)
        weight[b, : len(own)] = heatmap[b, own]
        for target, values in maps_of.items():
            for k, cell in enumerate(own):
                at_cells[target][b, k] = values[b, :, cell // 16, cell % 16]
    cell = GRID.cell_index(boxes.values[..., :2])
    return TeacherTargets(
        boxes=decode_boxes(codes_at(maps.center, boxes.labels, cell), cell, GRID),
        scores=boxes.valid.float(),
        answered=boxes.valid,
        cells=cells,
        cell_weight=weight,
        at_cells=at_cells,
    )


def with_gradient(maps: StudentMaps) -> StudentMaps:
    features = {t: m.clone().requires_grad_() for t, m in maps.features.items()}
    logit = maps.center.heatmap_logit.clone().requires_grad_()
    code = maps.center.box_code.clone().requires_grad_()
    return StudentMaps(features, CenterMaps(logit, code, CLASS_TASK))


def leaves(maps: StudentMaps) -> list[Tensor]:
    return [*maps.features.values(), maps.center.heatmap_logit, maps.center.box_code]


class MethodSuite:
    def build(self) -> Method:
        """The method, its adapters being the identity."""
        raise NotImplementedError

    @pytest.fixture
    def frames(self) -> list[Boxes3D]:
        return [some_boxes(1), some_boxes(2)]

    def total(self, student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch) -> Tensor:
        return torch.stack(list(self.build()(student, targets, boxes).terms.values())).sum()

    def test_a_perfect_student_has_no_loss(self, frames: list[Boxes3D]):
        maps = some_maps(0, 2)
        loss = self.total(maps, targets_of(maps, frames), BoxBatch.pad(frames))
        assert loss.item() == pytest.approx(0, abs=1e-5)

    def test_another_student_has_one(self, frames: list[Boxes3D]):
        targets = targets_of(some_maps(0, 2), frames)
        assert self.total(some_maps(5, 2), targets, BoxBatch.pad(frames)) > 0.01

    def test_no_boxes_gives_zero_and_finite_gradients(self):
        empty = [Boxes3D.empty(), Boxes3D.empty()]
        student = with_gradient(some_maps(3, 2))
        loss = self.total(student, targets_of(some_maps(4, 2), empty), BoxBatch.pad(empty))
        assert loss.item() == 0
        loss.backward()
        assert all(leaf.grad is None or leaf.grad.isfinite().all() for leaf in leaves(student))

    def test_only_the_student_gets_gradient(self, frames: list[Boxes3D]):
        student, teacher = with_gradient(some_maps(3, 2)), with_gradient(some_maps(4, 2))
        self.total(student, targets_of(teacher, frames), BoxBatch.pad(frames)).backward()
        assert any(leaf.grad is not None and leaf.grad.any() for leaf in leaves(student))
        assert all(leaf.grad is None for leaf in leaves(teacher))

    def test_padding_is_ignored(self, frames: list[Boxes3D]):
        student, targets = some_maps(3, 2), targets_of(some_maps(4, 2), frames)
        boxes = BoxBatch.pad(frames)
        wide = BoxBatch(
            torch.cat([boxes.values, torch.ones(2, 4, 9)], 1),
            torch.cat([boxes.labels, torch.ones(2, 4, dtype=torch.int64)], 1),
            torch.cat([boxes.valid, torch.zeros(2, 4, dtype=torch.bool)], 1),
        )

        def more(value: Tensor | None, fill: float) -> Tensor:
            assert value is not None
            return torch.cat([value, value.new_full((2, 4, *value.shape[2:]), fill)], 1)

        padded = replace(
            targets,
            boxes=more(targets.boxes, 7.0),
            scores=more(targets.scores, 1.0),
            answered=more(targets.answered, 1.0),
            cells=more(targets.cells, 0.5),
            cell_weight=more(targets.cell_weight, 0.0),
            at_cells={t: more(v, 9.0) for t, v in targets.at_cells.items()},
        )
        assert self.total(student, padded, wide).item() == pytest.approx(
            self.total(student, targets, boxes).item(), rel=1e-5
        )

    def test_a_batch_is_the_mean_of_its_frames(self, frames: list[Boxes3D]):
        student, teacher = some_maps(3, 2), some_maps(4, 2)

        def one(maps: StudentMaps, b: int) -> StudentMaps:
            features = {t: m[b : b + 1] for t, m in maps.features.items()}
            head = maps.center
            return StudentMaps(
                features,
                CenterMaps(head.heatmap_logit[b : b + 1], head.box_code[b : b + 1], CLASS_TASK),
            )

        singles = [
            self.total(
                one(student, b),
                targets_of(one(teacher, b), [frames[b]]),
                BoxBatch.pad([frames[b]]),
            ).item()
            for b in range(2)
        ]
        both = self.total(student, targets_of(teacher, frames), BoxBatch.pad(frames)).item()
        # Both frames have as many boxes, so a mean over objects is the mean over frames.
        assert both == pytest.approx(sum(singles) / 2, rel=1e-4)

    def test_it_reads_exactly_what_it_declares(self, frames: list[Boxes3D]):
        method = self.build()
        needs = method.needs(method.config, None)
        targets = targets_of(some_maps(4, 2), frames)
        at_cells = {need.target for need in needs if need.places is Places.CELLS}
        boxes = any(need.target is Target.BOXES for need in needs)
        declared = TeacherTargets(
            boxes=targets.boxes if boxes else None,
            scores=targets.scores if boxes else None,
            answered=targets.answered if boxes else None,
            cells=targets.cells if at_cells else None,
            cell_weight=targets.cell_weight if at_cells else None,
            at_cells={t: v for t, v in targets.at_cells.items() if t in at_cells},
        )
        student = some_maps(3, 2)
        assert self.total(student, declared, BoxBatch.pad(frames)) == self.total(
            student, targets, BoxBatch.pad(frames)
        )
