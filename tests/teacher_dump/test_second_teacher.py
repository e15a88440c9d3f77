"""SECOND behind the protocol, with random weights, on a small KITTI world."""

from pathlib import Path

import pytest
import torch

from frames.anchor_assign import positive_anchors
from frames.anchor_code import decode_at_anchors
from frames.augment import BevAugment
from frames.boxes import BoxBatch
from frames.dataset import read_frames
from frames.detection_classes import KITTI_CLASSES
from frames.frame import Frame
from frames.geometry import wrap_angle
from frames.loading import load_points
from nets.anchor_loss import directed
from nets.voxelize import voxelize
from runs.checkpoint import load_checkpoint, save_checkpoint
from store.schema import Target
from teacher_dump.protocol import Teacher
from teacher_dump.second_teacher import SecondTeacher
from teacher_dump.teachers import own_teacher
from teacher_dump.train import teacher_training
from tests.tiny_kitti_runs import second_run

IDENTITY = BevAugment.identity()


@pytest.fixture(scope="module")
def teacher(kitti_world: Path, tmp_path_factory: pytest.TempPathFactory) -> SecondTeacher:
    folder = tmp_path_factory.mktemp("second")
    run = second_run(folder, kitti_world)
    torch.manual_seed(0)
    path = folder / "teacher.pt"
    network = teacher_training(run).network
    save_checkpoint(path, "teacher", run.model_dump(mode="json"), network, {})
    teacher = own_teacher(load_checkpoint(path), torch.device("cpu"))
    assert isinstance(teacher, SecondTeacher)
    return teacher


@pytest.fixture
def frames(kitti_world: Path, tmp_path: Path) -> list[Frame]:
    return read_frames(second_run(tmp_path, kitti_world).data)


def test_it_says_who_it_is(teacher: SecondTeacher):
    assert isinstance(teacher, Teacher)
    info = teacher.info
    assert (info.identity.name, info.identity.kind) == ("tiny-second", "lidar")
    assert info.classes == KITTI_CLASSES
    assert info.anchors is not None
    assert info.shapes.grid == info.anchors.grid
    assert info.shapes.channels(Target.ANCHOR_LOGIT) == 18
    assert not teacher.network.training
    assert not any(weight.requires_grad for weight in teacher.network.parameters())


def test_it_speaks_at_every_anchor(teacher: SecondTeacher, frames: list[Frame]):
    boxes = BoxBatch.pad([frame.boxes for frame in frames])
    output = teacher(frames, boxes, [IDENTITY] * len(frames))
    assert output.anchors is not None
    with torch.inference_mode():
        points = [load_points(frame)[:, :3] for frame in frames]
        maps = teacher.network(voxelize(points, teacher.config.voxels))
    said = maps.bev.anchors
    assert output.anchors.logit.equal(said.logit)
    for n in (0, 7, 500, 1535):
        box = decode_at_anchors(said.code[1, n], maps.bev.table[n])
        assert torch.allclose(output.anchors.box[1, n], box)
    assert output.anchors.direction.equal(said.direction.argmax(-1))
    assert output.maps[Target.BEV_LOW].equal(maps.volume)
    assert output.maps[Target.BEV_HIGH].equal(maps.bev.high)
    low, high = teacher.info.shapes.bev_low, teacher.info.shapes.bev_high
    assert output.maps[Target.BEV_LOW].shape == (3, low, 16, 16)
    assert output.maps[Target.BEV_HIGH].shape == (3, high, 16, 16)


def test_an_objects_box_is_that_of_its_surest_anchor(teacher: SecondTeacher, frames: list[Frame]):
    """Read anchor by anchor."""
    boxes = BoxBatch.pad([frame.boxes for frame in frames])
    output = teacher(frames, boxes, [IDENTITY] * len(frames))
    assert output.anchors is not None
    seen = 0
    for b, frame in enumerate(frames):
        index, owner = positive_anchors(teacher.config.bev.anchors, frame.boxes)
        for m, label in enumerate(frame.boxes.labels.tolist()):
            own = [int(n) for n, of in zip(index, owner, strict=True) if of == m]
            assert bool(output.answered[b, m]) == bool(own)
            if not own:
                continue
            best = max(own, key=lambda n: float(output.anchors.logit[b, n, label]))  # type: ignore[union-attr]
            assert output.boxes[b, m, :6].equal(output.anchors.box[b, best, :6])
            yaw = directed(output.anchors.box[b, best, 6], output.anchors.direction[b, best])
            assert float(output.boxes[b, m, 6]) == pytest.approx(float(wrap_angle(yaw)))
            score = output.anchors.logit[b, best, label].sigmoid()
            assert float(output.scores[b, m]) == pytest.approx(float(score))
            seen += 1
    assert seen >= 5
    assert not output.answered[~boxes.valid].any()


def test_a_view_is_seen_and_answered_in_its_own_frame(teacher: SecondTeacher, frames: list[Frame]):
    flip = BevAugment.compose(flip_y=True)
    frame = frames[0]
    truth = flip.boxes3d(frame.boxes)
    output = teacher([frame], BoxBatch.pad([truth]), [flip])
    points = flip.points(load_points(frame))[:, :3]
    with torch.inference_mode():
        maps = teacher.network(voxelize([points], teacher.config.voxels))
    assert output.anchors is not None
    assert output.anchors.logit.equal(maps.bev.anchors.logit)
