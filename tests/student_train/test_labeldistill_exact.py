"""LabelDistill from the foreground cache is LabelDistill from the teacher's whole maps."""

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from frames.augment import BevAugment
from frames.boxes import BoxBatch, Boxes3D
from store.choices import Encoding
from store.rows import CachedRow
from store.schema import Target
from student_train.methods.base import StudentMaps
from student_train.methods.labeldistill import LabelDistill, channel_third
from tests import literal_labeldistill as literal
from tests.student_train.labeldistill_case import (
    CLASS_TASK,
    FRAMES,
    GRID,
    TEACHER,
    TOKENS,
    leaves,
    method_of,
    rows_of,
    student_of,
    targets_of,
    teacher_head,
)

# Features, logits and codes are float16, within 2**-11 of max(1, |value|); terms are of first and
# second order in them.
LOSS_BOUND, GRADIENT_BOUND = 2**-10, 2**-9
# What remains where nothing is rounded: a bilinear sample at a cell's centre, in float32.
FLOAT32_BOUND = 2e-5


def online(method: LabelDistill, student: StudentMaps, boxes: BoxBatch) -> dict[str, Tensor]:
    """The terms as a student gets them whose teacher runs beside it."""
    config, frames = method.config, FRAMES if method.config.partition == "intended" else 1
    each = [TEACHER.maps(token) for token in TOKENS]
    maps = {target: torch.cat([one[target] for one in each]) for target in each[0]}
    mask = literal.class_heatmaps(boxes, GRID).sum(1)
    low, half = student.features[Target.BEV_LOW], student.features[Target.STAGE_1]
    terms = {}
    for name, adaptors, third, form in (
        ("lidar", method.lidar_adaptors, 1, config.lidar_mask),
        ("label", method.label_adaptors, 0, config.label_mask),
    ):
        if adaptors is None:
            continue
        kind = "stage" if name == "lidar" else "label"
        own = [
            adaptors[0](channel_third(low, third, frames)),
            adaptors[1](channel_third(half, third)),
        ]
        said = [maps[Target(f"{kind}_{level}")] for level in (0, 1)]
        terms[name] = literal.feature_term(said, own, mask, binary=form == "binary")
    terms["heatmap"] = literal.heatmap_term(
        student.center, teacher_head(), boxes, GRID, config.response
    )
    terms["box"] = literal.box_term(student.center, teacher_head(), boxes, GRID, config.code)
    weights = {name: getattr(config, name).weight for name in terms}
    return {name: weights[name] * term for name, term in terms.items()}


def gradients(terms: Mapping[str, Tensor], student: StudentMaps) -> dict[str, Tensor]:
    wanted = leaves(student)
    total = torch.stack(list(terms.values())).sum()
    found = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    zeros = [torch.zeros_like(leaf) for leaf in wanted.values()]
    return {
        name: zero if own is None else own
        for name, own, zero in zip(wanted, found, zeros, strict=True)
    }


@st.composite
def ground_truths(draw: st.DrawFn) -> Boxes3D:
    """Up to four boxes, some off the grid, some longer than half of it."""
    count = draw(st.integers(0, 4))
    number = st.floats(0, 1, width=32)
    rows = [
        [
            *(-7 + 14 * draw(number), -9 + 18 * draw(number), draw(number)),
            *(0.3 + 9 * draw(number), 0.3 + 3 * draw(number), 1.5),
            *(-3 + 6 * draw(number), draw(number), draw(number)),
        ]
        for _ in range(count)
    ]
    labels = [draw(st.integers(0, 9)) for _ in range(count)]
    return Boxes3D(torch.tensor(rows).reshape(-1, 9).float(), torch.tensor(labels).long())


def compare(
    method: LabelDistill, truths: list[Boxes3D], rows: list[CachedRow], seed: int
) -> tuple[float, float]:
    """Largest relative error of a term, and of the gradient on one of the student's maps."""
    student, boxes = student_of(seed), BoxBatch.pad(truths)
    cached = method(student, targets_of(method, rows), boxes).terms
    live = online(method, student, boxes)
    assert cached.keys() == live.keys() == set(method.config.terms)
    loss = max(abs((cached[t] - live[t]).item()) / max(live[t].item(), 1.0) for t in live)
    ours, theirs = gradients(cached, student), gradients(live, student)
    off = (ours["box_code"] - theirs["box_code"]).abs() > 1e-6
    assert not (off & ~undecided(student)).any()
    smooth = [name for name in theirs if name != "box_code"]
    largest = max(float(theirs[name].norm()) for name in smooth)
    gap = max(
        float((ours[name] - theirs[name]).norm()) / max(float(theirs[name].norm()), 1e-3 * largest)
        for name in smooth
    )
    return loss, gap


def undecided(student: StudentMaps) -> Tensor:
    """Where rounding may turn the sign of |student - teacher|, for either of the teacher's tasks
    that one of the student's stands for.
    """
    teacher, own = teacher_head(), student.center.box_code.detach()
    near = torch.zeros_like(own, dtype=torch.bool)
    for label in range(10):
        other = teacher.box_code[:, teacher.class_task[label]]
        mine = int(CLASS_TASK[label])
        near[:, mine] |= (own[:, mine] - other).abs() <= 2**-11 * other.abs().clamp(min=1)
    return near


@pytest.mark.parametrize("partition", ["intended", "official"])
@pytest.mark.parametrize("response", ["soft_target", "official_dead_positive"])
@settings(max_examples=6)
@given(truths=st.tuples(ground_truths(), ground_truths()), seed=st.integers(0, 2**16))
def test_loss_and_gradient_are_the_online_ones_to_float16_rounding(
    partition: str, response: str, truths: tuple[Boxes3D, Boxes3D], seed: int
):
    method = method_of(partition=partition, response=response)
    rows = rows_of(method, [*truths], BevAugment.identity())
    loss, gradient = compare(method, [*truths], rows, seed)
    assert loss < LOSS_BOUND
    assert gradient < GRADIENT_BOUND


@settings(max_examples=6)
@given(
    truths=st.tuples(ground_truths(), ground_truths()),
    seed=st.integers(0, 2**16),
    yaw=st.floats(-0.4, 0.4),
    flip=st.booleans(),
)
def test_the_same_in_a_stored_view(
    truths: tuple[Boxes3D, Boxes3D], seed: int, yaw: float, flip: bool
):
    """The teacher saw the augmented frame, and so does the student."""
    view = BevAugment.compose(yaw=yaw, scale=1.04, flip_y=flip)
    method = method_of(label_mask="soft", lidar_mask="binary")
    seen = [view.boxes3d(truth) for truth in truths]
    loss, gradient = compare(method, seen, rows_of(method, [*truths], view), seed)
    assert loss < LOSS_BOUND
    assert gradient < GRADIENT_BOUND


@pytest.mark.parametrize("seed", [0, 1])
def test_features_in_float32_leave_float32_rounding(seed: int):
    method = method_of(heatmap={"weight": 0}, box={"weight": 0})
    values = torch.tensor([[1.2, 0.3, 0, 4, 2, 1.5, 0.7, 0, 0], [-4, 5.4, 0, 9, 3, 2, 0, 0, 0]])
    truths = [Boxes3D(values, torch.tensor([0, 3])), Boxes3D(values[:1] + 2, torch.tensor([8]))]
    rows = rows_of(method, truths, BevAugment.identity(), Encoding.FLOAT32)
    student, boxes = student_of(seed), BoxBatch.pad(truths)
    cached = method(student, targets_of(method, rows), boxes).terms
    live = {name: t for name, t in online(method, student, boxes).items() if name in cached}
    for name in ("lidar", "label"):
        assert cached[name].item() == pytest.approx(live[name].item(), rel=FLOAT32_BOUND)
    ours, theirs = gradients(cached, student), gradients(live, student)
    for name in (str(Target.BEV_LOW), str(Target.STAGE_1)):
        gap = (ours[name] - theirs[name]).norm() / theirs[name].norm()
        assert gap.item() < FLOAT32_BOUND
