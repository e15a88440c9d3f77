"""Earlier key frames: what is read of them, what the student makes of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from frames.augment import BevAugment
from frames.camera_input import CameraInput
from frames.dataset import read_frames
from frames.frame import Frame
from nets.bev_backbone import BEVNeck
from nets.bev_resnet import BEVResNet, BEVResNetConfig
from nets.depth_net import DepthNet
from runs.checkpoint import load_checkpoint, save_checkpoint
from runs.config import load_config
from store.schema import Target
from student_train.config import StudentRun
from student_train.data import StudentDataset
from student_train.detector import StudentDetector
from student_train.students.camera import CameraStudent, CameraStudentConfig
from tests.student_train.seen import alone, images
from tests.tiny import write_past_student_toml

TURN = BevAugment.compose(yaw=0.2, flip_y=True)


@pytest.fixture
def run(world: Path, tmp_path: Path) -> StudentRun:
    return load_config(write_past_student_toml(tmp_path, world), StudentRun)


@pytest.fixture
def frames(run: StudentRun) -> list[Frame]:
    return read_frames(run.data)


def config_of(run: StudentRun) -> CameraStudentConfig:
    assert isinstance(run.student, CameraStudentConfig)
    return run.student


def seen(run: StudentRun, frames: list[Frame], index: int, seed: int | None = None) -> CameraInput:
    rng = None if seed is None else np.random.default_rng(seed)
    return images(run.reader.among(frames).read(frames[index], TURN, rng))


@pytest.mark.parametrize("seed", [None, 3])
def test_each_time_step_is_its_own_frame_under_one_draw_a_camera(
    run: StudentRun, frames: list[Frame], seed: int | None
):
    steps = seen(run, frames, 2, seed)
    for step, own in zip(steps.past, (frames[1], frames[0]), strict=True):
        assert step.depth is None
        # The frame by itself, under the same draws.
        rng = None if seed is None else np.random.default_rng(seed)
        by_itself = images(run.reader.read(replace(own, prev=""), TURN, rng))
        assert step.images.equal(by_itself.images)
        assert not step.images.equal(steps.images)
        drawn = steps.geometry.augmented_from_image
        assert step.geometry.augmented_from_image.equal(drawn)
        assert drawn[:, 0].equal(drawn[:, 1]) == (seed is None)
        assert step.geometry.augmented_from_ego.equal(TURN.matrix4[None])
        move = frames[2].global_from_ego.inverse() @ own.global_from_ego
        poses = torch.from_numpy(move.matrix).float() @ by_itself.geometry.ego_from_cam
        assert torch.allclose(step.geometry.ego_from_cam, poses, atol=1e-4)
        assert not torch.allclose(poses, steps.geometry.ego_from_cam, atol=1e-2)
    assert (steps.depth is None) == (seed is None)


def test_a_scenes_start_looks_at_itself(run: StudentRun, frames: list[Frame]):
    steps = seen(run, frames, 0)
    for step in steps.past:
        assert step.images.equal(steps.images)
        assert torch.allclose(step.geometry.ego_from_cam, steps.geometry.ego_from_cam, atol=1e-5)


def test_a_batch_stacks_time_steps(run: StudentRun, frames: list[Frame]):
    both = CameraInput.stack([seen(run, frames, k) for k in (1, 2)])
    assert [step.images.shape[0] for step in (both, *both.past)] == [2, 2, 2]
    assert both.past[0].images[1].equal(seen(run, frames, 2).past[0].images[0])
    assert both.to(torch.device("cpu")).past[1].images.equal(both.past[1].images)


def test_the_data_set_finds_the_past_among_its_own_frames(run: StudentRun, frames: list[Frame]):
    whole, cut = (StudentDataset(f, run, None, ()) for f in (frames, frames[2:]))
    there, gone = images(whole[2, 0].seen), images(cut[0, 0].seen)
    assert there.images.equal(gone.images)
    assert gone.past[0].images.equal(gone.images)
    assert not there.past[0].images.equal(there.images)


def low_gradient(student: CameraStudent, steps: CameraInput, channels: slice) -> Tensor | None:
    low = student(alone(steps)).maps.features[Target.BEV_LOW]
    weight = student.depth.context.weight
    (gradient,) = torch.autograd.grad(low[:, channels].sum(), weight, allow_unused=True)
    return gradient


@pytest.mark.parametrize("past_grad", [False, True])
def test_the_past_has_gradient_if_it_is_asked_for(
    run: StudentRun, frames: list[Frame], past_grad: bool
):
    config = config_of(run).model_copy(update={"past_grad": past_grad})
    student, steps = CameraStudent(config), seen(run, frames, 2)
    key, past = (low_gradient(student, steps, part) for part in (slice(0, 6), slice(6, 18)))
    assert key is not None
    assert key.any()
    assert past is not None
    assert bool(past.any()) is past_grad


def test_its_maps(run: StudentRun, frames: list[Frame]):
    student = CameraStudent(config_of(run))
    output = student(alone(seen(run, frames, 2)))
    shapes = {target: map_.shape[1:] for target, map_ in output.maps.features.items()}
    assert shapes == {
        Target.BEV_LOW: (18, 16, 16),
        Target.STAGE_1: (9, 8, 8),
        Target.BEV_HIGH: (8, 16, 16),
    }
    channels = {Target.BEV_LOW: 18, Target.STAGE_1: 9, Target.BEV_HIGH: 8}
    assert run.student.channels == channels
    low = output.maps.features[Target.BEV_LOW]
    assert not torch.allclose(low[:, :6], low[:, 6:12])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = student(alone(seen(run, frames, 2))).maps.features
    assert half[Target.BEV_HIGH].dtype == half[Target.STAGE_1].dtype == torch.float32


def test_the_depth_network_is_told_the_key_frames_calibration(
    run: StudentRun, frames: list[Frame], monkeypatch: pytest.MonkeyPatch
):
    told: list[Any] = []
    forward = DepthNet.forward

    def noting(self: DepthNet, features: Tensor, geometry: Any) -> Any:
        told.append(geometry)
        return forward(self, features, geometry)

    monkeypatch.setattr(DepthNet, "forward", noting)
    steps = seen(run, frames, 2)
    CameraStudent(config_of(run))(alone(steps))
    assert [geometry is steps.geometry for geometry in told] == [True] * 3


def test_channels_are_those_of_all_time_steps(run: StudentRun):
    document = run.student.model_dump() | {"past": (-1,)}
    message = r"backbone\.in_channels is 18, its input gives 12"
    with pytest.raises(ValidationError, match=message):
        CameraStudentConfig.model_validate(document)
    with pytest.raises(ValidationError, match=r"less than 0"):
        CameraStudentConfig.model_validate(run.student.model_dump() | {"past": (-1, 0)})


def test_a_detector_knows_the_frames_it_checked(
    run: StudentRun, frames: list[Frame], tmp_path: Path
):
    torch.manual_seed(0)
    path = tmp_path / "student.pt"
    network = CameraStudent(config_of(run))
    save_checkpoint(path, "student", run.model_dump(mode="json"), network, {})
    detector = StudentDetector(load_checkpoint(path, "student"), torch.device("cpu"))
    (blind,) = detector.detect(frames[2:])
    *_, together = detector.detect(frames)
    detector.check(frames)
    (alone,) = detector.detect(frames[2:])
    assert len(alone.scores)
    assert torch.allclose(alone.scores, together.scores, atol=1e-5)
    assert not torch.allclose(alone.boxes[:3], blind.boxes[:3], atol=1e-3)


def test_the_trunk_at_the_papers_size():
    """As released: 300 channels at 64 x 64, 600 at 32 x 32, 1200 at 16 x 16; neck 4 x 64."""
    config = BEVResNetConfig()
    with torch.device("meta"):
        maps = BEVResNet(config)(torch.zeros(1, 450, 128, 128))
        high = BEVNeck(config)(maps)
    shapes = [(450, 128, 128), (300, 64, 64), (600, 32, 32), (1200, 16, 16)]
    assert [tuple(map_.shape[1:]) for map_ in maps] == shapes
    assert tuple(high.shape[1:]) == (256, 128, 128)


def test_a_trunk_that_does_not_fit():
    with pytest.raises(ValidationError, match="3 widths, 2 blocks, 4 up_channels"):
        BEVResNetConfig(blocks=(2, 2))
    small = BEVResNetConfig(in_channels=3, widths=(4, 4), blocks=(1, 1), up_channels=(1, 1, 1))
    with pytest.raises(ValueError, match=r"\(10, 12\) is no multiple of the backbone's stride 4"):
        BEVResNet(small)(torch.zeros(1, 3, 10, 12))
