"""LabelDistill from the foreground cache is LabelDistill from the teacher's whole maps."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from frames.augment import BevAugment
from frames.boxes import BoxBatch, Boxes3D
from nets.label_encoder import LabelEncoder, LabelEncoderConfig, frozen_label_encoder
from runs.checkpoint import TEACHER_SHA256, load_checkpoint, save_checkpoint
from runs.errors import CheckpointError, ConfigError
from store.choices import Encoding
from store.rows import CachedRow
from store.schema import Target
from student_train.methods.base import StudentMaps, TeacherTargets
from student_train.methods.labeldistill import LabelDistill, LabelDistillConfig, channel_third
from tests import literal_labeldistill as literal
from tests.student_train.labeldistill_case import (
    CLASS_TASK,
    CONTEXT,
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

SOME_VALUES = torch.tensor([[1.2, 0.3, 0, 4, 2, 1.5, 0.7, 0, 0], [-4, 5.4, 0, 9, 3, 2, 0, 0, 0]])
SOME_TRUTHS = [
    Boxes3D(SOME_VALUES, torch.tensor([0, 3])),
    Boxes3D(SOME_VALUES[:1] + 2, torch.tensor([8])),
]


def online(method: LabelDistill, student: StudentMaps, boxes: BoxBatch) -> dict[str, Tensor]:
    """The terms as a student gets them whose teacher runs beside it."""
    config, frames = method.config, FRAMES if method.config.partition == "intended" else 1
    each = [TEACHER.maps(token) for token in TOKENS]
    maps = {target: torch.cat([one[target] for one in each]) for target in each[0]}
    mask = literal.class_heatmaps(boxes, GRID).sum(1)
    low, half = student.features[Target.BEV_LOW], student.features[Target.STAGE_1]
    terms = {}
    for name, adapters, third, form in (
        ("lidar", method.lidar_adaptors, 1, config.lidar_mask),
        ("label", method.label_adaptors, 0, config.label_mask),
    ):
        if adapters is None:
            continue
        kind = "stage" if name == "lidar" else "label"
        own = [
            adapters[0](channel_third(low, third, frames)),
            adapters[1](channel_third(half, third)),
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
    found = torch.autograd.grad(
        total, list(wanted.values()), allow_unused=True, materialize_grads=True
    )
    return dict(zip(wanted, found, strict=True))


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
    rows = rows_of(method, SOME_TRUTHS, BevAugment.identity(), Encoding.FLOAT32)
    student, boxes = student_of(seed), BoxBatch.pad(SOME_TRUTHS)
    cached = method(student, targets_of(method, rows), boxes).terms
    live = {name: t for name, t in online(method, student, boxes).items() if name in cached}
    for name in ("lidar", "label"):
        assert cached[name].item() == pytest.approx(live[name].item(), rel=FLOAT32_BOUND)
    ours, theirs = gradients(cached, student), gradients(live, student)
    for name in (str(Target.BEV_LOW), str(Target.STAGE_1)):
        gap = (ours[name] - theirs[name]).norm() / theirs[name].norm()
        assert gap.item() < FLOAT32_BOUND


def write_encoder(path: Path, teacher: str = TEACHER.info.identity.checkpoint_sha256) -> Path:
    torch.manual_seed(4)
    config = LabelEncoderConfig(grid=GRID, channels=(3, 5, 2), strides=(1, 2, 4), width=8)
    run = {"encoder": config.model_dump(mode="json")}
    save_checkpoint(path, "label_encoder", run, LabelEncoder(config), {TEACHER_SHA256: teacher})
    return path


@pytest.mark.parametrize("mask", ["soft", "binary"])
def test_embedded_ground_truth_is_the_online_label_term(tmp_path: Path, mask: str):
    """In the student's own frame, augmented or not; nothing of it is read from the cache."""
    path = write_encoder(tmp_path / "label_encoder.pt")
    others = {name: {"weight": 0} for name in ("lidar", "heatmap", "box")}
    method = method_of(
        labels="ground_truth", label_encoder=path, label_mask=mask, label={"weight": 1}, **others
    )
    assert method.needs(method.config, None) == frozenset()
    boxes, student = BoxBatch.pad(SOME_TRUTHS), student_of(2)
    term = method(student, TeacherTargets(), boxes).terms["label"]
    checkpoint = load_checkpoint(path, "label_encoder")
    encoder = frozen_label_encoder(checkpoint.config, checkpoint.load_into, torch.device("cpu"))
    adapters = method.label_adaptors
    assert adapters is not None
    own = [
        adapters[0](channel_third(student.features[Target.BEV_LOW], 0, FRAMES)),
        adapters[1](channel_third(student.features[Target.STAGE_1], 0)),
    ]
    weight = literal.class_heatmaps(boxes, GRID).sum(1)
    live = literal.feature_term(encoder(boxes)[:2], own, weight, binary=mask == "binary")
    assert term.item() == pytest.approx(live.item(), rel=1e-5)
    ours, theirs = (gradients({"label": value}, student) for value in (term, live))
    for name in (str(Target.BEV_LOW), str(Target.STAGE_1)):
        assert torch.allclose(ours[name], theirs[name], atol=1e-5)
    # What is trained is the adapters alone; the encoder stays as it is.
    trained = {name for name, weight in method.named_parameters() if weight.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"label_adaptors"}
    assert method.train()(student, TeacherTargets(), boxes).terms["label"].equal(term)


def test_encoders_that_do_not_fit(tmp_path: Path):
    with pytest.raises(ValidationError, match=r"set label_encoder to the label_encoder\.pt"):
        method_of(labels="ground_truth")
    alien = write_encoder(tmp_path / "alien.pt", teacher="ef" * 32)
    with pytest.raises(CheckpointError, match="was trained for the teacher of checkpoint efefef"):
        method_of(labels="ground_truth", label_encoder=alien)
    own = write_encoder(tmp_path / "own.pt")
    grid = GRID.model_copy(update={"cell_size": 2.0})
    config = LabelDistillConfig(labels="ground_truth", label_encoder=own)
    with pytest.raises(ConfigError, match=r"strides \(1, 2, 4\); expected the student's grid"):
        LabelDistill(config, replace(CONTEXT, grid=grid))
