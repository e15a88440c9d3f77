"""Training clouds and boxes live in one augmented frame."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from frames.boxes import Boxes3D
from frames.class_balance import class_balanced
from frames.errors import DataError
from frames.frame import Frame
from frames.geometry import yaw_rotations
from frames.loading import load_points
from frames.sensor_input import SensorInput
from teacher_dump.config import TeacherRun
from teacher_dump.train import TeacherDataset, train_teacher
from tests.tiny import teacher_run


@pytest.fixture
def run(world: Path, tmp_path: Path) -> TeacherRun:
    return teacher_run(tmp_path, world)


def cloud(seen: SensorInput) -> Tensor:
    """The points of a batch of one."""
    assert seen.points is not None
    (points,) = seen.points
    return points


def depth_inside(points: Tensor, boxes: Tensor, scale: float) -> Tensor:
    """How far (n, m) each point lies inside each box, as if metres had not been scaled."""
    local = points[:, None, :3].double() - boxes[None, :, :3].double()
    turned = torch.einsum("nmi,mij->nmj", local[..., :2], yaw_rotations(boxes[:, 6].double()))
    offset = torch.cat([turned, local[..., 2:]], dim=-1).abs()
    depth: Tensor = (boxes[:, 3:6].double() / 2 - offset).amin(-1) / scale
    return depth


def test_points_in_boxes_stay_in_them(run: TeacherRun, frames: list[Frame]):
    data = TeacherDataset(frames, run)
    before = depth_inside(load_points(frames[0]), frames[0].boxes.values, 1.0)
    assert (before > 0.01).sum() > 50
    mirrored = set()
    for position in range(12):
        seen, boxes = data[0, position]
        points = cloud(seen)
        scale = float((boxes.values[0, 3:6] / frames[0].boxes.values[0, 3:6]).mean())
        assert 0.95 <= scale <= 1.05
        after = depth_inside(points, boxes.values, scale)
        assert torch.allclose(after, before, atol=1e-4)
        assert points[:, 3:].equal(load_points(frames[0])[:, 3:])
        turn = torch.linalg.lstsq(frames[0].boxes.values[:, :2], boxes.values[:, :2]).solution
        mirrored.add(bool(turn.det() < 0))
    assert mirrored == {False, True}


def test_velocities_and_headings_turn_alike(run: TeacherRun, frames: list[Frame]):
    """A car drives where it points, before and after."""
    values = frames[0].boxes.values
    moving = values[:, 7:].norm(dim=1) > 1
    assert moving.any()

    def across(boxes: Tensor) -> Tensor:
        return boxes[:, 7] * boxes[:, 6].sin() - boxes[:, 8] * boxes[:, 6].cos()

    for position in range(6):
        _, boxes = TeacherDataset(frames, run)[0, position]
        scale = float(boxes.values[0, 3] / values[0, 3])
        assert torch.allclose(
            across(boxes.values)[moving].abs(), across(values)[moving].abs() * scale, atol=1e-3
        )


def test_a_position_decides_the_augmentation(run: TeacherRun, frames: list[Frame]):
    data = TeacherDataset(frames, run)
    (seen, boxes), (again, boxes_again), (other, _) = data[0, 3], data[0, 3], data[0, 4]
    assert cloud(seen).equal(cloud(again))
    assert boxes.values.equal(boxes_again.values)
    assert not cloud(seen).equal(cloud(other))


def test_frames_are_drawn_by_their_classes(run: TeacherRun, frames: list[Frame]):
    balanced = run.model_copy(update={"fit": run.fit.model_copy(update={"class_balanced": True})})
    drawn = [frame.token for frame in TeacherDataset(frames, balanced).frames]
    assert drawn == [frame.token for frame in class_balanced(frames, run.fit.seed)]
    assert len(drawn) > len(frames)


def test_frames_without_boxes_leave_no_folder_behind(
    run: TeacherRun, frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    balanced = run.model_copy(update={"fit": run.fit.model_copy(update={"class_balanced": True})})
    bare = [replace(frame, boxes=Boxes3D.empty()) for frame in frames]
    monkeypatch.setattr("teacher_dump.train.read_frames", lambda _data: bare)
    with pytest.raises(DataError, match="none of 3 frames has a box"):
        train_teacher(balanced, tmp_path / "out", resume=False, device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_batch_keeps_its_frames_apart(run: TeacherRun, frames: list[Frame]):
    data = TeacherDataset(frames, run)
    examples = [data[0, 0], data[1, 1]]
    batch = TeacherDataset.collate(examples)
    assert [len(one) for one in batch.seen.points or ()] == [len(cloud(s)) for s, _ in examples]
    assert batch.boxes.valid.sum(1).tolist() == [len(boxes) for _, boxes in examples]
