"""STXD's losses: by hand, their properties, and what is read for them."""

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from frames.boxes import BoxBatch, Boxes3D
from frames.cell_masks import RandomMask, foreground_cells
from frames.heatmap import CENTER_HEAD
from store.schema import Need, Places, Target
from student_train.methods.base import StudentMaps, TeacherTargets
from student_train.methods.stxd import (
    CorrelationForm,
    Stxd,
    StxdConfig,
    TemporalForm,
    correlation_loss,
    effective_dimension,
    temporal_loss,
)
from tests import literal_stxd as literal
from tests.student_train.detections_case import detections_of
from tests.student_train.method_suite import (
    CHANNELS,
    CONTEXT,
    GRID,
    MethodSuite,
    some_boxes,
    some_maps,
    targets_of,
    with_gradient,
)


def method_of(**values: object) -> Stxd:
    torch.manual_seed(0)
    return Stxd(StxdConfig.model_validate(values), CONTEXT)


class TestStxd(MethodSuite):
    """Without the off-diagonal part, which is above 0 for correlated channels, and without random
    rows, which there are without boxes, too."""

    def build(self) -> Stxd:
        return method_of(
            random_cells=0,
            past=(-1, -2),
            correlation={"off_diagonal": 0, "over": "frame"},
            cd={"weight": 0.7},
            td={"weight": 3},
            rd={"weight": 0.2},
        )

    def targets(self, maps: StudentMaps, frames: list[Boxes3D]) -> TeacherTargets:
        found = targets_of(maps, frames)
        flat = {t: values.roll(1, 2) for t, values in found.at_cells.items()}
        past = {
            offset: replace(found, at_cells=flat, reached=torch.ones(len(frames), dtype=torch.bool))
            for offset in (-1, -2)
        }
        return replace(found, past=past, detections=detections_of(maps, frames))

    def test_it_reads_exactly_what_it_declares(self, frames: list[Boxes3D]):
        needs = self.build().needs(self.build().config, None)
        rows = {Need(Target.BEV_HIGH, Places.CELLS, offset=k) for k in (0, -1, -2)}
        assert needs == rows | {Need(Target.DETECTIONS, Places.DETECTIONS)}
        targets, student = self.targets(some_maps(4, 2), frames), some_maps(3, 2)

        def only(given: TeacherTargets) -> TeacherTargets:
            return TeacherTargets(
                cells=given.cells,
                cell_weight={CENTER_HEAD: given.cell_weight[CENTER_HEAD]},
                at_cells={Target.BEV_HIGH: given.at_cells[Target.BEV_HIGH]},
                reached=given.reached,
            )

        past = {offset: replace(only(own), cells=None) for offset, own in targets.past.items()}
        declared = replace(only(targets), past=past, detections=targets.detections)
        boxes = BoxBatch.pad(frames)
        assert self.total(student, declared, boxes) == self.total(student, targets, boxes)


# CD

# Three rows, two channels; hats by hand: (1, 0, -1) / sqrt 2 and (1, -2, 1) / sqrt 6.
ROWS = torch.tensor([[1.0, 1.0], [0.0, -2.0], [-1.0, 1.0]])


def test_channels_that_agree_and_do_not_correlate_have_no_loss():
    assert correlation_loss(3 * ROWS + 5, ROWS, CorrelationForm()).item() == pytest.approx(0)


def test_swapped_channels_by_hand():
    """C is [[0, 1], [1, 0]]: each diagonal entry lacks 1, each other one is 1."""
    form = CorrelationForm(off_diagonal=0.25)
    assert correlation_loss(ROWS.flip(1), ROWS, form).item() == pytest.approx(2 + 0.25 * 2)


def test_an_opposite_channel_by_hand():
    student = ROWS * torch.tensor([1.0, -1.0])
    assert correlation_loss(student, ROWS, CorrelationForm()).item() == pytest.approx(4)


def test_without_centring_by_hand():
    """Columns (3, 4) and (4, 3) over 5: diagonal 1 and 1, cosine 24 / 25 beside it."""
    rows = torch.tensor([[3.0, 4.0], [4.0, 3.0]])
    form = CorrelationForm(hat="scaled", off_diagonal=1)
    assert correlation_loss(rows, rows, form).item() == pytest.approx(2 * (24 / 25) ** 2)


def test_a_channel_that_is_the_same_everywhere_says_nothing():
    teacher = torch.stack([ROWS[:, 0], torch.ones(3)], 1)
    student = ROWS.clone().requires_grad_()
    loss = correlation_loss(student, teacher, CorrelationForm())
    assert loss.item() == pytest.approx(1)
    loss.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("rows", [0, 1])
def test_next_to_no_rows_have_a_finite_loss_and_gradient(rows: int):
    student = torch.randn(rows, 3).requires_grad_()
    loss = correlation_loss(student, torch.randn(rows, 3), CorrelationForm())
    assert loss.item() == pytest.approx(3 * rows)
    loss.backward()
    assert student.grad is not None
    assert not student.grad.any()


def test_frames_are_one_batch_or_each_by_itself():
    frames = [some_boxes(1), some_boxes(2)]
    student, teacher = some_maps(3, 2), some_maps(4, 2)
    values = {}
    for over in ("batch", "frame"):
        method = method_of(
            random_cells=0, td={"weight": 0}, rd={"weight": 0}, cd={"weight": 1},
            correlation={"over": over},
        )  # fmt: skip
        targets = targets_of(teacher, frames)
        values[over] = method(student, targets, BoxBatch.pad(frames)).terms["cd"]
    own, theirs = rows_of(student, frames), rows_of(teacher, frames)
    form = CorrelationForm()
    torch.testing.assert_close(
        values["batch"], correlation_loss(torch.cat(own), torch.cat(theirs), form)
    )
    each = [correlation_loss(s, t, form) for s, t in zip(own, theirs, strict=True)]
    torch.testing.assert_close(values["frame"], (each[0] + each[1]) / 2)


def rows_of(maps: StudentMaps, frames: list[Boxes3D]) -> list[Tensor]:
    high = maps.features[Target.BEV_HIGH].flatten(2)
    return [high[b][:, foreground_cells(own, GRID)].T for b, own in enumerate(frames)]


@pytest.mark.parametrize("value", [0.1, 1.7])
@pytest.mark.parametrize("hat", ["centred", "rows_first"])
def test_a_channel_that_is_the_same_everywhere_gets_no_gradient(value: float, hat: str):
    """What rounding leaves of it, less its mean, is no direction."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(300, 4, generator=generator) for _ in range(2))
    if hat == "rows_first":
        # Rows of one length, so that their common channel stays one.
        student[:, 1:] = student[:, 1:].sign()
    student[:, 0] = value
    student.requires_grad_()
    loss = correlation_loss(student, teacher, CorrelationForm.model_validate({"hat": hat}))
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.abs().max() < 1
    assert gradient[:, 1:].any(0).all()


def test_an_empty_row_or_column_gets_no_gradient_and_leaves_the_others_theirs():
    """A cell that no ray reaches, a channel that never fires: 1e11 without the cut."""
    student, teacher = (
        some_maps(seed, 1).features[Target.BEV_HIGH][0, :, 0].T.clone() for seed in (3, 4)
    )
    student[1], student[:, 2] = 0, 0
    student.requires_grad_()
    for hat in ("centred", "scaled", "rows_first"):
        form = CorrelationForm.model_validate({"hat": hat})
        (gradient,) = torch.autograd.grad(correlation_loss(student, teacher, form), student)
        assert gradient.abs().max() < 10, hat
        assert gradient[0].any()
        assert not gradient[:, 2].any()
    rows = torch.ones(1, len(teacher), dtype=torch.bool)
    features = (student[None], teacher[None], teacher[None].flip(1))
    loss = temporal_loss(features, (rows, rows), TemporalForm()).sum()
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.abs().max() < 10
    assert gradient[0].any()
    assert not gradient[1].any()


# TD


def one(*rows: list[float]) -> Tensor:
    return torch.tensor([list(rows)])


ALL = (torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool))
AXES = one([1.0, 0.0], [0.0, 2.0])


def test_a_row_that_looks_at_the_other_past_row_by_hand():
    """Cosines (1, 0) and (0, 1): S = (e, 1) / (e + 1), T the other way; KL = (e - 1) / (e + 1)."""
    form = TemporalForm(temperature=1.0)
    loss = temporal_loss((one([4.0, 0.0]), one([0.0, 1.0]), AXES), ALL, form)
    assert loss.item() == pytest.approx((math.e - 1) / (math.e + 1))


def test_temperature_and_scores_by_hand():
    """Dot products: the student's (1, 4), the teacher's (0, 0), halved by the temperature."""
    form = TemporalForm(temperature=2.0, scores="dot")
    loss = temporal_loss((one([1.0, 2.0]), one([0.0, 0.0]), AXES), ALL, form)
    s = math.exp(0.5) / (math.exp(0.5) + math.exp(2))
    expected = s * math.log(2 * s) + (1 - s) * math.log(2 * (1 - s))
    assert loss.item() == pytest.approx(expected)
    other = form.model_copy(update={"divergence": "teacher_student"})
    loss = temporal_loss((one([1.0, 2.0]), one([0.0, 0.0]), AXES), ALL, other)
    expected = -0.5 * math.log(2 * s) - 0.5 * math.log(2 * (1 - s))
    assert loss.item() == pytest.approx(expected)


def test_only_the_students_present_rows_learn():
    student, teacher, past = (torch.randn(2, 5, 3).requires_grad_() for _ in range(3))
    rows = torch.ones(2, 5, dtype=torch.bool)
    temporal_loss((student, teacher, past), (rows, rows), TemporalForm()).sum().backward()
    assert student.grad is not None
    assert student.grad.any()
    assert teacher.grad is None
    assert past.grad is None


@pytest.mark.parametrize("softmax", ["row", "all"])
@pytest.mark.parametrize("empty", ["now", "then"])
def test_frames_without_rows_have_no_loss(softmax: str, empty: str):
    form = TemporalForm.model_validate({"softmax": softmax})
    some, none = torch.ones(2, 5, dtype=torch.bool), torch.zeros(2, 5, dtype=torch.bool)
    student = torch.randn(2, 5, 3).requires_grad_()
    rows = (none, some) if empty == "now" else (some, none)
    features = (student, torch.randn(2, 5, 3), torch.randn(2, 5, 3))
    loss = temporal_loss(features, rows, form)
    assert loss.tolist() == [0, 0]
    loss.sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("softmax", ["row", "all"])
def test_padded_rows_change_nothing(softmax: str):
    form = TemporalForm.model_validate({"softmax": softmax})
    rng = torch.Generator().manual_seed(1)
    features = [torch.randn(1, n, 3, generator=rng) for n in (4, 4, 6)]
    ones = [torch.ones(1, n, dtype=torch.bool) for n in (4, 6)]
    plain = temporal_loss(tuple(features), tuple(ones), form)  # type: ignore[arg-type]
    wide = [torch.cat([x, torch.full((1, 3, 3), 9.0)], 1) for x in features]
    rows = [torch.cat([x, torch.zeros(1, 3, dtype=torch.bool)], 1) for x in ones]
    padded = temporal_loss(tuple(wide), tuple(rows), form)  # type: ignore[arg-type]
    torch.testing.assert_close(plain, padded)


def test_steps_are_summed_and_what_a_scene_lacks_may_not_count():
    """Two frames, of which the second's scene begins with it."""
    frames = [some_boxes(1, 1), some_boxes(2, 1)]
    student, teacher = some_maps(3, 2), some_maps(4, 2)
    own = targets_of(teacher, frames)
    past = {
        -1: replace(targets_of(some_maps(6, 2), frames), reached=torch.tensor([True, False])),
        -2: replace(targets_of(some_maps(7, 2), frames), reached=torch.tensor([True, False])),
    }
    targets, boxes = replace(own, past=past), BoxBatch.pad(frames)

    def term(**form: object) -> float:
        method = method_of(
            random_cells=0, past=(-1, -2), temporal=form, td={"weight": 1},
            cd={"weight": 0}, rd={"weight": 0},
        )  # fmt: skip
        return float(method(student, targets, boxes).terms["td"])

    each = [
        [
            literal.temporal(s, t, p, 0.1).item()
            for s, t, p in zip(
                rows_of(student, frames),
                rows_of(teacher, frames),
                rows_of(some_maps(seed, 2), frames),
                strict=True,
            )
        ]
        for seed in (6, 7)
    ]
    means = [(a + b) / 2 for a, b in each]
    assert term() == pytest.approx(sum(means), rel=1e-4)
    assert term(steps="mean") == pytest.approx(sum(means) / 2, rel=1e-4)
    off = {"weight": 0}
    method = method_of(random_cells=0, past=(-1, -2), rd=off)
    assert float(method(student, targets, boxes).figures["reached"]) == 0.5
    # What is not there does not dilute the mean, be it a frame or a whole step.
    masked = [a for a, _ in each]
    assert term(scene_start="mask") == pytest.approx(sum(masked), rel=1e-4)
    assert term(scene_start="mask", steps="mean") == pytest.approx(sum(masked) / 2, rel=1e-4)
    past[-2] = replace(past[-2], reached=torch.tensor([False, False]))
    assert term(scene_start="mask") == pytest.approx(masked[0], rel=1e-4)
    assert term(scene_start="mask", steps="mean") == pytest.approx(masked[0], rel=1e-4)


# The figures


def test_the_effective_dimension_by_hand():
    """Variances 1 and 1 are two dimensions, 9 and 1 are 100 / 82, one alone is one."""
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    for stretch, expected in (((1.0, 1.0), 2.0), ((3.0, 1.0), 100 / 82), ((5.0, 0.0), 1.0)):
        found = effective_dimension(corners * torch.tensor(stretch) + 7)
        assert found.item() == pytest.approx(expected)
    assert effective_dimension(torch.ones(3, 2)).item() == 0
    assert effective_dimension(torch.ones(0, 2)).item() == 0


def test_both_sides_dimensions_are_told():
    """Of the rows that count, the student's adapted, without a gradient."""
    frames = [some_boxes(1), some_boxes(2)]
    student, teacher = with_gradient(some_maps(3, 2)), some_maps(4, 2)
    method = method_of(random_cells=0, td={"weight": 0}, rd={"weight": 0}, projector="linear")
    figures = method(student, targets_of(teacher, frames), BoxBatch.pad(frames)).figures
    own, theirs = (torch.cat(rows_of(maps, frames)) for maps in (student, teacher))
    assert torch.allclose(figures["dimension"], effective_dimension(method.project(own)), atol=1e-4)
    assert torch.allclose(figures["teacher_dimension"], effective_dimension(theirs), atol=1e-4)
    assert not figures["dimension"].requires_grad


# What is read and built


def test_rows_are_the_cells_of_the_masks_alone():
    """Cells that another method has in the same cache are no rows."""
    frames, mask = [some_boxes(1)], RandomMask(count=20)
    targets = targets_of(some_maps(4, 1), frames)
    weight = targets.cell_weight[CENTER_HEAD].clone()
    weight[:, 2::2] = 0
    random = torch.zeros_like(weight)
    random[:, 2] = 1
    targets = replace(targets, cell_weight={CENTER_HEAD: weight, mask: random})

    def rows(**values: object) -> Tensor:
        return method_of(**values)._rows(targets)

    both = (weight > 0) | (random > 0)
    assert rows(random_cells=20).equal(both)
    assert rows(random_cells=20, objects="none").equal(random > 0)
    assert rows(random_cells=0).equal(weight > 0)
    assert rows(random_cells=0, objects="centres").equal(weight == 1)


def test_a_term_that_does_not_count_reads_nothing():
    off = {"weight": 0}

    def needs(**values: object) -> frozenset[Need]:
        return Stxd.needs(StxdConfig.model_validate(values), None)

    found = Need(Target.DETECTIONS, Places.DETECTIONS)
    assert needs(cd=off, td=off) == {found}
    assert {need.offset for need in needs(td=off)} == {0}
    assert {need.offset for need in needs(cd=off)} == {0, -1, -2, -3}
    assert found not in needs(rd=off)
    assert {need.mask for need in needs(rd=off)} == {CENTER_HEAD, RandomMask(count=512)}
    assert {need.target for need in needs(rd=off, teacher_map="stage_0")} == {Target.STAGE_0}
    cell = {"pairs": "same_cell"}
    assert found not in needs(response=cell)
    assert Need(Target.BOX_CODE, Places.BOXES) in needs(response=cell)
    only = method_of(cd=off, td=off)
    assert isinstance(only.project, nn.Identity)


@pytest.mark.parametrize(
    ("kind", "wide", "parameters"),
    [("where_needed", CHANNELS, 0), ("where_needed", 7, 35), ("linear", CHANNELS, 20),
     ("mlp", 7, 35 + 56)],
)  # fmt: skip
def test_the_students_rows_are_projected(kind: str, wide: int, parameters: int):
    context = replace(CONTEXT, teacher_channels={Target.BEV_HIGH: wide})
    method = Stxd(StxdConfig.model_validate({"projector": kind}), context)
    assert sum(p.numel() for p in method.parameters()) == parameters


def test_box_codes_have_the_weights_of_the_students_loss_unless_given():
    weights = (*[1.0] * 8, 0.5, 0.5)
    context = replace(CONTEXT, code_weights=weights)
    assert Stxd(StxdConfig(), context).response.code == weights
    assert method_of().response.code == (*[1.0] * 8, 0.2, 0.2)
    own = (2.0,) * 10
    given = StxdConfig.model_validate({"response": {"code": own}})
    assert Stxd(given, context).response.code == own


def test_settings_that_make_no_sense():
    with pytest.raises(ValidationError, match="leave no rows: set one of them"):
        StxdConfig(objects="none", random_cells=0)
    with pytest.raises(ValidationError, match="names a frame twice"):
        StxdConfig(past=(-1, -2, -1))
    with pytest.raises(ValidationError, match="less than or equal to 300"):
        StxdConfig.model_validate({"response": {"top": 301}})
    with pytest.raises(ValueError, match="expected 0, or past frames"):
        Need(Target.BEV_HIGH, Places.CELLS, offset=1)


def test_half_precision_around_it_changes_nothing():
    frames = [some_boxes(1), some_boxes(2)]
    suite = TestStxd()
    student, targets = some_maps(3, 2), suite.targets(some_maps(4, 2), frames)
    plain = suite.total(student, targets, BoxBatch.pad(frames))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert suite.total(student, targets, BoxBatch.pad(frames)) == plain
