"""UniDistill's detector: sizes by hand, what each kind sees and gives, and where things lie."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from frames.augment import BevAugment
from frames.boxes import BoxBatch, Boxes3D
from frames.camera_geometry import CameraGeometry
from frames.camera_input import CameraInput
from frames.grid import BEVGrid
from frames.sensor_input import Modality, SensorInput
from nets.bev_backbone import BEVBackbone, BEVBackboneConfig, BEVNeck
from nets.bev_detector import BEVDetector, BEVDetectorConfig
from nets.camera_encoder import CameraEncoderConfig
from nets.depth_conv import DepthConv, DepthConvConfig
from nets.gated_fuser import GatedFuser
from nets.pillar_encoder import PillarEncoder
from nets.voxel_encoder_config import VoxelEncoderConfig
from nets.voxelize import VoxelGrid

GRID = BEVGrid(x_min=-8.0, y_min=-8.0, cell_size=1.0, shape=(16, 16))
RANGE = {"range_min": (-8.0, -8.0, -3.0), "range_max": (8.0, 8.0, 5.0)}
LIDAR = {
    "kind": "pillar",
    "channels": 6,
    "stride": 2,
    "voxels": {**RANGE, "voxel_size": (0.5, 0.5, 8.0)},
}
CELL_PILLARS = {**LIDAR, "stride": 1, "voxels": {**RANGE, "voxel_size": (1.0, 1.0, 8.0)}}
IMAGE = {
    "name": "resnet18",
    "args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "out_indices": (2,)},
    "level_strides": (8,),
    "stride": 8,
    "up_channels": 8,
}
CAMERA = {
    "image": IMAGE,
    "depth": {
        "in_channels": 8,
        "stride": 8,
        "context_channels": 6,
        "bins": {"start": 1.0, "stop": 9.0, "step": 1.0},
    },
    "z_range": (-20.0, 20.0),
}


def parameters(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def config_of(kind: Modality, **changes: Any) -> BEVDetectorConfig:
    sensors: dict[str, Any] = {"lidar": LIDAR, "camera": CAMERA}
    values: dict[str, Any] = {
        "grid": GRID.model_dump(),
        **{name: own for name, own in sensors.items() if kind in (name, "fusion")},
        "backbone": {
            "in_channels": 6,
            "channels": (8,),
            "layers": (1,),
            "strides": (1,),
            "up_channels": (8,),
        },
        "head": {"in_channels": 8, "shared_channels": 8, "head_channels": 8},
    }
    return BEVDetectorConfig.model_validate(values | changes)


def detector_of(kind: Modality, **changes: Any) -> BEVDetector:
    torch.manual_seed(0)
    return BEVDetector(config_of(kind, **changes)).eval()


def seen(batch: int = 1, augment: BevAugment | None = None) -> SensorInput:
    """Points and two images of every frame; the cameras look ahead and to the left."""
    augment = augment or BevAugment.identity()
    rng = torch.Generator().manual_seed(1)
    points = 10 * torch.rand(batch, 400, 5, generator=rng) - torch.tensor([5, 5, 2, 0, 0])
    images = torch.randint(0, 256, (batch, 2, 3, 32, 64), dtype=torch.uint8, generator=rng)
    # Off the cells' edges: a point there would change sides in a flip.
    ahead = torch.tensor([[0, 0, 1.0, 0.27], [-1, 0, 0, 0.19], [0, -1, 0, 1.5], [0, 0, 0, 1]])
    left = torch.tensor([[1.0, 0, 0, 0.12], [0, 0, 1, 0.33], [0, -1, 0, 1.5], [0, 0, 0, 1]])
    intrinsics = torch.tensor([[40.0, 0, 31.5], [0, 40, 15.5], [0, 0, 1]])
    geometry = CameraGeometry(
        image_from_cam=intrinsics.expand(batch, 2, 3, 3),
        augmented_from_image=torch.eye(3).expand(batch, 2, 3, 3),
        ego_from_cam=torch.stack([ahead, left]).expand(batch, 2, 4, 4),
        augmented_from_ego=augment.matrix4.expand(batch, 4, 4),
    )
    clouds = tuple(augment.points(cloud) for cloud in points)
    return SensorInput(clouds, CameraInput(images, geometry))


def test_the_fuser_by_hand():
    """As released: 1 442 816 parameters."""
    gate, merge = 512 * 512 + 512, 512 * 256 * 9 + 2 * 256
    assert parameters(GatedFuser(512, 256)) == gate + merge == 1_442_816


def test_the_bev_encoder_by_hand():
    """As released: 4 576 768 parameters from 256 to 512 channels."""
    config = BEVBackboneConfig()
    first = (256 + 5 * 128) * 128 * 9 + 6 * 2 * 128
    second = (128 + 5 * 256) * 256 * 9 + 6 * 2 * 256
    up = 128 * 256 + 256 * 256 * 4 + 2 * 2 * 256
    assert parameters(BEVBackbone(config), BEVNeck(config)) == first + second + up == 4_576_768
    assert config.out_channels == 512


def test_the_depth_convolution_by_hand():
    config = DepthConvConfig()
    assert config.bins.count == 112
    assert parameters(DepthConv(config)) == (512 + 1) * (112 + 256)
    small = DepthConv(
        DepthConvConfig.model_validate(
            {
                "in_channels": 3,
                "context_channels": 2,
                "bins": {"start": 1.0, "stop": 5.0, "step": 1.0},
            }
        )
    )
    features = torch.rand(2, 6, 3, 4, 5)
    said = small(features)
    weight, bias = small.conv.weight[..., 0, 0], small.conv.bias
    assert bias is not None
    at_one = weight @ features[1, 4, :, 2, 3] + bias
    torch.testing.assert_close(said.depth_logit[1, 4, :, 2, 3], at_one[:4])
    torch.testing.assert_close(said.context[1, 4, :, 2, 3], at_one[4:])


def test_the_sparse_encoder_gives_256_channels_at_180_cells():
    voxels = VoxelGrid(
        range_min=(-54.0, -54.0, -5.0),
        range_max=(54.0, 54.0, 3.0),
        voxel_size=(0.075, 0.075, 0.2),
    )
    config = VoxelEncoderConfig(voxels=voxels)
    assert config.spatial_shape == (41, 1440, 1440)
    assert (config.out_channels, config.z_slices, config.stride) == (256, 2, 8)
    assert voxels.shape[1] // config.stride == 180


def test_the_gate_scales_channels_of_both_maps():
    fuser = GatedFuser(4, 2).eval()
    lidar, camera = torch.rand(1, 3, 5, 4), torch.rand(1, 1, 5, 4)
    with torch.no_grad():
        fuser.gate.weight.zero_()
        assert fuser.gate.bias is not None
        fuser.gate.bias.copy_(torch.tensor([0.0, 100, -100, math.log(3)]))
        both = torch.cat([lidar, camera], 1) * torch.tensor([0.5, 1, 0, 0.75]).view(1, 4, 1, 1)
        torch.testing.assert_close(fuser(lidar, camera), fuser.merge(both))


@pytest.mark.parametrize("kind", ["lidar", "camera", "fusion"])
def test_what_each_kind_gives(kind: Modality):
    detector, boxes = detector_of(kind), Boxes3D(torch.zeros(1, 9) + 1, torch.tensor([0]))
    assert detector.config.kind == kind
    maps = detector(seen(2))
    assert maps.bev_low.shape == (2, 6, 16, 16)
    assert maps.bev_high.shape == (2, 8, 16, 16)
    assert maps.head.box_code.shape == (2, 6, 11, 16, 16)
    branches = [maps.bev_lidar, maps.bev_camera]
    assert [branch is not None for branch in branches] == [kind == "fusion"] * 2
    assert (maps.depth_logit is not None) == (kind != "lidar")
    terms = detector.detection_terms(maps.head, BoxBatch.pad([boxes, boxes]))
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None for p in detector.parameters())
    assert len(detector.detections(maps.head)) == 2


def test_fusion_reads_both_sensors():
    detector, both = detector_of("fusion"), seen()
    assert both.points is not None
    assert both.cameras is not None
    dark = CameraInput(torch.zeros_like(both.cameras.images), both.cameras.geometry)
    full = detector(both)
    blind, deaf = (
        detector(SensorInput(both.points, dark)),
        detector(SensorInput((both.points[0][:1],), both.cameras)),
    )
    assert torch.equal(full.bev_lidar, blind.bev_lidar)
    assert torch.equal(full.bev_camera, deaf.bev_camera)
    assert not torch.equal(full.bev_low, blind.bev_low)
    assert not torch.equal(full.bev_low, deaf.bev_low)


@pytest.mark.parametrize(
    ("augment", "axes"),
    [(BevAugment.compose(flip_y=True), [2]), (BevAugment.compose(flip_x=True), [3])],
    ids=["y", "x"],
)
def test_a_flipped_frame_gives_flipped_camera_maps(augment: BevAugment, axes: list[int]):
    """Exact: the encoder's convolutions see images, which a flip of the BEV frame leaves alone."""
    detector = detector_of("camera")
    plain, flipped = detector(seen()).bev_low, detector(seen(augment=augment)).bev_low
    assert (plain.abs().sum(1) > 0).sum() > 20
    torch.testing.assert_close(flipped, plain.flip(axes), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("augment", "axes"),
    [(BevAugment.compose(flip_y=True), [2]), (BevAugment.compose(flip_x=True), [3])],
    ids=["y", "x"],
)
def test_a_flipped_frame_gives_flipped_lidar_maps(augment: BevAugment, axes: list[int]):
    """Exact of pillars that look at heights and intensities alone: other offsets change sign."""
    detector = detector_of("lidar", lidar=CELL_PILLARS)
    assert isinstance(detector.lidar, PillarEncoder)
    signed = [0, 1, 5, 6, 8, 9]  # x, y, and their offsets from the pillar's mean and centre
    linear = detector.lidar.point_net[0]
    assert isinstance(linear, nn.Linear)
    with torch.no_grad():
        linear.weight[:, signed] = 0
        plain, flipped = detector(seen()).bev_low, detector(seen(augment=augment)).bev_low
    assert (plain.abs().sum(1) > 0).sum() > 30
    torch.testing.assert_close(flipped, plain.flip(axes))


def test_a_flipped_frame_moves_the_boxes_cells_alike():
    """Points of one car, seen by LiDAR, and its box land in the same cell before and after."""
    box = Boxes3D(torch.tensor([[3.5, -2.5, 0, 1, 1, 1, 0.3, 0, 0]]), torch.tensor([0]))
    detector = detector_of("lidar", lidar=CELL_PILLARS)
    for augment in (BevAugment.compose(flip_y=True), BevAugment.compose(yaw=0.6, scale=1.1)):
        cloud = augment.points(torch.tensor([[3.5, -2.5, 0, 1, 0], [3.52, -2.48, 0.2, 1, 0]]))
        low = detector(SensorInput((cloud,), None)).bev_low[0].abs().sum(0).flatten()
        own = GRID.cell_index(augment.boxes3d(box).values[:, :2])
        assert low.argmax().item() == own.item()


def test_depth_is_taught_where_the_reader_gives_it():
    detector, without = detector_of("camera", depth_loss_weight=2.0), seen()
    assert without.cameras is not None
    maps = detector(without)
    assert detector.depth_terms(maps.depth_logit, without) == {}
    depth = torch.full((1, 2, 4, 8), 2.5)
    cameras = CameraInput(without.cameras.images, without.cameras.geometry, depth)
    terms = detector.depth_terms(maps.depth_logit, SensorInput(None, cameras))
    once = detector_of("camera", depth_loss_weight=1.0)
    half = once.depth_terms(maps.depth_logit, SensorInput(None, cameras))
    torch.testing.assert_close(terms["depth"], 2 * half["depth"])
    assert detector_of("lidar").depth_terms(None, without) == {}


@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        ("lidar", {"lidar": None}, "sees something: give it lidar, camera or both"),
        ("lidar", {"depth_loss_weight": 1.0}, "only a camera branch is taught depth"),
        ("lidar", {"grid": {**GRID.model_dump(), "x_min": -9.0}}, r"grid.x_min, y_min is \(-9.0"),
        ("camera", {"head": {"in_channels": 9}}, "head.in_channels is 9, its input gives 8"),
        (
            "camera",
            {"backbone": BEVBackboneConfig(in_channels=7, up_channels=(4, 4))},
            "backbone.in_channels is 7, its input gives 6",
        ),
        (
            "camera",
            {"camera": {**CAMERA, "depth": {"in_channels": 5, "stride": 8}}},
            "depth.in_channels is 5, its input gives 8",
        ),
        ("lidar", {"head": {"in_channels": 8, "iou": False}}, "Input should be True"),
    ],
)
def test_parts_that_do_not_fit_are_refused(kind: Modality, changes: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=says):
        config_of(kind, **changes)


def test_weights_of_a_checkpoint_fetch_nothing():
    config = config_of("fusion", camera={**CAMERA, "image": {**IMAGE, "pretrained": True}})
    assert config.camera is not None
    assert config.camera.image.pretrained
    own = config.without_pretraining()
    assert own.camera is not None
    assert not own.camera.image.pretrained
    assert config_of("lidar").without_pretraining() == config_of("lidar")


def test_the_papers_camera_encoder_fits_its_lidar_encoder():
    assert CameraEncoderConfig().out_channels == VoxelEncoderConfig().out_channels == 256
