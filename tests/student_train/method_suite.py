"""Checks every method must pass; a method's test file subclasses this."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from frames.box_code import decode_boxes
from frames.boxes import BoxBatch, Boxes3D
from frames.cell_masks import CellMask, at_origin, foreground_cells
from frames.detection_classes import DETECTION_CLASSES
from frames.grid import BEVGrid
from frames.heatmap import CENTER_HEAD, GaussianMask, center_heatmap
from nets.box_features import at_box_points, relation
from nets.center_head import CenterMaps, codes_at
from store.plan import masks_of
from store.schema import Places, Target
from student_train.methods.base import Method, MethodContext, StudentMaps, TeacherTargets

GRID = BEVGrid(x_min=-8.0, y_min=-8.0, cell_size=1.0, shape=(16, 16))
CHANNELS = 4
CLASS_TASK = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
CONTEXT = MethodContext(
    grid=GRID,
    student_channels={Target.BEV_LOW: CHANNELS, Target.BEV_HIGH: CHANNELS, Target.BOX_CODE: 20},
    teacher_channels={Target.BEV_LOW: CHANNELS, Target.BEV_HIGH: CHANNELS, Target.BOX_CODE: 20},
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


def targets_of(
    maps: StudentMaps,
    frames: list[Boxes3D],
    masks: tuple[CellMask, ...] = (CENTER_HEAD,),
    grid: BEVGrid = GRID,
) -> TeacherTargets:
    """What a cache holds if these maps are the teacher's: a slow, frame by frame reading."""
    boxes = BoxBatch.pad(frames)
    index = [foreground_cells(frame, grid, masks) for frame in frames]
    width = max(1, *(len(cells) for cells in index))
    cells = torch.zeros(len(frames), width, 2)
    weight = {mask: torch.zeros(len(frames), width) for mask in masks}
    weights = {
        mask: center_heatmap(boxes, grid, 10, mask).amax(1).flatten(1)
        if isinstance(mask, GaussianMask)
        else at_origin(torch.arange(grid.num_cells), grid).float().expand(len(frames), -1)
        for mask in masks
    }
    maps_of = {
        Target.HEATMAP_LOGIT: maps.center.heatmap_logit,
        Target.BOX_CODE: maps.center.box_code.flatten(1, 2),
        **maps.features,
    }
    at_cells = {t: torch.zeros(len(frames), width, m.shape[1]) for t, m in maps_of.items()}
    for b, own in enumerate(index):
        cells[b, : len(own)] = grid.cell_centres(own)
        for mask in masks:
            weight[mask][b, : len(own)] = weights[mask][b, own]
        for target, values in maps_of.items():
            for k, cell in enumerate(own):
                at_cells[target][b, k] = values[b, :, cell // grid.shape[1], cell % grid.shape[1]]
    cell = grid.cell_index(boxes.values[..., :2])
    at_points = {t: at_box_points(m, boxes.values, grid) for t, m in maps.features.items()}
    return TeacherTargets(
        boxes=decode_boxes(codes_at(maps.center, boxes.labels, cell), cell, grid),
        scores=boxes.valid.float(),
        answered=boxes.valid,
        cells=cells,
        cell_weight=weight,
        at_cells=at_cells,
        at_points=at_points,
        relation=relation(at_points[Target.BEV_HIGH]),
        maps=maps.features,
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

    def targets(self, maps: StudentMaps, frames: list[Boxes3D]) -> TeacherTargets:
        method = self.build()
        return targets_of(maps, frames, masks_of(method.needs(method.config, None)))

    def total(self, student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch) -> Tensor:
        return torch.stack(list(self.build()(student, targets, boxes).terms.values())).sum()

    def test_a_perfect_student_has_no_loss(self, frames: list[Boxes3D]):
        maps = some_maps(0, 2)
        loss = self.total(maps, self.targets(maps, frames), BoxBatch.pad(frames))
        assert loss.item() == pytest.approx(0, abs=1e-5)

    def test_another_student_has_one(self, frames: list[Boxes3D]):
        targets = self.targets(some_maps(0, 2), frames)
        assert self.total(some_maps(5, 2), targets, BoxBatch.pad(frames)) > 0.01

    def test_no_boxes_gives_zero_and_finite_gradients(self):
        empty = [Boxes3D.empty(), Boxes3D.empty()]
        student = with_gradient(some_maps(3, 2))
        loss = self.total(student, self.targets(some_maps(4, 2), empty), BoxBatch.pad(empty))
        assert loss.item() == 0
        loss.backward()
        assert all(leaf.grad is None or leaf.grad.isfinite().all() for leaf in leaves(student))

    def test_only_the_student_gets_gradient(self, frames: list[Boxes3D]):
        student, teacher = with_gradient(some_maps(3, 2)), with_gradient(some_maps(4, 2))
        self.total(student, self.targets(teacher, frames), BoxBatch.pad(frames)).backward()
        assert any(leaf.grad is not None and leaf.grad.any() for leaf in leaves(student))
        assert all(leaf.grad is None for leaf in leaves(teacher))

    def test_padding_is_ignored(self, frames: list[Boxes3D]):
        student, targets = some_maps(3, 2), self.targets(some_maps(4, 2), frames)
        boxes = BoxBatch.pad(frames)
        wide = BoxBatch(
            torch.cat([boxes.values, torch.ones(2, 4, 9)], 1),
            torch.cat([boxes.labels, torch.ones(2, 4, dtype=torch.int64)], 1),
            torch.cat([boxes.valid, torch.zeros(2, 4, dtype=torch.bool)], 1),
        )

        def more(value: Tensor | None, fill: float) -> Tensor:
            assert value is not None
            return torch.cat([value, value.new_full((2, 4, *value.shape[2:]), fill)], 1)

        def if_read(value: Tensor | None, fill: float) -> Tensor | None:
            return None if value is None else more(value, fill)

        padded = replace(
            targets,
            boxes=more(targets.boxes, 7.0),
            scores=more(targets.scores, 1.0),
            answered=more(targets.answered, 1.0),
            cells=more(targets.cells, 0.5),
            cell_weight={m: more(v, 0.0) for m, v in targets.cell_weight.items()},
            at_cells={t: more(v, 9.0) for t, v in targets.at_cells.items()},
            at_points={t: more(v, 9.0) for t, v in targets.at_points.items()},
            relation=more(targets.relation, 9.0),
            cell_heatmap=if_read(targets.cell_heatmap, 0.0),
            codes=if_read(targets.codes, 9.0),
            coded=if_read(targets.coded, 1.0),
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
                self.targets(one(teacher, b), [frames[b]]),
                BoxBatch.pad([frames[b]]),
            ).item()
            for b in range(2)
        ]
        both = self.total(student, self.targets(teacher, frames), BoxBatch.pad(frames)).item()
        # Both frames have as many boxes, so a mean over objects is the mean over frames.
        assert both == pytest.approx(sum(singles) / 2, rel=1e-4)

    def test_it_reads_exactly_what_it_declares(self, frames: list[Boxes3D]):
        method = self.build()
        needs = method.needs(method.config, None)
        targets = self.targets(some_maps(4, 2), frames)
        at = {p: {need.target for need in needs if need.places is p} for p in Places}
        at_cells, masks = at[Places.CELLS], masks_of(needs)
        boxes = any(need.target is Target.BOXES for need in needs)
        declared = TeacherTargets(
            boxes=targets.boxes if boxes else None,
            scores=targets.scores if boxes else None,
            answered=targets.answered if boxes else None,
            cells=targets.cells if at_cells else None,
            cell_weight={m: v for m, v in targets.cell_weight.items() if m in masks},
            at_cells={t: v for t, v in targets.at_cells.items() if t in at_cells},
            at_points={t: v for t, v in targets.at_points.items() if t in at[Places.POINTS]},
            relation=targets.relation if Target.RELATION in at[Places.BOXES] else None,
            maps={t: v for t, v in targets.maps.items() if t in at[Places.MAP]},
        )
        student = some_maps(3, 2)
        assert self.total(student, declared, BoxBatch.pad(frames)) == self.total(
            student, targets, BoxBatch.pad(frames)
        )
