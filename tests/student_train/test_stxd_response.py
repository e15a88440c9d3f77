"""STXD's response loss: by hand, pairing, and against the literal reading."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from frames.box_code import encode_boxes_at
from frames.boxes import BoxBatch, Boxes3D
from nets.center_head import CenterMaps
from nets.center_loss import CenterLossConfig
from student_train.methods.base import DetectionTargets
from student_train.methods.stxd_response import (
    Pairs,
    ResponseForm,
    box_distance,
    class_divergence,
    matching_cost,
    pair_up,
    qualities,
    response_loss,
)
from tests import literal_stxd as literal
from tests.student_train.method_suite import CLASS_TASK, GRID, some_boxes, some_maps

CODE = CenterLossConfig().code
# Cell (row 8, col 8), at its centre.
BOX = torch.tensor([0.5, 0.5, 1.0, 4.0, 2.0, 1.5, 0.3, 1.0, -1.0])
CELL = 8 * 16 + 8


def form_of(**values: object) -> ResponseForm:
    return ResponseForm.model_validate({"code": CODE, **values})


def some_head(seed: int = 3, batch: int = 1) -> CenterMaps:
    return some_maps(seed, batch).center


def found_of(boxes: Tensor, owners: list[int], ious: list[float]) -> DetectionTargets:
    """Detections of one frame, with any probabilities."""
    count = len(owners)
    rng = torch.Generator().manual_seed(0)
    return DetectionTargets(
        box=boxes[None],
        score=torch.linspace(0.9, 0.2, count)[None],
        probability=torch.rand(1, count, 10, generator=rng) * 0.9 + 0.05,
        object=torch.tensor([owners], dtype=torch.int64),
        iou=torch.tensor([ious]),
        valid=torch.ones(1, count, dtype=torch.bool),
    )


def with_answer(head: CenterMaps, box: Tensor, label: int, probability: Tensor) -> CenterMaps:
    """The head, saying this box and these classes at the box's cell."""
    cell = GRID.cell_index(box[:2])
    row, col = int(cell) // 16, int(cell) % 16
    code, logit = head.box_code.clone(), head.heatmap_logit.clone()
    code[0, int(CLASS_TASK[label]), :, row, col] = encode_boxes_at(box, cell, GRID)
    logit[0, :, row, col] = probability.logit()
    return CenterMaps(logit, code, CLASS_TASK)


def test_quality_by_hand():
    """0.25 to the power of 3/4, times 0.0001 to the power of 1/4; no object: no IoU."""
    found = found_of(BOX.repeat(3, 1), [1, -1, 0], [1e-4, 0.0, 0.5])
    found.probability[0, 0, 7] = 0.25
    found.probability[0, 1] = torch.linspace(0.1, 0.8, 10)
    found = replace(found, valid=torch.tensor([[True, True, False]]))
    truth = BoxBatch.pad([Boxes3D(BOX.repeat(2, 1), torch.tensor([2, 7]))])

    def values(gamma: float) -> list[float]:
        found_ones: list[float] = qualities(found, truth, form_of(gamma=gamma))[0].tolist()
        return found_ones

    assert values(0.25) == pytest.approx([0.25**0.75 * 0.1, 0.0, 0.0])
    assert values(0.0) == pytest.approx([0.25, 0.8, 0.0])


def test_the_iou_may_be_that_of_footprints():
    """4 x 2 x 1.5 m, a metre ahead and half its height up: 6 of 10 square metres are shared."""
    still = BOX.clone()
    still[6] = 0
    found = found_of(
        (still + torch.eye(9)[0] + 0.75 * torch.eye(9)[2]).repeat(2, 1), [1, -1], [0.25, 0.0]
    )
    truth = BoxBatch.pad([Boxes3D(torch.stack([BOX + 9, still]), torch.tensor([2, 7]))])

    def values(iou: str) -> list[float]:
        form = form_of(gamma=1, iou=iou)
        found_ones: list[float] = qualities(found, truth, form)[0].tolist()
        return found_ones

    assert values("bev") == pytest.approx([0.6, 0.0])
    # As it is stored: 4.5 of 19.5 cubic metres would be 0.23.
    assert values("3d") == pytest.approx([0.25, 0.0])


def test_a_box_and_its_classes_by_hand():
    """The student's box is 0.3 cells to the right, its speed 0.5 m/s too low, one class halved."""
    probability = torch.full((10,), 0.5)
    head = with_answer(some_head(), BOX, 2, probability)
    off = BOX + torch.tensor([0.3, 0, 0, 0, 0, 0, 0, 0.5, 0])
    found = replace(found_of(off[None], [0], [0.64]), probability=probability[None, None].clone())
    found.probability[0, 0, 4] = 0.25
    found.probability[0, 0, 2] = 0.5
    truth = BoxBatch.pad([Boxes3D(BOX[None], torch.tensor([2]))])
    divergence = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    quality = math.sqrt(0.5 * 0.64)
    loss, mean = response_loss(head, found, truth, GRID, form_of())
    assert loss.item() == pytest.approx(quality * (0.3 + 0.2 * 0.5 + divergence), rel=1e-5)
    assert mean.item() == pytest.approx(quality)


@pytest.mark.parametrize("pairs", ["object", "cell", "hungarian"])
def test_a_student_that_says_the_same_has_no_loss(pairs: str):
    probability = torch.linspace(0.1, 0.8, 10)
    head = with_answer(some_head(), BOX, 9, probability)
    found = replace(found_of(BOX[None], [0], [0.5]), probability=probability[None, None])
    truth = BoxBatch.pad([Boxes3D(BOX[None], torch.tensor([9]))])
    form = form_of(pairs=pairs, cells=256)
    loss, quality = response_loss(head, found, truth, GRID, form)
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert quality.item() == pytest.approx(math.sqrt(0.8 * 0.5))
    worse, _ = response_loss(some_head(9), found, truth, GRID, form)
    assert worse.item() > 0.1


def test_metres_and_radians_by_hand():
    """A yaw next to a half turn: 2 x 0.1 away, not a whole turn."""
    label, cell = torch.tensor([[0]]), torch.tensor([[CELL]])
    own, their = BOX.clone(), BOX.clone()
    own[6], their[6] = math.pi - 0.1, -math.pi + 0.1
    own[3] += 1
    pairs = Pairs(their[None, None], torch.zeros(1, 1, 10), label, cell, torch.ones(1, 1))
    code = encode_boxes_at(own, torch.tensor(CELL), GRID)[None, None]
    form = form_of(space="metric")
    assert box_distance(code, pairs, GRID, form).item() == pytest.approx(1.2, abs=1e-4)


def test_class_divergences_by_hand():
    """Two classes, 0.5 and 0.5 against 0.75 and 0.25."""
    logit = torch.tensor([[[math.log(3), -math.log(3)]]])
    probability = torch.tensor([[[0.5, 0.5]]])
    cross = -0.5 * math.log(0.75) - 0.5 * math.log(0.25)

    def value(kind: str) -> float:
        form = form_of(classes=kind)
        return class_divergence(logit, probability, form).item()

    assert value("cross_entropy") == pytest.approx(2 * cross)
    assert value("bernoulli") == pytest.approx(2 * (cross - math.log(2)))
    # Softmaxes of (0, 0) and (ln 3, -ln 3): halves, and 0.9 and 0.1.
    soft = -0.5 * math.log(0.9) - 0.5 * math.log(0.1) - math.log(2)
    assert value("softmax") == pytest.approx(soft, rel=1e-5)


@pytest.mark.parametrize("classes", ["bernoulli", "softmax", "cross_entropy"])
def test_certain_teachers_give_finite_gradients(classes: str):
    """In float16 a probability may be 0 or 1."""
    logit = torch.zeros(1, 1, 2, requires_grad=True)
    form = form_of(classes=classes)
    loss = class_divergence(logit, torch.tensor([[[0.0, 1.0]]]), form).sum()
    loss.backward()
    assert loss.isfinite()
    assert logit.grad is not None
    assert logit.grad.isfinite().all()


def test_of_an_objects_detections_the_best_counts():
    """The third one; the first of them overlaps less, the last comes after the top three."""
    truth = BoxBatch.pad([some_boxes(1, 2)])
    owners, ious = [0, -1, 0, 0], [0.1, 0.0, 0.9, 0.95]
    boxes = torch.cat([some_boxes(k, 1).values for k in range(4)])
    found = found_of(boxes, owners, ious)
    found.probability.fill_(0.5)

    def pairs(**values: object) -> Pairs:
        form = form_of(**values)
        best = DetectionTargets(
            *(getattr(found, f)[:, : form.top] for f in DetectionTargets.__slots__)
        )
        return pair_up(some_head(), best, truth, GRID, form)

    first = pairs(top=3)
    assert first.box[0, 0].equal(boxes[2])
    assert first.weight[0].tolist() == pytest.approx([math.sqrt(0.45), 0])
    assert first.cell.equal(GRID.cell_index(truth.values[..., :2]))
    assert first.label.equal(truth.labels)
    assert pairs(top=50).box[0, 0].equal(boxes[3])


def test_cells_are_those_of_the_detections_and_tasks_those_of_their_objects():
    truth = BoxBatch.pad([some_boxes(1, 2)])
    boxes = torch.stack([BOX, BOX + 100, BOX])
    found = found_of(boxes, [1, 0, -1], [0.5, 0.5, 0.0])
    pairs = pair_up(some_head(), found, truth, GRID, form_of(pairs="cell"))
    assert pairs.cell[0].tolist() == [CELL, 0, CELL]
    assert pairs.weight[0, 0] > 0
    assert pairs.weight[0, 1:].tolist() == [0, 0]
    own = [int(truth.labels[0, 1]), int(truth.labels[0, 0]), int(found.probability[0, 2].argmax())]
    assert pairs.label[0].tolist() == own


def test_matching_takes_the_cheapest_cells():
    """Two detections, each said best at a cell that is not its own."""
    probability = torch.full((2, 10), 0.05)
    probability[0, 3], probability[1, 8] = 0.9, 0.9
    boxes = torch.stack([BOX, BOX + torch.tensor([3.0, 0, 0, 0, 0, 0, 0, 0, 0])])
    empty = CenterMaps(torch.full((1, 10, 16, 16), -6.0), torch.zeros(1, 2, 10, 16, 16), CLASS_TASK)
    head = empty
    for box, own, label in zip(boxes, probability, (3, 8), strict=True):
        head = with_answer(head, box + torch.tensor([0, 1.0, 0, 0, 0, 0, 0, 0, 0]), label, own)
    found = replace(found_of(boxes, [0, 1], [0.5, 0.5]), probability=probability[None])
    truth = BoxBatch.pad([Boxes3D(boxes, torch.tensor([3, 8]))])
    form = form_of(pairs="hungarian", cells=5)
    pairs = pair_up(head, found, truth, GRID, form)
    assert pairs.cell[0].tolist() == [CELL + 16, CELL + 16 + 3]
    at = (0, torch.arange(2), pairs.cell[0])
    cost = matching_cost(head, pairs, at, GRID)
    # One cell off, and the entropy of the very same classes.
    entropy = torch.distributions.Bernoulli(probs=probability[0]).entropy().sum()
    assert cost.diagonal().tolist() == pytest.approx([0.25 + entropy.item()] * 2, rel=1e-4)
    assert cost[0, 1] > cost[0, 0]
    assert cost[1, 0] > cost[1, 1]


def test_more_detections_than_cells_and_none_at_all():
    form = form_of(pairs="hungarian", cells=1)
    truth = BoxBatch.pad([some_boxes(1, 2)])
    found = found_of(BOX.repeat(3, 1), [0, 1, 0], [0.5, 0.5, 0.5])
    assert (pair_up(some_head(), found, truth, GRID, form).weight > 0).sum() == 1
    none = replace(found, valid=torch.zeros(1, 3, dtype=torch.bool))
    for pairs in ("object", "cell", "hungarian"):
        form = form_of(pairs=pairs)
        assert response_loss(some_head(), none, truth, GRID, form)[0] == 0


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**16),
    gamma=st.floats(0.05, 1),
    top=st.integers(1, 6),
    count=st.integers(0, 4),
)
def test_rd_is_the_printed_sum(seed: int, gamma: float, top: int, count: int):
    """At true boxes, some without a detection, some off the grid; heads are float32."""
    rng = torch.Generator().manual_seed(seed)
    frames = [some_boxes(seed, count), some_boxes(seed + 1, 2)]
    frames[1].values[0, 0] += 30
    truth, width = BoxBatch.pad(frames), max(2, count)
    found = DetectionTargets(
        box=torch.rand(2, 6, 9, generator=rng).double() + 0.5,
        score=torch.linspace(1, 0, 6).expand(2, 6).double(),
        probability=torch.rand(2, 6, 10, generator=rng).double() * 0.9 + 0.05,
        object=torch.randint(-1, width, (2, 6), generator=rng),
        iou=torch.rand(2, 6, generator=rng).double(),
        valid=torch.rand(2, 6, generator=rng) > 0.2,
    )
    head = some_head(seed, 2)
    form = form_of(gamma=gamma, top=top)
    expected = literal.response_at_objects(
        head, found, truth, GRID, gamma=gamma, code=CODE, top=top
    )
    loss, _ = response_loss(head, found, truth, GRID, form)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("pairs", ["object", "cell", "hungarian"])
def test_a_batch_without_detections_has_no_loss(pairs: str):
    found = found_of(BOX.repeat(0, 1), [], [])
    boxes = BoxBatch.pad([Boxes3D(BOX[None], torch.tensor([0]))])
    form = form_of(pairs=pairs)
    loss, quality = response_loss(some_head(), found, boxes, GRID, form)
    assert (loss.item(), quality.item()) == (0, 0)
