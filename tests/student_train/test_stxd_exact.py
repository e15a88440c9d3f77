"""STXD from the foreground cache is STXD with the teacher beside the student, past and all."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from frames.augment import BevAugment, BevAugmentConfig
from frames.boxes import BoxBatch
from frames.cell_masks import CellMask, RandomMask, foreground_cells
from frames.frame import Frame
from frames.grid import BEVGrid
from frames.heatmap import CENTER_HEAD
from frames.rotated_iou import iou_3d
from nets.center_head import CenterMaps
from runs.checkpoint import load_checkpoint
from store.reader import Cache, open_cache
from store.schema import Need, Places, Target
from student_train.config import StudentRun
from student_train.data import StudentDataset
from student_train.methods.base import (
    DetectionTargets,
    MethodContext,
    StudentMaps,
    TeacherTargets,
)
from student_train.methods.stxd import Stxd, StxdConfig
from student_train.targets import frame_targets
from teacher_dump.found_boxes import detection_arrays
from teacher_dump.protocol import Teacher
from teacher_dump.teachers import own_teacher
from tests.command import succeed
from tests.student_train.method_suite import CLASS_TASK
from tests.teacher_dump.untrained import write_untrained_teacher
from tests.tiny import write_student_toml

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
# Features are float16, within 2**-11 of max(1, |value|), their errors of either sign, and so are
# probabilities.
LOSS_BOUND, GRADIENT_BOUND = 2**-11, 2**-10
# What remains where features are not rounded: a bilinear sample at a cell's centre, in float32.
FLOAT32_BOUND = 5e-5
PAST = (-1, -2, -4)
FOUND = Need(Target.DETECTIONS, Places.DETECTIONS)


@pytest.fixture(scope="module")
def made(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stores of canonical frames, of two views, and of features in float32."""
    folder = tmp_path_factory.mktemp("stxd")
    student = write_student_toml(folder, world)
    table = f"[methods.stxd]\nrandom_cells = 20\npast = {list(PAST)}\n"
    student.write_text(student.read_text() + table)
    common = ("--checkpoint", write_untrained_teacher(folder, world), "--device", "cpu")
    for name, options in (
        ("plain", ()),
        ("views", ("--views", 2)),
        ("float32", ("--encoding", "float32")),
    ):
        succeed(
            *("dump-teacher", student, "--methods", "stxd", *options),
            *("--out", folder / name, *common),
        )
    return folder


@pytest.fixture
def teacher(made: Path) -> Teacher:
    return own_teacher(load_checkpoint(made / "teacher.pt"), torch.device("cpu"))


def method_of(grid: BEVGrid, **values: object) -> Stxd:
    weights = {term: {"weight": 1} for term in ("cd", "td", "rd")}
    config = StxdConfig.model_validate({"random_cells": 20, "past": PAST, **weights, **values})
    channels = {Target.BEV_HIGH: 8}
    return Stxd(config, MethodContext(grid, (), channels, channels))


def student_of(seed: int, batch: int) -> tuple[StudentMaps, list[Tensor]]:
    rng = torch.Generator().manual_seed(seed)
    leaves = [
        torch.randn(batch, *shape, 16, 16, generator=rng).requires_grad_()
        for shape in ((8,), (10,), (2, 10))
    ]
    head = CenterMaps(leaves[1], leaves[2], CLASS_TASK)
    return StudentMaps({Target.BEV_HIGH: leaves[0]}, head), leaves


def online(
    teacher: Teacher, method: Stxd, frames: Sequence[Frame], augments: Sequence[BevAugment]
) -> TeacherTargets:
    """What the method reads, from the teacher's own tensors; a frame's past lies before it."""
    grid, mask = method.context.grid, RandomMask(count=20)
    truths = [a.boxes3d(frame.boxes) for a, frame in zip(augments, frames, strict=True)]
    with torch.no_grad():
        said = teacher(frames, BoxBatch.pad(truths), augments)
    width = grid.num_cells
    cells = torch.zeros(len(frames), width, 2)
    values = torch.zeros(len(frames), width, 8)
    weight: dict[CellMask, Tensor] = {
        own: torch.zeros(len(frames), width) for own in (CENTER_HEAD, mask)
    }
    for b, (frame, truth) in enumerate(zip(frames, truths, strict=True)):
        # One after the other, where the cache has the union: rows are a set.
        both = foreground_cells(truth, grid, [CENTER_HEAD, mask], frame.token)
        cells[b, : len(both)] = grid.cell_centres(both)
        values[b, : len(both)] = said.maps[Target.BEV_HIGH][b].flatten(1)[:, both].T
        weight[mask][b, : len(both)] = 1
    own = TeacherTargets(
        cells=cells, cell_weight=weight, at_cells={Target.BEV_HIGH: values.float()}
    )
    past = {}
    for offset in PAST:
        at = [max(0, b + offset) for b in range(len(frames))]
        past[offset] = replace(
            own,
            cell_weight={m: w[at] for m, w in weight.items()},
            at_cells={Target.BEV_HIGH: own.at_cells[Target.BEV_HIGH][at]},
            reached=torch.tensor([b + offset >= 0 for b in range(len(frames))]),
        )
    assert said.found is not None
    arrays = [
        {name.split("/")[1]: torch.from_numpy(value) for name, value in told.items()}
        for told in map(detection_arrays, said.found(), truths)
    ]
    return replace(own, past=past, detections=detections_of(arrays))


def detections_of(frames: list[dict[str, Tensor]]) -> DetectionTargets:
    longest = max(len(frame["score"]) for frame in frames)

    def pad(name: str) -> Tensor:
        out = torch.zeros(len(frames), longest, *frames[0][name].shape[1:])
        for b, frame in enumerate(frames):
            out[b, : len(frame[name])] = frame[name]
        return out

    parts = [pad("centre"), pad("size"), pad("yaw")[..., None], pad("velocity")]
    valid = torch.tensor([[k < len(frame["score"]) for k in range(longest)] for frame in frames])
    return DetectionTargets(
        box=torch.cat(parts, 2),
        score=pad("score"),
        probability=pad("probability"),
        object=pad("object").long(),
        iou=pad("iou"),
        valid=valid,
    )


def cached(
    cache: Cache, run: StudentRun, method: Stxd, frames: Sequence[Frame], view: int
) -> tuple[TeacherTargets, list[BevAugment]]:
    """The batch of a scene's frames as the loader gives it."""
    off = run.model_copy(update={"bev_augment": BevAugmentConfig()})
    data = StudentDataset(frames, off, cache, method.needs(method.config, None))
    positions = [next(p for p in range(99) if data._view(data._chance(p)) == view) for _ in frames]
    batch = data.collate([data[k, position] for k, position in enumerate(positions)])
    return batch.targets, [cache.row(frame.token, view).augment for frame in frames]


def compare(
    method: Stxd, found: TeacherTargets, live: TeacherTargets, boxes: BoxBatch, seed: int
) -> tuple[float, float]:
    """Largest relative error of a term, and of its gradient on a map of the student."""
    loss, gradient = 0.0, 0.0
    for term in ("cd", "td", "rd"):
        student, leaves = student_of(seed, len(boxes.values))
        values = [method(student, targets, boxes).terms[term] for targets in (found, live)]
        assert values[1] > 0
        loss = max(loss, abs((values[0] - values[1]) / values[1]).item())
        ours, theirs = (
            torch.autograd.grad(v, leaves, allow_unused=True, materialize_grads=True)
            for v in values
        )
        for a, b in zip(ours, theirs, strict=True):
            if b.any():
                # Where a box code hardly differs, its sign may turn by rounding.
                gradient = max(gradient, float((a - b).norm() / b.norm()))
            else:
                assert not a.any()
    return loss, gradient


@pytest.mark.parametrize(("store", "view"), [("plain", 0), ("views", 0), ("views", 1)])
@pytest.mark.parametrize("pairs", ["object", "cell"])
def test_loss_and_gradient_are_the_online_ones_to_float16_rounding(
    made: Path, teacher: Teacher, run: StudentRun, frames: list[Frame], *,
    store: str, view: int, pairs: str,
):  # fmt: skip
    method = method_of(run.student.grid, response={"pairs": pairs})
    targets, augments = cached(open_cache(made / store), run, method, frames, view)
    live = online(teacher, method, frames, augments)
    boxes = BoxBatch.pad([a.boxes3d(f.boxes) for a, f in zip(augments, frames, strict=True)])
    loss, gradient = compare(method, targets, live, boxes, seed=view)
    assert loss < LOSS_BOUND
    assert gradient < GRADIENT_BOUND


def test_features_in_float32_leave_float32_rounding(
    made: Path, teacher: Teacher, run: StudentRun, frames: list[Frame]
):
    method = method_of(run.student.grid)
    targets, augments = cached(open_cache(made / "float32"), run, method, frames, 0)
    live = online(teacher, method, frames, augments)
    # Probabilities stay float16, whatever features are.
    live = replace(live, detections=targets.detections)
    boxes = BoxBatch.pad([frame.boxes for frame in frames])
    loss, gradient = compare(method, targets, live, boxes, seed=3)
    assert loss < FLOAT32_BOUND
    assert gradient < FLOAT32_BOUND


def test_a_scene_start_may_be_masked(
    made: Path, teacher: Teacher, run: StudentRun, frames: list[Frame]
):
    """Of offsets -1, -2, -4 in a scene of three frames, two, one and none are there."""
    method = method_of(run.student.grid, temporal={"scene_start": "mask"})
    targets, augments = cached(open_cache(made / "float32"), run, method, frames, 0)
    reached = {offset: past.reached for offset, past in targets.past.items()}
    assert {k: v.tolist() for k, v in reached.items() if v is not None} == {
        -1: [False, True, True],
        -2: [False, False, True],
        -4: [False, False, False],
    }
    live = replace(online(teacher, method, frames, augments), detections=targets.detections)
    boxes = BoxBatch.pad([frame.boxes for frame in frames])
    assert compare(method, targets, live, boxes, seed=3)[0] < FLOAT32_BOUND


def test_detections_are_carried_with_their_objects(
    made: Path, run: StudentRun, frames: list[Frame]
):
    """Into an augmented frame: boxes move, and overlap their objects as much as before."""
    row = open_cache(made / "plain")[frames[0].token]
    grid = run.student.grid
    turn = BevAugment.compose(yaw=0.4, scale=1.05, flip_x=True)
    still, moved = (
        frame_targets(row, [FOUND], grid, augment).detections
        for augment in (BevAugment.identity(), turn)
    )
    assert moved["box"].equal(turn.boxes(still["box"]))
    for name in ("score", "probability", "object", "iou", "valid"):
        assert moved[name].equal(still[name])
    owned = still["object"] >= 0
    assert owned.any()
    truth = turn.boxes3d(row.gt).values[moved["object"][owned]]
    assert torch.allclose(iou_3d(moved["box"][owned], truth), moved["iou"][owned], atol=1e-4)
