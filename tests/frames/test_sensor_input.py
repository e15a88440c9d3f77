"""What a detector of each kind reads of a frame, and that one augmentation moves all of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from frames.augment import BevAugment
from frames.dataset import read_frames
from frames.errors import DataError
from frames.frame import Frame
from frames.image_augment import ImageAugmentConfig
from frames.loading import load_points
from frames.nuscenes import NuScenesConfig
from frames.sensor_input import SENSORS, Modality, SensorInput, SensorReader, check_sensor_files

IMAGES = ImageAugmentConfig(out_size=(32, 88), resize=(0.66, 0.75), flip=0.5)
FRONT = "CAM_FRONT"


@pytest.fixture
def frames(world: Path) -> list[Frame]:
    config = NuScenesConfig(
        root=world, version="v1.0-world", split="world_train", sweeps=2, cameras=(FRONT, "CAM_BACK")
    )
    return read_frames(config)


def reader(kind: Modality, depth_stride: int | None = None) -> SensorReader:
    images = None if kind == "lidar" else IMAGES
    return SensorReader(
        kind=kind, cameras=(FRONT,), image_augment=images, depth_stride=depth_stride
    )


@pytest.mark.parametrize("kind", ["lidar", "camera", "fusion"])
def test_each_kind_reads_its_own(frames: list[Frame], kind: Modality):
    seen = reader(kind).read(frames[0], BevAugment.identity(), None)
    assert (seen.points is not None) == ("lidar" in SENSORS[kind])
    assert (seen.cameras is not None) == ("camera" in SENSORS[kind])
    if seen.points is not None:
        assert seen.points[0].equal(load_points(frames[0]))
    if seen.cameras is not None:
        assert seen.cameras.images.shape == (1, 2, 3, 32, 88)


def test_one_augmentation_moves_points_boxes_and_cameras(frames: list[Frame]):
    """A box's centre keeps its distance to its points, and the pixel at which it is seen."""
    frame, augment = frames[0], BevAugment.compose(yaw=0.4, scale=1.1, flip_y=True)
    plain = reader("fusion").read(frame, BevAugment.identity(), None)
    moved = reader("fusion").read(frame, augment, None)
    assert plain.points is not None
    assert moved.points is not None
    centres = frame.boxes.values[:, :3], augment.boxes3d(frame.boxes).values[:, :3]
    gaps = [
        torch.cdist(c, p[0][:, :3])
        for c, p in zip(centres, (plain.points, moved.points), strict=True)
    ]
    torch.testing.assert_close(gaps[1], 1.1 * gaps[0], rtol=1e-3, atol=1e-3)
    in_cam = []
    for seen, own in zip((plain, moved), centres, strict=True):
        assert seen.cameras is not None
        cam_from_bev = torch.linalg.inv(seen.cameras.geometry.bev_from_cam()[0, 0].double())
        in_cam.append(own.double() @ cam_from_bev[:3, :3].mT + cam_from_bev[:3, 3])
    torch.testing.assert_close(in_cam[0], in_cam[1], rtol=1e-4, atol=1e-4)


def test_a_batch_keeps_its_frames_apart(frames: list[Frame]):
    parts = [reader("fusion").read(f, BevAugment.identity(), None) for f in frames[:2]]
    batch = SensorInput.stack(parts).to(torch.device("cpu"))
    assert batch.points is not None
    assert batch.cameras is not None
    for index, part in enumerate(parts):
        assert part.points is not None
        assert part.cameras is not None
        assert batch.points[index].equal(part.points[0])
        assert batch.cameras.images[index].equal(part.cameras.images[0])
        assert batch.cameras.geometry.ego_from_cam[index].equal(
            part.cameras.geometry.ego_from_cam[0]
        )
    lidar = SensorInput.stack([reader("lidar").read(frames[0], BevAugment.identity(), None)])
    assert lidar.to(torch.device("cpu")).cameras is None


def test_depth_is_read_in_training_alone(frames: list[Frame]):
    taught = reader("camera", depth_stride=8)
    trained = taught.read(frames[0], BevAugment.identity(), np.random.default_rng(0)).cameras
    tested = taught.read(frames[0], BevAugment.identity(), None).cameras
    assert trained is not None
    assert trained.depth is not None
    assert trained.depth.shape == (1, 2, 4, 11)
    assert tested is not None
    assert tested.depth is None


def test_missing_files_and_cameras_are_told(frames: list[Frame]):
    gone = [frame_without(frames[0], "sweeps"), frame_without(frames[0], "cameras")]
    for kind in ("lidar", "fusion", "anything"):
        with pytest.raises(DataError, match=r"no file .*gone"):
            check_sensor_files([gone[0]], kind)
    check_sensor_files([gone[0]], "camera")
    for kind in ("camera", "fusion"):
        with pytest.raises(DataError, match=r"no file .*gone"):
            check_sensor_files([gone[1]], kind)
    check_sensor_files([gone[1]], "lidar")
    lacking = SensorReader(kind="camera", cameras=("CAM_FRONT_LEFT",), image_augment=IMAGES)
    with pytest.raises(DataError, match="lacks CAM_FRONT_LEFT"):
        lacking.check(frames, training=False)
    taught = reader("camera", depth_stride=8)
    taught.check([gone[0]], training=False)
    with pytest.raises(DataError, match=r"no file .*gone"):
        taught.check([gone[0]], training=True)


def frame_without(frame: Frame, sensor: str) -> Frame:
    """The frame, its sensor's files elsewhere."""
    if sensor == "sweeps":
        return replace(frame, sweeps=tuple(replace(s, path=Path("gone")) for s in frame.sweeps))
    return replace(frame, cameras=tuple(replace(c, path=Path("gone")) for c in frame.cameras))
