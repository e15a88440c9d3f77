import math
from dataclasses import replace

import pytest
import torch

from frames.camera_geometry import CameraGeometry
from nets.depth_net import DepthBins, DepthNet, DepthNetConfig, depth_loss, depth_target

BINS = DepthBins(start=2.0, stop=6.0, step=1.0)


def geometry(batch: int = 1, cameras: int = 2) -> CameraGeometry:
    return CameraGeometry(
        image_from_cam=torch.tensor([[50.0, 0, 32], [0, 40, 16], [0, 0, 1]]).expand(
            batch, cameras, 3, 3
        ),
        augmented_from_image=torch.tensor([[-1.0, 0, 64], [0, 1, 0], [0, 0, 1]]).expand(
            batch, cameras, 3, 3
        ),
        ego_from_cam=torch.eye(4).expand(batch, cameras, 4, 4),
        augmented_from_ego=torch.diag(torch.tensor([1.0, -1, 1, 1])).expand(batch, 4, 4),
    )


def test_the_calibration_vector_folds_both_augmentations() -> None:
    vector = geometry().calibration_vector((32, 64))[0, 0]
    intrinsics = [-50 / 64, 0, 32 / 64, 0, 40 / 32, 16 / 32]
    extrinsics = [1.0, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0]
    torch.testing.assert_close(vector, torch.tensor(intrinsics + extrinsics))


def test_depth_depends_on_the_calibration_and_trains_every_parameter() -> None:
    torch.manual_seed(0)
    net = DepthNet(
        DepthNetConfig(in_channels=4, channels=6, context_channels=3, depth_blocks=1, bins=BINS)
    )
    features = torch.randn(2, 2, 4, 2, 4)
    out = net(features, geometry(2))
    assert out.depth_logit.shape == (2, 2, 4, 2, 4)
    assert out.context.shape == (2, 2, 3, 2, 4)
    (out.depth_logit.square().sum() + out.context.square().sum()).backward()
    assert all(p.grad is not None for p in net.parameters())
    net.eval()
    flipped = geometry(2)
    plain = replace(flipped, augmented_from_image=torch.eye(3).expand(2, 2, 3, 3))
    assert not torch.allclose(net(features, plain).depth_logit, net(features, flipped).depth_logit)


def test_default_bins_are_bevdepth_s() -> None:
    bins = DepthBins()
    assert bins.count == 112
    assert bins.centres()[[0, -1]].tolist() == [2.25, 57.75]


def test_each_depth_has_its_bin() -> None:
    # First bin, last bin, just outside on either end, no depth.
    depth = torch.tensor([2.0, 5.999, 6.0, 1.999, 0.0]).view(1, 1, 1, 5)
    assert depth_target(depth, BINS).tolist() == [[[[1, 4, 0, 0, 0]]]]


def test_depth_loss_by_hand() -> None:
    # Uniform over 4 bins: -ln(1/4) - 3 ln(3/4) in each valid cell.
    target = torch.tensor([1, 4, 0]).view(1, 1, 1, 3)
    expected = math.log(4) - 3 * math.log(0.75)
    assert float(depth_loss(torch.zeros(1, 1, 4, 1, 3), target)) == pytest.approx(expected)


def test_depth_loss_falls_with_the_right_bin_and_is_zero_without_targets() -> None:
    target = torch.tensor([2]).view(1, 1, 1, 1)
    right = torch.zeros(1, 1, 4, 1, 1)
    right[0, 0, 1] = 50
    assert float(depth_loss(right, target)) == pytest.approx(0, abs=1e-6)
    logit = torch.zeros(1, 1, 4, 1, 1, requires_grad=True)
    loss = depth_loss(logit, torch.zeros(1, 1, 1, 1, dtype=torch.int64))
    (gradient,) = torch.autograd.grad(loss, logit)
    assert loss.item() == 0
    assert not gradient.any()


def test_bins_without_extent_are_refused() -> None:
    with pytest.raises(ValueError, match="holds no bin"):
        DepthBins(start=5, stop=5)
