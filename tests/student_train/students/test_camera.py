"""The network as a whole, and configs whose parts do not fit."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from frames.augment import BevAugment
from frames.camera_geometry import CameraGeometry
from frames.camera_input import CameraInput
from frames.frame import Frame
from nets.depth_net import CameraGate
from store.schema import Target
from student_train.config import StudentRun
from student_train.students.camera import CameraStudent, CameraStudentConfig
from tests.student_train.seen import alone, images


def camera_config(run: StudentRun) -> CameraStudentConfig:
    assert isinstance(run.student, CameraStudentConfig)
    return run.student


@pytest.fixture
def cameras(run: StudentRun, frames: list[Frame]) -> CameraInput:
    return images(run.reader.read(frames[0], BevAugment.identity(), None))


@pytest.fixture
def student(run: StudentRun) -> CameraStudent:
    torch.manual_seed(0)
    return CameraStudent(camera_config(run)).eval()


def moved(geometry: CameraGeometry, augment: BevAugment) -> CameraGeometry:
    return replace(geometry, augmented_from_ego=augment.matrix4[None])


def blind_to_calibration(student: CameraStudent) -> CameraStudent:
    """Without it the depth network sees the same images, however the BEV frame is turned."""
    for gate in student.modules():
        if isinstance(gate, CameraGate):
            last = gate.mlp[-2]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
    return student


def low(student: CameraStudent, cameras: CameraInput, geometry: CameraGeometry) -> Tensor:
    with torch.inference_mode():
        return student(alone(replace(cameras, geometry=geometry))).maps.features[Target.BEV_LOW]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("augment", "axes"),
    [
        (BevAugment.compose(flip_x=True), [3]),
        (BevAugment.compose(flip_y=True), [2]),
        (BevAugment.compose(flip_x=True, flip_y=True), [2, 3]),
    ],
)
def test_a_flip_of_the_bev_frame_mirrors_the_low_map(
    student: CameraStudent, cameras: CameraInput, augment: BevAugment, axes: list[int]
):
    blind_to_calibration(student)
    still = low(student, cameras, cameras.geometry)
    flipped = low(student, cameras, moved(cameras.geometry, augment))
    assert still.abs().max() > 0.1
    assert torch.allclose(flipped, still.flip(axes), atol=1e-4)
    assert not torch.allclose(flipped, still, atol=1e-2)


def test_a_quarter_turn_of_the_bev_frame_turns_the_low_map(
    student: CameraStudent, cameras: CameraInput
):
    """Counter-clockwise: what lay ahead (+x, columns) then lies to the left (+y, rows)."""
    blind_to_calibration(student)
    still = low(student, cameras, cameras.geometry)
    quarter = BevAugment.compose(yaw=torch.pi / 2)
    turned = low(student, cameras, moved(cameras.geometry, quarter))
    # New (x, y) = (-y, x): row of the new map is the old column, columns run against old rows.
    assert torch.allclose(turned, still.mT.flip(3), atol=1e-3)


def test_it_knows_its_calibration(student: CameraStudent, cameras: CameraInput):
    geometry = replace(cameras.geometry, image_from_cam=cameras.geometry.image_from_cam * 1.1)
    with torch.inference_mode():
        a = student(alone(cameras)).depth_logit
        b = student(alone(replace(cameras, geometry=geometry))).depth_logit
    assert not torch.allclose(a, b, atol=1e-5)


def test_shapes_and_gradients(run: StudentRun, cameras: CameraInput):
    student = CameraStudent(camera_config(run))
    output = student(alone(cameras))
    assert output.maps.features[Target.BEV_LOW].shape == (1, 6, 16, 16)
    assert output.maps.features[Target.BEV_HIGH].shape == (1, 8, 16, 16)
    assert output.maps.center.heatmap_logit.shape == (1, 10, 16, 16)
    assert output.depth_logit.shape == (1, 6, 10, 4, 11)
    assert run.student.channels == {Target.BEV_LOW: 6, Target.BEV_HIGH: 8}
    (output.maps.center.heatmap_logit.square().sum() + output.maps.center.box_code.sum()).backward()
    without = {name for name, weight in student.named_parameters() if weight.grad is None}
    # The one level taken is of stride 8: timm builds the deeper stages all the same.
    assert {name.split(".")[2] for name in without} == {"layer3", "layer4"}


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("depth", "in_channels", 9, r"depth\.in_channels is 9, its input gives 8"),
        ("depth", "stride", 16, r"depth\.stride is 16, its input gives 8"),
        ("backbone", "in_channels", 7, r"backbone\.in_channels is 7, its input gives 6"),
        ("head", "in_channels", 7, r"head\.in_channels is 7, its input gives 8"),
        ("decode", "circle_squared", (1.0,), r"circle_squared entries is 1, its input gives 2"),
    ],
)
def test_parts_that_do_not_fit(run: StudentRun, part: str, key: str, value: Any, message: str):
    config = run.student.model_dump()
    config[part][key] = value
    with pytest.raises(ValidationError, match=message):
        CameraStudentConfig.model_validate(config)


def test_weights_from_a_checkpoint_need_no_pretrained_ones(run: StudentRun):
    image = camera_config(run).image.model_copy(update={"pretrained": True})
    config = run.student.model_copy(update={"image": image})
    assert config.without_pretraining() == run.student
