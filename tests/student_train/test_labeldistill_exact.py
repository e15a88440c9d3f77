"""LabelDistill from the foreground cache is LabelDistill from the teacher's whole maps."""

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from frames.augment import BevAugment
from frames.boxes import BoxBatch, Boxes3D
from frames.frame import Frame
from frames.geometry import SE3
from frames.grid import BEVGrid
from nets.center_head import CenterHeadConfig, CenterMaps
from store.choices import Coverage, Encoding
from store.plan import masks_of, plan_arrays
from store.rows import CachedRow, token_hash
from store.schema import DatasetIdentity, Fingerprint, Target
from store.values import RowDecoder, checked_row
from student_train.methods.base import MethodContext, StudentMaps, TeacherTargets
from student_train.methods.labeldistill import LabelDistill, LabelDistillConfig, channel_third
from student_train.targets import frame_targets, pad_targets
from teacher_dump.teacher_rows import teacher_rows
from tests import literal_labeldistill as literal
from tests.map_teacher import MapTeacher

GRID = BEVGrid(x_min=-6.0, y_min=-8.0, cell_size=1.0, shape=(16, 12))
WIDTH, FRAMES = 4, 2
LOW, HALF = 6 * FRAMES, 9
# Of two tasks, unlike the teacher's six.
CLASS_TASK = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
TEACHER = MapTeacher(GRID, WIDTH)
CONTEXT = MethodContext(
    grid=GRID,
    classes=TEACHER.info.classes,
    student_channels={Target.BEV_LOW: LOW, Target.STAGE_1: HALF},
    teacher_channels=TEACHER.info.shapes.further,
    student_frames=FRAMES,
)
TOKENS = ("one", "two")
TERMS = ("lidar", "label", "heatmap", "box")
# Features, logits and codes are float16, within 2**-11 of max(1, |value|); terms are of first and
# second order in them.
LOSS_BOUND, GRADIENT_BOUND = 2**-10, 2**-9
# What remains where nothing is rounded: a bilinear sample at a cell's centre, in float32.
FLOAT32_BOUND = 2e-5


def method_of(**settings: object) -> LabelDistill:
    torch.manual_seed(0)
    return LabelDistill(LabelDistillConfig.model_validate(settings), CONTEXT)


def student_of(seed: int) -> StudentMaps:
    rng = torch.Generator().manual_seed(seed)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(len(TOKENS), *shape, generator=rng).requires_grad_()

    rows, cols = GRID.shape
    features = {
        Target.BEV_LOW: leaf(LOW, rows, cols),
        Target.STAGE_1: leaf(HALF, rows // 2, cols // 2),
    }
    head = CenterMaps(leaf(10, rows, cols), leaf(2, 10, rows, cols), CLASS_TASK)
    return StudentMaps(features, head)


def leaves(student: StudentMaps) -> dict[str, Tensor]:
    head = student.center
    features = {str(target): map_ for target, map_ in student.features.items()}
    return {**features, "heatmap_logit": head.heatmap_logit, "box_code": head.box_code}


def frame_of(boxes: Boxes3D, token: str) -> Frame:
    return Frame(
        token=token,
        scene="scene",
        timestamp_us=1,
        global_from_ego=SE3.identity(),
        cameras=(),
        sweeps=(),
        boxes=boxes,
        box_points=(1,) * len(boxes),
        prev="",
        next="",
    )


def rows_of(
    method: LabelDistill,
    truths: list[Boxes3D],
    augment: BevAugment,
    encoding: Encoding | None = None,
) -> list[CachedRow]:
    """What a store of the teacher's views gives back, but for the disk."""
    needs = method.needs(method.config, None)
    made_for = Fingerprint(
        teacher=TEACHER.info.identity,
        dataset=DatasetIdentity(
            name="d", version="v", split="s", token_hash=token_hash(TOKENS), ground_truth_filter={}
        ),
        grid=GRID,
        classes=TEACHER.info.classes,
        coverage=Coverage.FOREGROUND,
        masks=masks_of(needs),
        arrays=plan_arrays(needs, Coverage.FOREGROUND, TEACHER.info.shapes, encoding),
        code_revision="r",
    )
    frames = [frame_of(truth, token) for truth, token in zip(truths, TOKENS, strict=True)]
    given_rows = teacher_rows(
        TEACHER, frames, made_for.given, made_for.masks, [augment] * len(frames)
    )
    names = [spec.name for spec in made_for.stored]
    found = []
    for row in given_rows:
        stored = dict(zip(names, checked_row(row, row.token, made_for), strict=True))
        arrays = RowDecoder("store", made_for)(stored, row.token)
        found.append(CachedRow(token=row.token, view=0, augment=augment, gt=row.gt, arrays=arrays))
    return found


def targets_of(
    method: LabelDistill, rows: list[CachedRow], carried: BevAugment | None = None
) -> TeacherTargets:
    carried = carried or BevAugment.identity()
    needs = method.needs(method.config, None)
    return pad_targets([frame_targets(row, needs, GRID, carried) for row in rows])


def teacher_head() -> CenterMaps:
    heads = [TEACHER.head(token) for token in TOKENS]
    return CenterMaps(
        torch.cat([head.heatmap_logit for head in heads]),
        torch.cat([head.box_code for head in heads]),
        torch.tensor(CenterHeadConfig().class_task),
    )


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
