"""LabelDistill's losses by hand; its method on tiny maps."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from frames.boxes import BoxBatch, Boxes3D
from frames.cell_masks import foreground_cells
from nets.center_head import CenterHeadConfig, CenterMaps
from runs.errors import ConfigError
from store.schema import Target
from student_train.methods.base import StudentMaps
from student_train.methods.labeldistill import (
    LabelDistill,
    LabelDistillConfig,
    Response,
    adapter,
    channel_third,
    feature_loss,
    response_at_cells,
    response_elsewhere,
)
from tests.student_train.labeldistill_case import (
    CONTEXT,
    GRID,
    LOW,
    TEACHER,
    TOKENS,
    TRUTHS,
    WIDTH,
    leaves,
    method_of,
    student_of,
    targets_for,
)

FORMS: tuple[Response, ...] = ("soft_target", "official_dead_positive")


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("low", "count"), [(450, 1_880_448), (750, 1_995_648)])
def test_an_adapter_has_the_released_codes_parameters(low: int, count: int):
    """As released: two and four past frames, 300 channels at half resolution."""
    assert parameters(adapter(low // 3, 128)) + parameters(adapter(300 // 3, 256)) == count


def test_thirds_of_everything_and_of_each_time_step():
    maps = torch.arange(14.0).view(1, 14, 1, 1)
    assert [channel_third(maps, k).flatten().tolist() for k in range(3)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]
    assert [channel_third(maps, k, 2).flatten().tolist() for k in range(3)] == [
        [0, 1, 7, 8],
        [2, 3, 9, 10],
        [4, 5, 11, 12],
    ]


def test_feature_loss_by_hand():
    student = torch.tensor([[[1.0, 2.0], [0.0, 3.0]], [[5.0, 5.0], [1.0, 1.0]]])
    weight = torch.tensor([[1.5, 0.5], [0.0, 0.0]])
    # (1.5 * 5 + 0.5 * 9) / 2, whatever the frame.
    assert feature_loss(student, torch.zeros(2, 2, 2), weight).item() == pytest.approx(6.0)
    # Weights that sum to less than 1 do not blow it up.
    assert feature_loss(student, torch.zeros(2, 2, 2), weight / 8).item() == pytest.approx(1.5)


def test_response_by_hand():
    """p of the student 1/2, of the teacher 3/4, a Gaussian of 1 and one of 1/3."""
    student, teacher = torch.zeros(1, 2, 1), torch.full((1, 2, 1), math.log(3.0))
    heatmap = torch.tensor([[[1.0], [1 / 3]]])
    # Targets 3/4 and 1/4: -ln(1/2) / 4 times (1/4)^4 and (3/4)^4; no positive cell.
    dead = math.log(2) / 4 * (1 / 256 + 81 / 256)
    found = response_at_cells(student, teacher, heatmap, "official_dead_positive")
    assert found.tolist() == pytest.approx([dead])
    # Cross entropy ln 2 for either, squared gaps 1/16.
    found = response_at_cells(student, teacher, heatmap, "soft_target")
    assert found.tolist() == pytest.approx([2 * math.log(2) / 16])


@pytest.mark.parametrize("form", FORMS)
def test_away_from_objects_it_is_the_ordinary_negative_loss(form: Response):
    logit = torch.tensor([[[[0.0, math.log(3.0)]], [[5.0, -20.0]]]])
    outside = torch.tensor([[[True, True]]])
    first = math.log(2) / 4 + 9 / 16 * math.log(4)
    found = response_elsewhere(logit, outside, form)
    assert found[0].item() == pytest.approx(first)
    none = response_elsewhere(logit, torch.zeros_like(outside), form)
    assert none.tolist() == [0, 0]


def perfect_method() -> tuple[LabelDistill, StudentMaps]:
    """A student whose thirds are the teacher's maps as a store rounds them; adapters do nothing."""
    maps = [TEACHER.maps(token) for token in TOKENS]
    said = {t: torch.cat([one[t] for one in maps]).half().float() for t in maps[0]}
    context = replace(
        CONTEXT,
        student_frames=1,
        student_channels={Target.BEV_LOW: 3 * WIDTH, Target.STAGE_1: 6 * WIDTH},
    )
    method = LabelDistill(LabelDistillConfig(), context)
    method.lidar_adaptors = nn.ModuleList([nn.Identity(), nn.Identity()])
    method.label_adaptors = nn.ModuleList([nn.Identity(), nn.Identity()])
    features = {
        own: torch.cat([said[label], said[lidar], torch.randn_like(said[lidar])], 1)
        for own, label, lidar in (
            (Target.BEV_LOW, Target.LABEL_0, Target.STAGE_0),
            (Target.STAGE_1, Target.LABEL_1, Target.STAGE_1),
        )
    }
    code = said[Target.BOX_CODE].unflatten(1, (6, -1))
    task = torch.tensor(CenterHeadConfig().class_task)
    return method, StudentMaps(features, CenterMaps(said[Target.HEATMAP_LOGIT], code, task))


def test_a_perfect_student_has_no_loss_but_the_responses():
    method, student = perfect_method()
    terms = method(student, targets_for(method), BoxBatch.pad(TRUTHS)).terms
    for name in ("lidar", "label", "box"):
        assert terms[name].item() == pytest.approx(0, abs=1e-6), name


def test_the_soft_target_is_where_the_gradient_vanishes():
    """And the released form has no such place: it pushes every probability down."""
    teacher = torch.randn(1, 6, 10, generator=torch.Generator().manual_seed(0))
    heatmap = torch.rand(1, 6, 10, generator=torch.Generator().manual_seed(1))
    target = teacher.sigmoid() * heatmap
    logit = target.logit().requires_grad_()
    soft = response_at_cells(logit, teacher, heatmap, "soft_target").sum()
    (gradient,) = torch.autograd.grad(soft, logit)
    assert gradient.abs().max().item() < 1e-6
    dead = response_at_cells(logit, teacher, heatmap, "official_dead_positive").sum()
    (gradient,) = torch.autograd.grad(dead, logit)
    assert (gradient > 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_no_boxes_leave_the_negative_loss_alone(form: Response):
    empty = [Boxes3D.empty(), Boxes3D.empty()]
    method, student = method_of(response=form), student_of(3)
    terms = method(student, targets_for(method, empty), BoxBatch.pad(empty)).terms
    assert [terms[name].item() for name in ("lidar", "label", "box")] == [0, 0, 0]
    logit = student.center.heatmap_logit
    everywhere = torch.ones(2, *GRID.shape, dtype=torch.bool)
    expected = response_elsewhere(logit, everywhere, form).sum()
    assert terms["heatmap"].item() == pytest.approx(expected.item(), rel=1e-6)
    torch.autograd.backward(torch.stack(list(terms.values())).sum())
    grads = [leaf.grad for leaf in leaves(student).values()]
    assert all(grad is None or grad.isfinite().all() for grad in grads)


def test_padding_is_ignored():
    method, student = method_of(), student_of(3)
    targets, boxes = targets_for(method), BoxBatch.pad(TRUTHS)

    def more(value: Tensor | None, fill: float) -> Tensor:
        assert value is not None
        return torch.cat([value, value.new_full((2, 4, *value.shape[2:]), fill)], 1)

    padded = replace(
        targets,
        cells=more(targets.cells, 0.5),
        cell_valid=None,
        cell_weight={},
        cell_heatmap=more(targets.cell_heatmap, 0),
        at_cells={t: more(v, 9) for t, v in targets.at_cells.items()},
        coarse_cells=more(targets.coarse_cells, 0.5),
        coarse_weight=more(targets.coarse_weight, 0),
        at_coarse_cells={t: more(v, 9) for t, v in targets.at_coarse_cells.items()},
        codes=more(targets.codes, 7),
        coded=more(targets.coded, 1),
    )
    wide = BoxBatch(
        torch.cat([boxes.values, torch.ones(2, 4, 9)], 1),
        torch.cat([boxes.labels, torch.ones(2, 4, dtype=torch.int64)], 1),
        torch.cat([boxes.valid, torch.zeros(2, 4, dtype=torch.bool)], 1),
    )
    found, expected = (method(student, t, b).terms for t, b in ((padded, wide), (targets, boxes)))
    for name, term in expected.items():
        assert found[name].item() == pytest.approx(term.item(), rel=1e-5), name


def test_the_normaliser_is_the_batchs():
    """Of two frames the feature loss is their mean, weighted by their masks' sums."""
    rng = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 6, 3, generator=rng) for _ in range(2))
    weight = torch.rand(2, 6, generator=rng) + 0.5
    both = feature_loss(student, teacher, weight)
    sums = weight.sum(1)
    singles = [
        sums[b] * feature_loss(student[b : b + 1], teacher[b : b + 1], weight[b : b + 1])
        for b in range(2)
    ]
    assert both.item() == pytest.approx(float(sum(singles) / sums.sum()), rel=1e-5)


def test_the_teacher_gets_no_gradient():
    method, student = method_of(), student_of(3)
    targets = targets_for(method)
    said = [*targets.at_cells.values(), *targets.at_coarse_cells.values(), targets.codes]
    teacher = [value.requires_grad_() for value in said if value is not None]
    terms = method(student, targets, BoxBatch.pad(TRUTHS)).terms
    torch.autograd.backward(torch.stack(list(terms.values())).sum())
    assert all(leaf.grad is not None and leaf.grad.any() for leaf in leaves(student).values())
    assert len(teacher) == 6
    assert all(value.grad is None for value in teacher)


@pytest.mark.parametrize(("partition", "reaches"), [("intended", True), ("official", False)])
def test_which_partition_lets_the_lidar_reach_the_key_frame(partition: str, reaches: bool):
    """Three time steps: the released thirds are the time steps, and the second one has no gradient
    in the student (docs/methods.md).
    """
    context = replace(CONTEXT, student_frames=3)
    config = LabelDistillConfig.model_validate({"partition": partition, "labels": "none"})
    method, student = LabelDistill(config, context), student_of(3)
    term = method(student, targets_for(method), BoxBatch.pad(TRUTHS)).terms["lidar"]
    (gradient,) = torch.autograd.grad(term, student.features[Target.BEV_LOW])
    key = gradient[:, : LOW // 3]
    assert bool(key.any()) is reaches
    assert gradient.any()


def needs_of(**settings: object) -> set[str]:
    config = LabelDistillConfig.model_validate(settings)
    return {str(need) for need in LabelDistill.needs(config, None)}


def test_it_reads_what_its_terms_need():
    lidar = {"stage_0 at cells", "stage_1 at coarse_cells"}
    label = {"label_0 at cells", "label_1 at coarse_cells"}
    response = {"heatmap_logit at cells", "box_code at boxes"}
    assert needs_of() == lidar | label | response
    assert needs_of(labels="none") == lidar | response
    assert needs_of(label_encoder="label_encoder.pt") == lidar | response
    assert needs_of(label_encoder="label_encoder.pt", labels="cache") == needs_of()
    assert needs_of(label={"weight": 0}) == lidar | response
    assert needs_of(label={"weight": 0, "share": 0.2}) == lidar | label | response
    assert needs_of(heatmap={"weight": 0}, box={"weight": 0}, lidar={"weight": 0}) == label


@pytest.mark.parametrize("left", ["lidar", "label", "heatmap", "box"])
def test_each_term_stands_alone(left: str):
    others = {name: {"weight": 0} for name in ("lidar", "label", "heatmap", "box") if name != left}
    method, student = method_of(**others), student_of(3)
    alone = method(student, targets_for(method), BoxBatch.pad(TRUTHS)).terms
    assert list(alone) == [left]
    together = method_of()
    if left in ("heatmap", "box"):
        found = together(student, targets_for(together), BoxBatch.pad(TRUTHS)).terms[left]
        assert alone[left].item() == found.item()
    assert (method.lidar_adaptors is None) == (left != "lidar")
    assert (method.label_adaptors is None) == (left != "label")


def test_a_student_without_a_map_at_half_resolution_is_refused():
    context = replace(CONTEXT, student_channels={Target.BEV_LOW: LOW})
    with pytest.raises(ConfigError, match="it has no stage_1: give its BEV backbone a stage at"):
        LabelDistill(LabelDistillConfig(), context)
    responses = {"lidar": {"weight": 0}, "label": {"weight": 0}}
    LabelDistill(LabelDistillConfig.model_validate(responses), context)


def test_a_single_frames_thirds_are_the_same_either_way():
    """A student of one time step has one partition, so that methods compare on it."""
    context = replace(CONTEXT, student_frames=1)
    terms = []
    for partition in ("intended", "official"):
        torch.manual_seed(0)
        config = LabelDistillConfig.model_validate({"partition": partition})
        method = LabelDistill(config, context)
        terms.append(method(student_of(3), targets_for(method), BoxBatch.pad(TRUTHS)).terms)
    assert all(terms[0][name].equal(terms[1][name]) for name in terms[0])


def test_cells_of_other_masks_count_once():
    """A cache for several methods has more; away from the Gaussians the map itself is read."""
    method, student, boxes = method_of(), student_of(3), BoxBatch.pad(TRUTHS)
    targets = targets_for(method)
    assert targets.cells is not None
    assert targets.cell_heatmap is not None
    # Cells of the first frame that are in no Gaussian.
    outside = sorted(set(range(GRID.num_cells)) - set(foreground_cells(TRUTHS[0], GRID).tolist()))
    extra = GRID.cell_centres(torch.tensor(outside[:5])).expand(2, -1, -1)
    more = replace(
        targets,
        cells=torch.cat([targets.cells, extra], 1),
        cell_valid=None,
        cell_weight={},
        cell_heatmap=torch.cat([targets.cell_heatmap, torch.zeros(2, 5, 10)], 1),
        at_cells={
            t: torch.cat([v, v.new_full((2, 5, v.shape[2]), 3)], 1)
            for t, v in targets.at_cells.items()
        },
    )
    found, expected = (method(student, t, boxes).terms for t in (more, targets))
    for name, term in expected.items():
        assert found[name].item() == pytest.approx(term.item(), rel=1e-6), name
