"""UniDistill's losses: by hand, against a literal reading, and their config."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from frames.box_points import box_points
from frames.boxes import BoxBatch, Boxes3D
from frames.detection_classes import DETECTION_CLASSES
from frames.grid import BEVGrid
from frames.heatmap import UNIDISTILL
from nets.box_features import PAIRS, at_box_points
from runs.errors import ConfigError
from store.paper_scale import PAPERS
from store.schema import Need, Places, Target
from student_train.methods.base import Method, MethodContext, StudentMaps, TermConfig
from student_train.methods.unidistill import (
    ORIGIN,
    UniDistill,
    UniDistillConfig,
    class_loss,
    feature_loss,
    regression_loss,
    relation_loss,
)
from tests.literal_unidistill import Form, literal
from tests.student_train.method_suite import (
    CHANNELS,
    CONTEXT,
    GRID,
    MethodSuite,
    leaves,
    some_boxes,
    some_maps,
    targets_of,
    with_gradient,
)

TERMS = ("feature", "relation", "response")
ONCE = {name: TermConfig() for name in TERMS}
YES = torch.ones(1, 1, dtype=torch.bool)


class TestUniDistill(MethodSuite):
    def build(self) -> Method:
        return UniDistill(UniDistillConfig(temperature=1.0), CONTEXT)


class TestTransposed(MethodSuite):
    def build(self) -> Method:
        return UniDistill(UniDistillConfig(temperature=1.0, transpose_bug=True), CONTEXT)


def alone(term: str, **settings: Any) -> UniDistillConfig:
    """One term, the others without weight."""
    off = dict.fromkeys(set(TERMS) - {term}, TermConfig(weight=0))
    return UniDistillConfig(temperature=1.0, **off, **settings)


class TestFeatureAlone(MethodSuite):
    def build(self) -> Method:
        return UniDistill(alone("feature"), CONTEXT)


class TestRelationAlone(MethodSuite):
    def build(self) -> Method:
        return UniDistill(alone("relation"), CONTEXT)


class TestResponseAlone(MethodSuite):
    def build(self) -> Method:
        return UniDistill(alone("response"), CONTEXT)


@pytest.mark.parametrize("settings", [{}, {"transpose_bug": True}, {"pad_artifact": True}])
def test_a_term_without_weight_reads_nothing(settings: dict[str, Any]):
    low, high = (
        (Need(Target.BEV_LOW, Places.MAP), Need(Target.BEV_HIGH, Places.MAP))
        if "transpose_bug" in settings
        else (Need(Target.BEV_LOW, Places.POINTS), Need(Target.RELATION, Places.BOXES))
    )
    assert UniDistill.needs(alone("feature", **settings), None) == {low}
    assert UniDistill.needs(alone("relation", **settings), None) == {high}
    masks = (UNIDISTILL, ORIGIN) if "pad_artifact" in settings else (UNIDISTILL,)
    response = {
        Need(target, Places.CELLS, mask=mask)
        for target in (Target.HEATMAP_LOGIT, Target.BOX_CODE)
        for mask in masks
    }
    assert UniDistill.needs(alone("response", **settings), None) == response
    together = UniDistill.needs(UniDistillConfig(**settings), None)
    assert together == {low, high} | response
    shared = UniDistillConfig(**dict.fromkeys(TERMS, TermConfig(share=0.1)), **settings)
    assert UniDistill.needs(shared, None) == together


@pytest.mark.parametrize("term", TERMS)
def test_a_term_alone_is_what_it_is_together(term: str):
    frames = [some_boxes(1, 3), some_boxes(2, 1)]
    targets = targets_of(some_maps(4, 2), frames, (UNIDISTILL,))
    student, boxes = some_maps(3, 2), BoxBatch.pad(frames)
    together = UniDistill(UniDistillConfig(temperature=1.0), CONTEXT)(student, targets, boxes)
    found = UniDistill(alone(term), CONTEXT)(student, targets, boxes)
    assert list(found.terms) == [term]
    assert found.terms[term].item() == together.terms[term].item()
    assert found.figures == (together.figures if term == "response" else {})


@pytest.mark.parametrize("term", TERMS)
def test_a_term_without_weight_asks_nothing_of_a_cache(term: str):
    """The cache may lack its targets, and no adapter of it is built."""
    wanted = {"feature": Target.BEV_LOW, "response": Target.BOX_CODE}
    channels = {wanted[term]: CONTEXT.teacher_channels[wanted[term]]} if term in wanted else {}
    context = replace(CONTEXT, teacher_channels=channels)
    method = UniDistill(alone(term, adapters="conv3x3"), context)
    built = [bool(list(a.parameters())) for a in (method.adapt_low, method.adapt_high)]
    assert built == [term == "feature", term == "relation"]


def test_features_by_hand():
    """Five boxes of two frames, three real: gaps of 1, 2 and 6, over three boxes."""
    gaps = torch.tensor([[1.0, 2.0, 9.0], [6.0, 9.0, 9.0]])
    student = gaps[..., None, None].expand(2, 3, 9, 4)
    valid = torch.tensor([[True, True, False], [True, False, False]])
    loss = feature_loss(student, torch.zeros(2, 3, 9, 4), valid)
    assert loss.item() == pytest.approx(9 / 3.0001, rel=1e-6)


def test_a_pair_counts_twice_and_the_diagonal_once():
    """The mean is over 81: one of 36 pairs off by 0.81 is 2 x 0.81 / 81."""
    for k, (i, j) in enumerate(PAIRS.T.tolist()):
        student = torch.zeros(1, 1, 45)
        student[..., k] = 0.81
        loss = relation_loss(student, torch.zeros(1, 1, 45), YES)
        assert loss.item() == pytest.approx((0.01 if i == j else 0.02) / 1.0001, rel=1e-5)


def test_the_response_sees_the_likeliest_class_alone():
    """1/2 against sigmoid(2 ln 3 / 2) = 3/4; which class says it does not matter."""
    student = torch.tensor([[[-5.0, 0.0, -5.0]]], requires_grad=True)
    teacher = torch.tensor([[[2 * math.log(3), -1.0, 1.0]]])
    weight = torch.tensor([[0.5]])
    loss = class_loss(student, teacher, weight)
    assert loss.item() == pytest.approx(0.25 * 0.5 / 0.5001, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, student)
    assert (gradient[0, 0] != 0).tolist() == [False, True, False]
    with_others = class_loss(student, teacher - torch.tensor([0.0, 3.0, 3.0]), weight)
    assert with_others.item() == loss.item()
    alike = class_loss(student, torch.zeros(1, 1, 3), weight, temperature=1.0)
    assert alike.item() == 0


@pytest.mark.parametrize(("clamp", "expected"), [(1e-4, 0.0), (1e-3, 9e-4)])
def test_only_the_teacher_is_clamped_as_asked(clamp: float, expected: float):
    sure_of_nothing = torch.full((1, 1, 2), -40.0)
    loss = class_loss(sure_of_nothing, sure_of_nothing, torch.ones(1, 1), clamp=clamp)
    assert loss.item() == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_regression_is_a_mean_over_all_tasks_channels():
    """One of 66 channels off by 6.6 in one of two cells, the other half as heavy."""
    student = torch.zeros(1, 2, 66)
    student[0, 1, 40] = 6.6
    loss = regression_loss(student, torch.zeros(1, 2, 66), torch.tensor([[1.0, 0.5]]))
    assert loss.item() == pytest.approx(0.1 * 0.5 / 1.5001, rel=1e-5)


WIDE = BEVGrid(x_min=-6.0, y_min=-5.0, cell_size=1.0, shape=(10, 12))
WIDE_CONTEXT = MethodContext(
    grid=WIDE,
    student_channels=CONTEXT.student_channels,
    teacher_channels=CONTEXT.teacher_channels,
    classes=DETECTION_CLASSES,
)


def wild_boxes(seed: int, count: int) -> Boxes3D:
    """Boxes of any size and heading, some across the grid's edge or off it.

    None has a point where a sample has all but faded to zero: in float32 the cosine of a vector
    about as long as what is added to its length knows four digits.
    """
    rng = torch.Generator().manual_seed(seed)
    low = torch.tensor([-8.0, -7.0, -1.0, 0.3, 0.3, 0.5, -math.pi, -3.0, -3.0])
    high = torch.tensor([8.0, 7.0, 1.0, 8.0, 4.0, 3.0, math.pi, 3.0, 3.0])
    values = low + (high - low) * torch.rand(4 * count, 9, generator=rng)
    cells = WIDE.to_cells(box_points(values))
    last = torch.tensor([WIDE.shape[1], WIDE.shape[0]])
    faded = (((cells + 1).abs() < 0.02) | ((cells - last).abs() < 0.02)).flatten(1).any(1)
    return Boxes3D(values[~faded][:count], torch.randint(0, 10, (count,), generator=rng))


def maps_on(grid: BEVGrid, seed: int, batch: int) -> StudentMaps:
    """The suite's maps, cut to the grid."""
    maps, (rows, cols) = some_maps(seed, batch), grid.shape
    head = maps.center
    return StudentMaps(
        {target: values[..., :rows, :cols] for target, values in maps.features.items()},
        replace(
            head,
            heatmap_logit=head.heatmap_logit[..., :rows, :cols],
            box_code=head.box_code[..., :rows, :cols],
        ),
    )


def by_target(maps: StudentMaps) -> dict[Target, Tensor]:
    head = maps.center
    return {
        **maps.features,
        Target.HEATMAP_LOGIT: head.heatmap_logit,
        Target.BOX_CODE: head.box_code.flatten(1, 2),
    }


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize(("temperature", "clamp"), [(2.0, 1e-4), (1.0, 1e-3)])
@pytest.mark.parametrize("seed", range(3))
def test_terms_are_those_of_a_literal_reading(
    seed: int, temperature: float, clamp: float, padding: bool, transposed: bool
):
    form = Form(temperature=temperature, clamp=clamp, transposed=transposed, padding=padding)
    config = UniDistillConfig(
        **ONCE,
        temperature=temperature,
        clamp=clamp,
        transpose_bug=transposed,
        pad_artifact=padding,
    )
    frames = [wild_boxes(seed, 5), wild_boxes(seed + 10, 2)]
    student, teacher = maps_on(WIDE, seed, 2), maps_on(WIDE, seed + 20, 2)
    # Logits on either side of the clamp.
    for maps in (student, teacher):
        maps.center.heatmap_logit[..., ::2, :] *= 12
    result = UniDistill(config, WIDE_CONTEXT)(
        student, targets_of(teacher, frames, (UNIDISTILL, ORIGIN), WIDE), BoxBatch.pad(frames)
    )
    found = [result.terms["feature"], result.terms["relation"], *result.figures.values()]
    expected = literal(by_target(student), by_target(teacher), frames, WIDE, form)
    assert [term.item() for term in found] == pytest.approx(
        [term.item() for term in expected], abs=1e-6, rel=1e-6
    )
    assert result.terms["response"].item() == pytest.approx(found[2].item() + found[3].item())


def test_padding_counts_only_where_it_is_asked_to():
    """At the origin of the frame that has fewer boxes, the response reads one cell more."""
    frames = [some_boxes(1, 3), some_boxes(2, 1)]
    student, teacher = some_maps(3, 2), some_maps(4, 2)
    targets = targets_of(teacher, frames, (UNIDISTILL, ORIGIN))
    at_origin = student.center.box_code[1, ..., 8, 8] - teacher.center.box_code[1, ..., 8, 8]
    sums = []
    for pad_artifact, weight in ((False, 4.0), (True, 5.0)):
        config = UniDistillConfig(pad_artifact=pad_artifact)
        result = UniDistill(config, CONTEXT)(student, targets, BoxBatch.pad(frames))
        sums.append(result.figures["response/box"].item() * (weight + 1e-4))
    assert sums[1] - sums[0] == pytest.approx(at_origin.abs().mean().item(), rel=1e-4)


def test_the_count_of_boxes_is_the_batchs():
    """One frame's box and the other's three weigh the same."""
    frames = [some_boxes(1, 1), some_boxes(2, 3)]
    student, teacher = some_maps(3, 2), some_maps(4, 2)
    method = UniDistill(UniDistillConfig(**ONCE), CONTEXT)
    result = method(student, targets_of(teacher, frames, (UNIDISTILL,)), BoxBatch.pad(frames))
    low = student.features[Target.BEV_LOW] - teacher.features[Target.BEV_LOW]
    boxes = BoxBatch.pad(frames)
    gaps = at_box_points(low, boxes.values, GRID).abs().mean((2, 3))[boxes.valid]
    assert result.terms["feature"].item() == pytest.approx(gaps.sum().item() / 4.0001, rel=1e-5)


def test_a_box_off_the_map_has_no_loss_and_finite_gradients():
    far = Boxes3D(torch.tensor([[90.0, 90, 0, 4, 2, 2, 0.3, 0, 0]]), torch.tensor([1]))
    student = with_gradient(some_maps(3, 1))
    method = UniDistill(UniDistillConfig(), CONTEXT)
    terms = method(
        student, targets_of(some_maps(4, 1), [far], (UNIDISTILL,)), BoxBatch.pad([far])
    ).terms
    total = torch.stack(list(terms.values())).sum()
    assert total.item() == 0
    total.backward()
    for leaf in leaves(student):
        assert leaf.grad is not None
        assert not leaf.grad.any()


def test_whole_maps_are_an_ablation():
    frames, student, teacher = [some_boxes(1)], some_maps(3, 1), some_maps(4, 1)
    config = UniDistillConfig(**ONCE, feature_at="map")
    targets = targets_of(teacher, frames, (UNIDISTILL,))
    terms = UniDistill(config, CONTEXT)(student, targets, BoxBatch.pad(frames)).terms
    gap = student.features[Target.BEV_LOW] - teacher.features[Target.BEV_LOW]
    assert terms["feature"].item() == pytest.approx(gap.abs().mean().item())
    low = Need(Target.BEV_LOW, Places.MAP)
    assert UniDistill.needs(config, None) ^ UniDistill.needs(UniDistillConfig(), None) == {
        *(low, Need(Target.BEV_LOW, Places.POINTS))
    }


def test_adapters_have_the_traced_sizes_and_learn():
    widths = {Target.BEV_LOW: 256, Target.BEV_HIGH: 512, Target.BOX_CODE: 66}
    context = replace(CONTEXT, student_channels=widths, teacher_channels=widths)
    method = UniDistill(UniDistillConfig(path="camera_to_lidar"), context)
    sizes = [
        sum(p.numel() for p in adapter.parameters())
        for adapter in (method.adapt_low, method.adapt_high)
    ]
    assert sizes == [590_592, 2_360_832]

    frames = [some_boxes(1)]
    targets = targets_of(some_maps(4, 1), frames, (UNIDISTILL,))
    small = UniDistill(UniDistillConfig(adapters="conv3x3"), CONTEXT)
    terms = small(some_maps(3, 1), targets, BoxBatch.pad(frames)).terms
    (terms["feature"] + terms["relation"]).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in small.parameters())
    assert any(p.grad is not None and p.grad.any() for p in small.adapt_high.parameters())


def test_a_1x1_adapter_may_be_the_identity():
    frames, student = [some_boxes(1)], some_maps(3, 1)
    targets = targets_of(some_maps(4, 1), frames, (UNIDISTILL,))
    plain = UniDistill(UniDistillConfig(), CONTEXT)
    adapted = UniDistill(UniDistillConfig(adapters="conv1x1"), CONTEXT)
    for adapter in (adapted.adapt_low, adapted.adapt_high):
        weight, bias = adapter.parameters()
        torch.nn.init.eye_(weight.data.view(CHANNELS, CHANNELS))
        torch.nn.init.zeros_(bias)
    results = [m(student, targets, BoxBatch.pad(frames)).terms for m in (plain, adapted)]
    for name, term in results[0].items():
        assert results[1][name].item() == pytest.approx(term.item(), rel=1e-5)


PATHS = {
    "lidar_to_camera": (100, 40, 10, 1e-4, "none"),
    "fusion_to_camera": (10, 5, 10, 1e-3, "none"),
    "camera_to_lidar": (10, 5, 1, 1e-4, "conv3x3"),
    "fusion_to_lidar": (10, 1, 10, 1e-4, "none"),
}


@pytest.mark.parametrize("path", PATHS)
def test_a_path_has_its_published_numbers(path: str):
    config = UniDistillConfig.model_validate({"path": path})
    terms = (config.feature, config.relation, config.response)
    assert (*(term.weight for term in terms), config.clamp, config.adapters) == PATHS[path]
    assert UniDistillConfig.model_validate(config.model_dump(mode="json")) == config
    assert config.shares == {}


def test_what_is_given_wins():
    given: dict[str, Any] = {"path": "camera_to_lidar", "adapters": "none"}
    config = UniDistillConfig.model_validate({**given, "relation": {"share": 0.2}})
    assert (config.adapters, config.shares) == ("none", {"relation": 0.2})
    assert config.feature.weight == 10
    assert UniDistillConfig() == UniDistillConfig(path="lidar_to_camera")
    with pytest.raises(ValidationError, match="'lidar_to_camera', 'fusion_to_camera'"):
        UniDistillConfig.model_validate({"path": "radar_to_camera"})


def test_weights_multiply_their_terms():
    frames = [some_boxes(1)]
    targets = targets_of(some_maps(4, 1), frames, (UNIDISTILL,))
    once, published = (
        UniDistill(config, CONTEXT)(some_maps(3, 1), targets, BoxBatch.pad(frames)).terms
        for config in (UniDistillConfig(**ONCE), UniDistillConfig())
    )
    for name, weight in (("feature", 100), ("relation", 40), ("response", 10)):
        assert published[name].item() == pytest.approx(weight * once[name].item())


def test_what_cannot_be_compared_is_refused():
    narrow = {**CONTEXT.student_channels, Target.BEV_LOW: 3}
    with pytest.raises(ConfigError, match=r"the student's has 3, .* set adapters = \"conv3x3\""):
        UniDistill(UniDistillConfig(), replace(CONTEXT, student_channels=narrow))
    with_iou = {**CONTEXT.teacher_channels, Target.BOX_CODE: 22}
    with pytest.raises(
        ConfigError, match=r"head has 20 channels, .*, the cached teacher's 22, .* an IoU"
    ):
        UniDistill(UniDistillConfig(), replace(CONTEXT, teacher_channels=with_iou))


def test_heads_of_as_many_but_other_tasks_are_refused():
    own = (frozenset({"car", "bus"}), frozenset({"bicycle"}))
    other = (frozenset({"car"}), frozenset({"bus", "bicycle"}))
    context = replace(CONTEXT, student_tasks=own, teacher_tasks=other)
    with pytest.raises(
        ConfigError, match=r"tasks bus and car; bicycle, .* of the tasks car; bicycle and bus: give"
    ):
        UniDistill(UniDistillConfig(), context)
    UniDistill(UniDistillConfig(), replace(context, teacher_tasks=own))
    UniDistill(UniDistillConfig(), replace(context, teacher_tasks=None))


@pytest.mark.parametrize("path", PATHS)
def test_the_path_is_that_of_the_sensors(path: str):
    teacher, student = path.split("_to_")
    context = replace(CONTEXT, sensors=(teacher, student))
    UniDistill(UniDistillConfig.model_validate({"path": path}), context)
    wrong = "fusion_to_camera" if path == "camera_to_lidar" else "camera_to_lidar"
    with pytest.raises(ConfigError, match=rf"are those of {path}: set path = \"{path}\""):
        UniDistill(UniDistillConfig.model_validate({"path": wrong}), context)
    # A pair that the paper does not have takes any path's weights.
    UniDistill(UniDistillConfig(), replace(CONTEXT, sensors=("label", student)))


def test_the_paper_plan_is_what_the_method_reads():
    (paper,) = (paper for paper in PAPERS if paper.method == "UniDistill")
    assert frozenset(paper.needs) == UniDistill.needs(UniDistillConfig(), None)
