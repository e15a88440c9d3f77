"""The stereo student's input and network: geometry, flip, padding, what it refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from frames.augment import BevAugment
from frames.boxes import BoxBatch
from frames.camera_view import project_ego
from frames.errors import DataError
from frames.kitti.config import KittiConfig
from frames.kitti.reader import KittiFrame, read_frames
from frames.kitti.stereo import focal_baseline
from store.schema import Target
from student_train.config import StudentRun
from student_train.students.stereo import StereoStudent, StereoStudentConfig
from student_train.students.stereo_input import StereoInput, StereoReader, cut
from tests.frames.kitti.tiny_kitti import write_tiny
from tests.tiny_kitti_runs import liga_run

FLIP = BevAugment.compose(flip_y=True)
IDENTITY = BevAugment.identity()
# Seen by both of the tiny tree's cameras, well inside.
POINT = torch.tensor([10.0, 0.5, -0.6])


@pytest.fixture
def frame(tmp_path: Path) -> KittiFrame:
    (first, *_) = read_frames(KittiConfig(root=write_tiny(tmp_path / "tree"), split="trainval"))
    return first


@pytest.fixture
def run(tmp_path: Path) -> StudentRun:
    return liga_run(tmp_path, tmp_path)


def marked(frame: KittiFrame, folder: Path) -> KittiFrame:
    """The frame with black images and a soft spot where the point is seen."""
    cameras = []
    for camera in frame.cameras:
        (u, v), _ = project_ego(camera, POINT)
        height, width = camera.size
        rows, cols = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
        spot = np.exp(-((cols - float(u)) ** 2 + (rows - float(v)) ** 2) / 8)
        path = folder / f"{camera.name}.png"
        Image.fromarray(np.repeat((255 * spot).astype(np.uint8)[..., None], 3, 2)).save(path)
        cameras.append(replace(camera, path=path))
    return replace(frame, cameras=tuple(cameras))


def bright_spot(image: Tensor) -> Tensor:
    """(u, v) of the brightness's mean."""
    weight = image[0].double()
    rows, cols = (torch.arange(n).double() for n in weight.shape)
    total = weight.sum()
    return torch.stack([(weight.sum(0) * cols).sum() / total, (weight.sum(1) * rows).sum() / total])


def projected(seen: StereoInput, point: Tensor) -> Tensor:
    u, v, depth = seen.image_from_voxel[0].double() @ torch.cat([point, torch.ones(1)]).double()
    pixel: Tensor = torch.stack([u, v]) / depth
    return pixel


@pytest.mark.parametrize("augment", [IDENTITY, FLIP])
@pytest.mark.parametrize("scale", [1.0, 1.25, 0.8])
def test_a_point_is_seen_where_the_geometry_says(
    frame: KittiFrame, tmp_path: Path, augment: BevAugment, scale: float
):
    """In the left image by the projection, in the right one a disparity further left."""
    reader = StereoReader((16, 32), scale, with_depth=False)
    seen = reader.read(marked(frame, tmp_path), augment, None)
    point = augment.points(POINT[None])[0]
    expected = projected(seen, point)
    left, right = (bright_spot(image) for image in seen.images[0])
    margin = torch.minimum(expected, torch.tensor([31.0, 15]) - expected)
    assert margin.min() > 2.5
    assert (left - expected).abs().max() < 0.5
    disparity = float(seen.focal_baseline[0]) / float(POINT[0])
    assert (left - right).tolist() == pytest.approx([disparity, 0], abs=0.5)


def test_the_flip_is_its_own_inverse(frame: KittiFrame):
    """Mirrored images, and the same distance between the eyes."""
    reader = StereoReader((32, 48), 1.0, with_depth=False)
    here, there = (reader.read(frame, augment, None) for augment in (IDENTITY, FLIP))
    own = slice(0, 40)
    assert there.images[0, 0, :, :20, own].equal(here.images[0, 1, :, :20, own].flip(2))
    assert there.images[0, 1, :, :20, own].equal(here.images[0, 0, :, :20, own].flip(2))
    assert there.focal_baseline.tolist() == pytest.approx(here.focal_baseline.tolist())
    assert float(here.focal_baseline[0]) == pytest.approx(focal_baseline(*frame.cameras))


def test_what_is_cut_and_what_is_padded():
    # The bottom 320 of 375 rows; all 1242 columns, six more to the right.
    assert cut((375, 1242), (320, 1248), 1.0).crop == (55, 0)
    # Columns from the middle.
    assert cut((400, 1300), (320, 1248), 1.0).crop == (80, 26)
    half = cut((2056, 2464), (640, 1248), 0.5)
    assert (half.resized, half.crop) == ((1028, 1232), (388, 0))


def test_padding_is_zero_after_normalising(run: StudentRun, frame: KittiFrame):
    assert isinstance(run.student, StereoStudentConfig)
    student = StereoStudent(run.student)
    seen = StereoReader((32, 96), 1.0, with_depth=False).read(frame, IDENTITY, None)
    assert seen.size.tolist() == [[20, 40]]
    values = student._normalised(seen)
    assert (values[..., 20:, :] == 0).all()
    assert (values[..., 40:] == 0).all()
    # ImageNet's statistics on the left image's colour, 200 30 60.
    expected = [(200 / 255 - 0.485) / 0.229, (30 / 255 - 0.456) / 0.224, (60 / 255 - 0.406) / 0.225]
    assert values[0, 0, :, 10, 10].tolist() == pytest.approx(expected, abs=1e-4)


def test_depth_is_taught_in_training_alone(frame: KittiFrame):
    reader = StereoReader((20, 40), 1.0, with_depth=True)
    assert reader.read(frame, IDENTITY, None).depth is None
    for augment in (IDENTITY, FLIP):
        seen = reader.read(frame, augment, np.random.default_rng(0))
        assert seen.depth is not None
        rows, cols = seen.depth[0].nonzero().unbind(1)
        # One of the three points is seen: 9.7 m before the Velodyne, which stands 0.3 m behind.
        assert seen.depth[0, rows, cols].tolist() == pytest.approx([9.4], abs=1e-4)
        lidar = torch.tensor([9.7 - 0.3, 1, 0.5])
        expected = projected(seen, augment.points(lidar[None])[0])
        assert (expected - torch.tensor([cols[0], rows[0]])).abs().max() <= 0.5


def test_more_than_a_flip_is_refused(frame: KittiFrame):
    reader = StereoReader((32, 48), 1.0, with_depth=False)
    with pytest.raises(DataError, match="can be mirrored along y alone: set nothing but flip_y"):
        reader.read(frame, BevAugment.compose(yaw=0.1), None)


def test_one_eye_is_not_enough(frame: KittiFrame):
    reader = StereoReader((32, 48), 1.0, with_depth=False)
    with pytest.raises(DataError, match=r"has the cameras \['image_2'\]; a stereo student needs"):
        reader.check([replace(frame, cameras=frame.cameras[:1])], training=True)


def test_exchanged_eyes_are_refused(frame: KittiFrame):
    reader = StereoReader((32, 48), 1.0, with_depth=False)
    reader.check([frame], training=False)
    with pytest.raises(DataError, match="image_3 does not stand left of image_2"):
        reader.check([replace(frame, cameras=frame.cameras[::-1])], training=False)


def test_shapes_and_gradients(run: StudentRun, frame: KittiFrame):
    assert isinstance(run.student, StereoStudentConfig)
    student = StereoStudent(run.student)
    seen = run.reader.read(frame, IDENTITY, np.random.default_rng(0))
    assert isinstance(seen, StereoInput)
    batch = seen.stack([seen, seen])
    output = student(batch)
    assert output.maps.features[Target.BEV_LOW].shape == (2, 4, 16, 16)
    assert output.maps.features[Target.BEV_HIGH].shape == (2, 8, 16, 16)
    assert run.student.channels == {Target.BEV_LOW: 4, Target.BEV_HIGH: 8}
    assert output.depth_logit.shape == (2, 8, 8, 24)
    boxes = BoxBatch.pad([frame.boxes, frame.boxes])
    terms = student.detection_terms(output, boxes)
    depth = student.auxiliary_terms(output, batch, boxes)
    assert depth.keys() == {"depth"}
    torch.autograd.backward(torch.stack([*terms.values(), *depth.values()]).sum())
    assert all(weight.grad is not None for weight in student.parameters())
    # The low map is on the way to the loss: gradient shares are measured there.
    low = student(batch).maps
    (gradient,) = torch.autograd.grad(low.anchors.logit.sum(), low.features[Target.BEV_LOW])
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("image_size", (40, 96), "expected multiples of 16"),
        ("image_size", (320, 96), None),
        ("backbone", {"pools": (64,)}, "at least 256 for the largest of backbone.pools"),
    ],
)
def test_image_sizes(run: StudentRun, key: str, value: Any, message: str | None):
    document = run.student.model_dump()
    document[key] = document[key] | value if isinstance(value, dict) else value
    if message is None:
        StereoStudentConfig.model_validate(document)
        return
    with pytest.raises(ValidationError, match=message):
        StereoStudentConfig.model_validate(document)
