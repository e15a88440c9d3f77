"""SimDistill's losses: by hand, against a literal reading, and their config."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from frames.boxes import BoxBatch, Boxes3D
from frames.heatmap import CENTER_HEAD, center_heatmap, on_grid
from nets.center_head import CenterMaps, codes_at
from runs.errors import ConfigError
from store.paper_scale import PAPERS
from store.schema import Places, Target
from student_train.methods.base import (
    Method,
    MethodResult,
    StudentMaps,
    TeacherTargets,
    TermConfig,
)
from student_train.methods.simdistill import (
    SimDistill,
    SimDistillConfig,
    foreground_loss,
    map_loss,
    masked_loss,
)
from tests.literal_simdistill import Side, literal
from tests.student_train.method_suite import (
    CHANNELS,
    CLASS_TASK,
    CONTEXT,
    GRID,
    MethodSuite,
    leaves,
    some_boxes,
    some_maps,
    targets_of,
    with_gradient,
)

BRANCHES = dict.fromkeys((Target.BEV_LIDAR, Target.BEV_CAMERA), CHANNELS)
CONTEXT = replace(
    CONTEXT,
    student_channels={**CONTEXT.student_channels, **BRANCHES},
    teacher_channels={**CONTEXT.teacher_channels, **BRANCHES},
)


def branched(maps: StudentMaps) -> StudentMaps:
    """The same with a map for each branch: as wide, of other values."""
    low, high = (maps.features[t] for t in (Target.BEV_LOW, Target.BEV_HIGH))
    further = {Target.BEV_LIDAR: low.flip(1) * 1.5, Target.BEV_CAMERA: high.flip(1) - 0.5}
    return replace(maps, features={**maps.features, **further})


def sim_targets(maps: StudentMaps, frames: list[Boxes3D]) -> TeacherTargets:
    """Everything that any form reads."""
    boxes, head = BoxBatch.pad(frames), maps.center
    targets = targets_of(maps, frames)
    heatmap = center_heatmap(boxes, GRID, 10).flatten(2).mT
    assert targets.cells is not None
    index = GRID.cell_index(targets.cells)
    at_cells = heatmap.gather(1, index[..., None].expand(-1, -1, 10))
    cell = GRID.cell_index(boxes.values[..., :2])
    return replace(
        targets,
        cell_heatmap=at_cells * (targets.cell_weight[CENTER_HEAD] > 0)[..., None],
        codes=codes_at(head, boxes.labels, cell),
        coded=on_grid(boxes, GRID),
        maps={
            **maps.features,
            Target.HEATMAP_LOGIT: head.heatmap_logit,
            Target.BOX_CODE: head.box_code.flatten(1, 2),
        },
    )


class SimDistillSuite(MethodSuite):
    """The suite on branched maps; frames have as many boxes of every task."""

    config = SimDistillConfig(adapter="none")

    def build(self) -> Method:
        return SimDistill(self.config, CONTEXT)

    @pytest.fixture
    def frames(self) -> list[Boxes3D]:
        first, second = some_boxes(1), some_boxes(2)
        return [first, Boxes3D(second.values, first.labels)]

    def targets(self, maps: StudentMaps, frames: list[Boxes3D]) -> TeacherTargets:
        return sim_targets(branched(maps), frames)

    def total(self, student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch) -> Tensor:
        terms = self.build()(branched(student), targets, boxes).terms
        return torch.stack(list(terms.values())).sum()

    def test_it_reads_exactly_what_it_declares(self, frames: list[Boxes3D]):
        method = self.build()
        targets = self.targets(some_maps(4, 2), frames)
        needs = {(need.target, need.places) for need in method.needs(method.config, None)}
        at = {p: {target for target, places in needs if places is p} for p in Places}
        coded = (Target.BOX_CODE, Places.BOXES) in needs
        declared = TeacherTargets(
            cells=targets.cells if at[Places.CELLS] else None,
            cell_weight=targets.cell_weight if at[Places.CELLS] else {},
            cell_heatmap=targets.cell_heatmap if at[Places.CELLS] else None,
            at_cells={t: v for t, v in targets.at_cells.items() if t in at[Places.CELLS]},
            codes=targets.codes if coded else None,
            coded=targets.coded if coded else None,
            maps={t: v for t, v in targets.maps.items() if t in at[Places.MAP]},
        )
        student, boxes = some_maps(3, 2), BoxBatch.pad(frames)
        assert self.total(student, declared, boxes) == self.total(student, targets, boxes)


class TestForeground(SimDistillSuite):
    """The deviation: nothing anywhere but at objects."""

    config = SimDistillConfig(adapter="none", at="foreground")


class DenseSuite(SimDistillSuite):
    def test_no_boxes_gives_zero_and_finite_gradients(self):
        """Terms at objects are 0; those on whole maps need none."""
        empty = [Boxes3D.empty(), Boxes3D.empty()]
        student = with_gradient(some_maps(3, 2))
        targets, boxes = self.targets(some_maps(4, 2), empty), BoxBatch.pad(empty)
        result = self.build()(branched(student), targets, boxes)
        masked = self.config.cmd_mask == "heatmap"
        assert (result.terms["cmd"].item() == 0) == masked
        intended = self.config.prediction == "intended"
        assert (result.figures["mmd_p/box"].item() == 0) == intended
        torch.stack(list(result.terms.values())).sum().backward()
        assert all(leaf.grad is None or leaf.grad.isfinite().all() for leaf in leaves(student))


class TestIntended(DenseSuite):
    pass


class TestReleased(DenseSuite):
    config = SimDistillConfig(adapter="none", prediction="released", cmd_mask="none")

    def test_a_batch_is_the_mean_of_its_frames(self, frames: list[Boxes3D]):
        """But the released prediction, which is a sum over frames."""
        student, teacher = branched(some_maps(3, 2)), some_maps(4, 2)

        def terms(part: slice) -> dict[str, Tensor]:
            own = frames[part]
            targets = self.targets(cut(teacher, part), own)
            result: MethodResult = self.build()(cut(student, part), targets, BoxBatch.pad(own))
            return result.terms

        both, singles = terms(slice(2)), [terms(slice(b, b + 1)) for b in range(2)]
        for name, value in both.items():
            total = sum(single[name].item() for single in singles)
            frames_of = 1 if name == "mmd_p" else 2
            assert value.item() == pytest.approx(total / frames_of, rel=1e-4), name


class TestMapAdapter(DenseSuite):
    """With the adapter of IMD and MMD-F the identity."""

    config = SimDistillConfig(adapter="none", map_adapter="conv1x1")

    def build(self) -> Method:
        return without_effect(SimDistill(self.config, CONTEXT))


class TestMapAdapterAtTheForeground(TestForeground):
    config = SimDistillConfig(adapter="none", map_adapter="conv1x1", at="foreground")

    def build(self) -> Method:
        return without_effect(SimDistill(self.config, CONTEXT))


def without_effect(method: SimDistill) -> SimDistill:
    for adapter in method.adapt_maps.values():
        if isinstance(adapter, nn.Conv2d):
            assert adapter.bias is not None
            nn.init.dirac_(adapter.weight)
            nn.init.zeros_(adapter.bias)
    return method


def cut(maps: StudentMaps, part: slice) -> StudentMaps:
    head = maps.center
    return StudentMaps(
        {t: m[part] for t, m in maps.features.items()},
        CenterMaps(head.heatmap_logit[part], head.box_code[part], CLASS_TASK),
    )


def test_a_map_by_hand():
    """Gaps of 1 and 3 in two of eight numbers: (1 + 9) / 8."""
    student = torch.zeros(2, 1, 2, 2)
    student[0, 0, 0, 1], student[1, 0, 1, 0] = 1, -3
    assert map_loss(student, torch.zeros(2, 1, 2, 2)).item() == 1.25


def test_the_mask_counts_squared_and_all_cells_divide():
    """At two of 100 cells gaps of 2 with masks 1 and 0.5: (4 + 1) x 2 channels / (100 x 2)."""
    student, weight = torch.full((1, 3, 2), 2.0), torch.tensor([[1.0, 0.5, 0.0]])
    assert masked_loss(student, torch.zeros(1, 3, 2), weight, 100).item() == pytest.approx(0.05)


def test_the_foreground_is_a_mean_of_its_cells():
    """Frames with one and two cells: gaps of 2, and of 1 and 3."""
    student = torch.tensor([[2.0, 9, 9], [1, 3, 9]])[..., None]
    valid = torch.tensor([[True, False, False], [True, True, False]])
    assert foreground_loss(student, torch.zeros(2, 3, 1), valid).item() == (4 + 5) / 2


def side(maps: StudentMaps) -> Side:
    """In double precision, as the literal reading is to be the exact one."""
    head = maps.center
    return Side(
        camera=maps.features[Target.BEV_CAMERA].double(),
        lidar=maps.features[Target.BEV_LIDAR].double(),
        fused=maps.features[Target.BEV_LOW].double(),
        logit=head.heatmap_logit.double(),
        code=head.box_code.double(),
    )


@pytest.mark.parametrize("slots", [None, 500, 7])
@pytest.mark.parametrize("seed", range(3))
def test_parity_with_a_literal_reading(seed: int, slots: int | None):
    """Values to 1e-6, with an object off the grid and frames of unlike counts."""
    outside = Boxes3D(torch.tensor([[30.0, 0, 0, 4, 2, 1, 0, 0, 0]]), torch.tensor([0]))
    near = some_boxes(seed + 10, 4)
    frames = [
        Boxes3D(torch.cat([near.values, outside.values]), torch.cat([near.labels, outside.labels])),
        some_boxes(seed + 20, 2),
    ]
    student, teacher = branched(some_maps(seed, 2)), branched(some_maps(seed + 5, 2))
    config = SimDistillConfig(
        adapter="none",
        prediction="intended" if slots is None else "released",
        slots=slots or 500,
    )
    method = SimDistill(config, CONTEXT)
    found = method(student, sim_targets(teacher, frames), BoxBatch.pad(frames)).terms
    expected = literal(side(student), side(teacher), frames, GRID, CLASS_TASK, slots=slots)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-6), name


def test_the_released_numbers():
    config = SimDistillConfig()
    assert [getattr(config, name).weight for name in ("imd", "cmd", "mmd_f", "mmd_p")] == [
        *(1, 100, 1, 1)
    ]
    assert SimDistillConfig.model_validate({"cmd_mask": "none"}).cmd.weight == 1
    given = SimDistillConfig.model_validate({"cmd_mask": "none", "cmd": {"weight": 7}})
    assert given.cmd.weight == 7
    assert SimDistillConfig.model_validate(given.model_dump(mode="json")) == given
    method = SimDistill(SimDistillConfig(), wide_context())
    assert sum(p.numel() for p in method.parameters()) == 184_832


def wide_context():
    own = {**CONTEXT.student_channels, Target.BEV_LIDAR: 80}
    other = {**CONTEXT.teacher_channels, Target.BEV_LIDAR: 256}
    return replace(CONTEXT, student_channels=own, teacher_channels=other)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"at": "foreground", "cmd_mask": "none"}, "reads no whole map"),
        ({"at": "foreground", "prediction": "released"}, "reads no whole map"),
        ({"class_weight": 0, "box_weight": 0}, "mmd_p: class_weight and box_weight are 0"),
        ({"imd": {"share": 0.1}}, "imd: a gradient share is measured on the student's fused map"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, object], message: str):
    with pytest.raises(ValidationError, match=message):
        SimDistillConfig.model_validate(values)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ConfigError, match=r"cmd compares bev_lidar, .* has 80 .* teacher 256"):
        SimDistill(SimDistillConfig(adapter="none"), wide_context())
    narrow = {**CONTEXT.student_channels, Target.BEV_CAMERA: 3}
    context = replace(CONTEXT, student_channels=narrow)
    with pytest.raises(ConfigError, match="imd compares bev_camera, of which the student has 3"):
        SimDistill(SimDistillConfig(), context)
    SimDistill(SimDistillConfig(imd=TermConfig(weight=0)), context)
    SimDistill(SimDistillConfig(map_adapter="conv1x1"), context)
    with_iou = {**CONTEXT.teacher_channels, Target.BOX_CODE: 22}
    context = replace(CONTEXT, teacher_channels=with_iou)
    with pytest.raises(ConfigError, match='or set prediction = "intended"'):
        SimDistill(SimDistillConfig(prediction="released"), context)


def test_a_term_without_weight_reads_nothing():
    config = SimDistillConfig(mmd_f=TermConfig(weight=0), mmd_p=TermConfig(weight=0))
    assert {need.target for need in SimDistill.needs(config, None)} == {
        *(Target.BEV_CAMERA, Target.BEV_LIDAR)
    }
    alone = SimDistillConfig(**dict.fromkeys(("imd", "cmd"), TermConfig(weight=0)))
    assert SimDistill.student_maps(alone) == frozenset()


def some_result(config: SimDistillConfig) -> MethodResult:
    frames = [some_boxes(1), some_boxes(2)]
    targets = sim_targets(branched(some_maps(4, 2)), frames)
    result: MethodResult = without_effect(SimDistill(config, CONTEXT))(
        branched(some_maps(3, 2)), targets, BoxBatch.pad(frames)
    )
    return result


@pytest.mark.parametrize(
    ("config", "trained"),
    [
        (SimDistillConfig(adapter="none"), []),
        (SimDistillConfig(adapter="conv1x1"), ["cmd"]),
        (SimDistillConfig(adapter="none", map_adapter="conv1x1"), ["imd", "mmd_f"]),
    ],
)
def test_each_adapter_is_of_its_terms_alone(config: SimDistillConfig, trained: list[str]):
    terms = some_result(config).terms
    assert [name for name, term in terms.items() if term.requires_grad] == trained
    assert bool(list(SimDistill(config, CONTEXT).parameters())) == bool(trained)


@pytest.mark.parametrize("at", ["map", "foreground"])
def test_a_map_adapter_may_be_the_identity(at: str):
    plain = SimDistillConfig.model_validate({"adapter": "none", "at": at})
    adapted = some_result(plain.model_copy(update={"map_adapter": "conv1x1"})).terms
    for name, term in some_result(plain).terms.items():
        assert adapted[name].item() == pytest.approx(term.item(), rel=1e-5), name


@pytest.mark.parametrize("half", ["class", "box"])
def test_half_of_the_prediction(half: str):
    """The other one's weight is 0: it is not read, not computed, not logged."""
    config = SimDistillConfig(adapter="none")
    both = some_result(config).figures
    other = {"class": "box_weight", "box": "class_weight"}[half]
    found = some_result(config.model_copy(update={other: 0.0, f"{half}_weight": 0.5}))
    assert found.figures == {f"mmd_p/{half}": both[f"mmd_p/{half}"]}
    assert found.terms["mmd_p"] == 0.5 * both[f"mmd_p/{half}"]
    left_out = {"class": Target.BOX_CODE, "box": Target.HEATMAP_LOGIT}[half]
    needs = SimDistill.needs(config.model_copy(update={other: 0.0}), None)
    assert {need.target for need in SimDistill.needs(config, None) - needs} == {left_out}


@pytest.mark.parametrize(
    "values", [{}, {"at": "foreground"}, {"prediction": "released", "cmd_mask": "none"}]
)
def test_half_precision_around_it_changes_nothing(values: dict[str, str]):
    config = SimDistillConfig.model_validate({"adapter": "none", **values})
    plain = some_result(config).terms
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert some_result(config).terms == plain


def test_the_paper_plan_is_what_the_method_reads():
    (paper,) = (paper for paper in PAPERS if paper.method == "SimDistill")
    assert frozenset(paper.needs) == SimDistill.needs(SimDistillConfig(), None)
