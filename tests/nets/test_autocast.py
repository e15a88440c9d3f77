"""Every module runs and trains under bfloat16 autocast on the CPU."""

import torch
from torch import nn

from frames.boxes import BoxBatch, Boxes3D
from frames.camera_geometry import CameraGeometry
from frames.grid import BEVGrid
from nets.bev_backbone import BEVBackbone, BEVBackboneConfig, BEVNeck
from nets.center_decode import CenterDecodeConfig, decode
from nets.center_head import CenterHead, CenterHeadConfig
from nets.center_loss import CenterLossConfig, center_loss
from nets.depth_net import DepthBins, DepthNet, DepthNetConfig, depth_loss
from nets.image_backbone import ImageBackbone, ImageBackboneConfig
from nets.liga import LigaStereo
from nets.pillar_encoder import PillarEncoder, PillarEncoderConfig
from nets.view_transform import ViewTransform, ViewTransformConfig
from nets.voxel_encoder import VoxelEncoder
from nets.voxel_encoder_config import VoxelEncoderConfig
from nets.voxelize import VoxelGrid, voxelize
from tests.nets.test_liga import CAMERA
from tests.nets.test_liga import SMALL as SMALL_LIGA

GRID = BEVGrid(x_min=0, y_min=0, cell_size=2, shape=(8, 4))
BOXES = BoxBatch.pad(
    [Boxes3D(torch.tensor([[3.0, 5.0, 0, 4, 2, 1.5, 0.3, 0, 0]]), torch.tensor([0]))]
)


def autocast() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def train_on(bev: torch.Tensor, modules: list[nn.Module]) -> None:
    """Forward from the BEV map under autocast, backward outside as trainers do it."""
    config = BEVBackboneConfig(
        in_channels=bev.shape[1], channels=(8, 8), layers=(1, 1), up_channels=(8, 8)
    )
    backbone, neck = BEVBackbone(config), BEVNeck(config)
    head = CenterHead(CenterHeadConfig(in_channels=16, shared_channels=8, head_channels=8))
    with autocast():
        maps = head(neck(backbone(bev)))
        assert maps.heatmap_logit.dtype == maps.box_code.dtype == torch.float32
        terms = center_loss(maps, BOXES, GRID, CenterLossConfig())
        decode(maps, GRID, CenterDecodeConfig())
    torch.stack(list(terms.values())).sum().backward()
    for module in [*modules, backbone, neck]:
        for parameter in module.parameters():
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()


def test_lidar_networks() -> None:
    points = torch.rand(200, 5, generator=torch.Generator().manual_seed(0)) * 8
    voxels = VoxelGrid(range_min=(0, 0, 0), range_max=(8, 16, 8), voxel_size=(1, 1, 1))
    pillars = VoxelGrid(range_min=(0, 0, 0), range_max=(8, 16, 8), voxel_size=(1, 1, 8))
    sparse = VoxelEncoder(VoxelEncoderConfig(voxels=voxels, channels=(4, 8), z_padding=(1,)))
    flat = PillarEncoder(PillarEncoderConfig(voxels=pillars, channels=8, stride=2))
    with autocast():
        bev, other = sparse(voxelize([points], voxels)), flat(voxelize([points], pillars))
    assert bev.dtype == torch.float32
    train_on(bev, [sparse])
    train_on(other, [flat])


def test_camera_networks() -> None:
    geometry = CameraGeometry(
        image_from_cam=torch.tensor([[40.0, 0, 32], [0, 40, 32], [0, 0, 1]]).expand(1, 2, 3, 3),
        augmented_from_image=torch.eye(3).expand(1, 2, 3, 3),
        ego_from_cam=torch.tensor(
            [[0.0, 0, 1, 0], [-1, 0, 0, 8], [0, -1, 0, 0], [0, 0, 0, 1]]
        ).expand(1, 2, 4, 4),
        augmented_from_ego=torch.eye(4).expand(1, 4, 4),
    )
    bins = DepthBins(start=1, stop=9, step=1)
    tiny = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
    image = ImageBackbone(ImageBackboneConfig(name="resnet18", args=tiny, up_channels=4))
    depth = DepthNet(
        DepthNetConfig(in_channels=16, channels=8, context_channels=4, depth_blocks=1, bins=bins)
    )
    view = ViewTransform(ViewTransformConfig(grid=GRID, bins=bins))
    images = torch.randint(0, 256, (1, 2, 3, 64, 64), dtype=torch.uint8)
    with autocast():
        lifted = depth(image(images), geometry)
        bev = view(lifted, geometry)
        loss = depth_loss(lifted.depth_logit, torch.ones(1, 2, 4, 4, dtype=torch.int64))
    assert bev.dtype == loss.dtype == torch.float32
    train_on(bev, [depth, image.laterals])


def test_the_stereo_network_samples_where_it_does_in_float32() -> None:
    torch.manual_seed(0)
    liga = LigaStereo(SMALL_LIGA)
    left, right = torch.rand(2, 1, 3, 64, 128)
    geometry = (torch.tensor([40.0]), CAMERA[None])
    exact = liga(left, right, *geometry)
    with autocast():
        maps = liga(left, right, *geometry)
    head = maps.bev.anchors
    assert head.logit.dtype == head.code.dtype == torch.float32
    gap = (maps.volume.float() - exact.volume).norm() / exact.volume.norm()
    # Rounded features; pixels off by one would make it several tenths.
    assert gap < 0.05
    (
        head.logit.sum() + head.code.square().sum() + maps.plane_logit.float().square().sum()
    ).backward()
    grads = [p.grad for p in liga.parameters() if p.grad is not None]
    assert all(g.isfinite().all() for g in grads)
