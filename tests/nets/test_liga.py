import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frames.anchors import AnchorConfig
from frames.grid import BEVGrid
from nets.anchor_head import AnchorHead, AnchorHeadConfig
from nets.bev_head import BEVHeadConfig
from nets.depth_net import DepthBins
from nets.depth_volume import (
    DepthVolume,
    DepthVolumeConfig,
    depth_distribution,
    stereo_depth_loss,
)
from nets.geometric_volume import VoxelVolumeConfig, VoxelVolumeNet
from nets.hourglass import Hourglass
from nets.liga import LigaConfig, LigaStereo
from nets.plane_sweep import plane_sweep
from nets.stereo_backbone import StereoBackbone, StereoBackboneConfig
from nets.voxelize import VoxelGrid

SMALL = LigaConfig(
    backbone=StereoBackboneConfig(
        stem=8,
        widths=(8, 8, 8, 8),
        blocks=(1, 1, 1, 1),
        pools=(8, 4),
        pooled=8,
        up=(8, 8),
        semantic=(8, 8),
        groups=4,
    ),
    depth=DepthVolumeConfig(
        planes=DepthBins(start=2, stop=18, step=2), channels=8, width=8, groups=4
    ),
    voxels=VoxelVolumeConfig(
        grid=VoxelGrid(range_min=(2, -8, -2), range_max=(18, 8, 2), voxel_size=(1, 1, 1)),
        channels=8,
        pool_z=2,
        groups=4,
    ),
    bev=BEVHeadConfig(
        width=8,
        head=AnchorHeadConfig(channels=8, groups=4),
        anchors=AnchorConfig(grid=BEVGrid(x_min=2, y_min=-8, cell_size=1, shape=(16, 16))),
    ),
)
# Focal length 40 pixels, centre of a 64 x 128 image; x forward becomes depth.
CAMERA = torch.tensor([[64.0, -40.0, 0.0, 0.0], [32.0, 0.0, -40.0, 0.0], [1.0, 0.0, 0.0, 0.0]])


def anchors_on(side: int) -> AnchorConfig:
    return AnchorConfig(grid=BEVGrid(x_min=0, y_min=0, cell_size=1, shape=(side, side)))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_are_as_many_as_published():
    # LIGA-Stereo's sizes, commit aee3731.
    liga = LigaStereo(LigaConfig())
    backbone, depth = liga.backbone, liga.depth
    assert count(backbone) - count(backbone.neck) == 4_006_720
    assert count(backbone.neck) == 1_005_408
    assert count(depth.matched) == 55_360
    assert count(depth.refined) == 27_712
    assert count(depth.hourglass) == 553_664
    assert count(depth.depth) == 28_576
    assert count(liga.voxels) == 55_360
    assert count(liga.bev.conv) + count(liga.bev.hourglass) == 830_976
    assert count(liga.bev.head) == 183_368
    assert count(liga) == 6_747_144


def test_the_published_sizes():
    config = LigaConfig()
    assert config.depth.planes.count == 72
    assert config.depth.bins.count == 288
    assert config.depth.bins.centres()[:2].tolist() == pytest.approx([2.1, 2.3])
    assert config.voxels.grid.shape == (20, 304, 288)
    assert config.voxels.out_channels == 160


def test_the_backbones_resolutions():
    with torch.no_grad():
        seen = StereoBackbone(SMALL.backbone).eval()(torch.randn(1, 3, 64, 128))
    assert seen.stereo.shape == (1, 8, 64, 128)
    assert seen.semantic.shape == (1, 8, 16, 32)


def test_a_step_reaches_every_parameter():
    torch.manual_seed(0)
    liga = LigaStereo(SMALL)
    images = torch.randn(2, 2, 3, 64, 128)
    maps = liga(*images, torch.tensor([20.0, 30.0]), CAMERA.expand(2, 3, 4))
    assert maps.bev.anchors.logit.shape == (2, 16 * 16 * 6, 3)
    assert maps.plane_logit.shape == (2, 8, 16, 32)
    assert maps.volume.shape == (2, 8 * 2, 16, 16)
    parts = (
        maps.plane_logit,
        maps.bev.anchors.logit,
        maps.bev.anchors.code,
        maps.bev.anchors.direction,
    )
    torch.stack([part.square().mean() for part in parts]).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in liga.parameters())


def test_a_checkpointed_step_has_the_same_gradient():
    depth = SMALL.depth.model_copy(update={"checkpointed": True})
    gradients = []
    for config in (SMALL, SMALL.model_copy(update={"depth": depth})):
        torch.manual_seed(0)
        liga = LigaStereo(config)
        maps = liga(*torch.randn(2, 1, 3, 64, 128), torch.tensor([20.0]), CAMERA[None])
        maps.bev.anchors.logit.square().mean().backward()
        gradients.append([p.grad for p in liga.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 0
    for plain, again in zip(*gradients, strict=True):
        assert torch.allclose(plain, again, atol=1e-7)


def literal_sweep(left: Tensor, right: Tensor, disparity: Tensor, stride: int) -> Tensor:
    """Pixel by pixel."""
    batch, channels, height, width = left.shape
    rows, cols = height // stride, width // stride
    out = torch.zeros(batch, 2 * channels, disparity.shape[1], rows, cols)
    for b in range(batch):
        for d, shift in enumerate(disparity[b].tolist()):
            for v in range(rows):
                for u in range(cols):
                    out[b, :channels, d, v, u] = left[b, :, stride * v, stride * u]
                    at = stride * u - shift
                    if 0 <= at <= width - 1:
                        low = math.floor(at)
                        part = at - low
                        high = right[b, :, stride * v, min(low + 1, width - 1)]
                        out[b, channels:, d, v, u] = (1 - part) * right[
                            b, :, stride * v, low
                        ] + part * high
    return out


def test_the_sweep_is_its_rule_read_literally():
    torch.manual_seed(0)
    left, right = torch.randn(2, 2, 3, 8, 16)
    disparity = torch.tensor([[0.0, 0.3, 4.0, 7.75], [-1.5, 2.5, 12.0, 40.0]])
    found = plane_sweep(left, right, disparity, 4)
    assert torch.allclose(found, literal_sweep(left, right, disparity, 4), atol=1e-6)


def test_the_sweep_matches_a_shifted_image_at_its_depth():
    torch.manual_seed(0)
    left = torch.randn(1, 3, 8, 64)
    right = torch.roll(left, -8, 3)
    swept = plane_sweep(left, right, torch.tensor([[4.0, 8.0, 16.0]]))
    unlike = (swept[:, :3] - swept[:, 3:]).abs().mean((0, 1, 3))[:, 4:-1].sum(1)
    assert unlike[1] == 0
    assert unlike[[0, 2]].min() > 1


def test_the_depth_loss_worked_by_hand():
    bins = DepthBins(start=0.5, stop=4.5, step=1)
    logit = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()[None, :, None, None].expand(1, 4, 1, 3)
    # Centres 1, 2, 3, 4: a depth of 2.25 is three quarters 2 and a quarter 3.
    depth = torch.tensor([[[2.25, 0.0, 9.0]]])
    expected = -(0.75 * math.log(0.2) + 0.25 * math.log(0.3))
    assert stereo_depth_loss(logit, depth, bins).item() == pytest.approx(expected, abs=1e-6)


def test_the_depth_loss_at_known_pixels_is_that_of_the_whole_distribution():
    torch.manual_seed(0)
    planes = torch.randn(2, 5, 4, 6, requires_grad=True)
    depth = (torch.rand(2, 16, 24) * 30 - 15).clamp(min=0)
    bins = DepthBins(start=2, stop=12, step=0.5)
    logit = F.interpolate(planes[:, None], (20, 16, 24), mode="trilinear", align_corners=True)
    log_prob = logit[:, 0].log_softmax(1)
    assert torch.allclose(depth_distribution(planes, (16, 24), bins), log_prob.exp(), atol=1e-6)
    terms = []
    for b, v, u in (depth > 0).nonzero().tolist():
        metres = depth[b, v, u].item()
        if 2 < metres < 12:
            tent = (1 - (metres - bins.centres()).abs() / 0.5).clamp(min=0)
            terms.append(-(tent * log_prob[b, :, v, u]).sum())
    whole, fast = torch.stack(terms).mean(), stereo_depth_loss(planes, depth, bins)
    assert fast.item() == pytest.approx(whole.item(), abs=1e-5)
    (wanted,) = torch.autograd.grad(whole, planes)
    (found,) = torch.autograd.grad(fast, planes)
    assert torch.allclose(found, wanted, atol=1e-6)


def test_no_depth_no_loss():
    logit = torch.randn(1, 4, 2, 2, requires_grad=True)
    loss = stereo_depth_loss(logit, torch.zeros(1, 2, 2), DepthBins(start=1, stop=5, step=1))
    loss.backward()
    assert loss.item() == 0
    assert logit.grad is not None
    assert (logit.grad == 0).all()


def sampled(plane_logit: Tensor, volume: Tensor, semantic: Tensor) -> Tensor:
    """What the voxel network samples, before its convolution."""
    net = VoxelVolumeNet(SMALL.voxels, volume.shape[1], semantic.shape[1])
    net.conv = nn.Sequential()
    depth = DepthVolume(volume, plane_logit)
    found: Tensor = net(depth, semantic, CAMERA[None], (64, 128), SMALL.depth.bins)
    return found


def test_a_voxel_sees_the_pixel_and_the_depth_that_it_projects_to():
    # Linear in column, row and depth, so that sampling gives the coordinates back.
    u = torch.linspace(0, 127, 32).expand(8, 16, 32)
    v = torch.linspace(0, 63, 16)[:, None].expand(8, 16, 32)
    d = torch.linspace(2, 18, 8)[:, None, None].expand(8, 16, 32)
    semantic = torch.stack([u[0], v[0]])[None]
    found = sampled(torch.zeros(1, 8, 16, 32), torch.stack([u, v, d])[None], semantic)
    centres = SMALL.voxels.centres()
    x, y, z = centres.unbind(-1)
    column, row = 64 - 40 * y / x, 32 - 40 * z / x
    inside = (column >= 0) & (column <= 127) & (row >= 0) & (row <= 63)
    assert inside.sum() > 100
    for channel, wanted in enumerate((column, row, x)):
        assert torch.allclose(found[0, channel][inside], wanted[inside], atol=1e-3)
    # All 32 depths are alike: a thirty-second of the image's features.
    assert torch.allclose(found[0, 3][inside] * 32, column[inside], atol=1e-2)
    assert (found[0, :, ~inside][:, (column < -8)[~inside]] == 0).all()


def test_no_gradient_reaches_the_depth_through_the_image_features():
    plane_logit = torch.zeros(1, 8, 16, 32, requires_grad=True)
    semantic = torch.randn(1, 2, 16, 32, requires_grad=True)
    sampled(plane_logit, torch.zeros(1, 3, 8, 16, 32), semantic).sum().backward()
    assert plane_logit.grad is None
    assert semantic.grad is not None


def test_the_heads_order_is_that_of_the_anchors():
    anchors = AnchorConfig(grid=BEVGrid(x_min=0, y_min=0, cell_size=0.5, shape=(2, 3)))
    head = AnchorHead(AnchorHeadConfig(channels=4, groups=2), anchors)
    head.logit = nn.Conv2d(4, 18, 1)
    bev = torch.randn(1, 4, 2, 3)
    head.class_stack = nn.Sequential()
    maps = head.logit(bev)
    j, i, c, r, k = 1, 2, 2, 0, 1
    n = ((j * 3 + i) * 3 + c) * 2 + r
    assert head(bev).logit[0, n, k] == maps[0, (2 * c + r) * 3 + k, j, i]


def test_an_untrained_head_expects_nothing():
    head = AnchorHead(AnchorHeadConfig(), anchors_on(4))
    maps = head(torch.zeros(1, 64, 4, 4))
    assert maps.logit.sigmoid().mean().item() == pytest.approx(0.01, abs=1e-3)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(6, 8\) is no multiple of the hourglass's stride 4"):
        Hourglass(2, 4, 4, 2)(torch.zeros(1, 4, 6, 8))
    with pytest.raises(ValueError, match=r"grid.shape \(6, 6\) is no multiple of the hourglass's"):
        BEVHeadConfig(anchors=anchors_on(6))
    with pytest.raises(ValueError, match=r"planes.count .* \(5,\) is no multiple"):
        DepthVolumeConfig(planes=DepthBins(start=2, stop=12, step=2))
    with pytest.raises(ValueError, match="must be the same map"):
        LigaConfig(bev=BEVHeadConfig(anchors=anchors_on(8)))
    with pytest.raises(ValueError, match="pool_z 3"):
        VoxelVolumeConfig(pool_z=3)
    with pytest.raises(ValueError, match=r"\(62, 128\) is no multiple of the backbone's stride 4"):
        StereoBackbone(SMALL.backbone)(torch.zeros(1, 3, 62, 128))
