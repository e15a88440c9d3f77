import pytest
import torch
from torch import nn

from frames.anchors import AnchorConfig
from frames.grid import BEVGrid
from nets.anchor_head import AnchorHeadConfig
from nets.bev_head import BEVHeadConfig
from nets.second import Second
from nets.second_config import SecondConfig
from nets.voxelize import VoxelGrid, voxelize

SMALL = SecondConfig(
    voxels=VoxelGrid(range_min=(2, -8, -3), range_max=(18, 8, 1), voxel_size=(0.25, 0.25, 0.1)),
    bev=BEVHeadConfig(
        head=AnchorHeadConfig(groups=0),
        anchors=AnchorConfig(grid=BEVGrid(x_min=2, y_min=-8, cell_size=1, shape=(16, 16))),
    ),
)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_are_as_many_as_published():
    # LIGA-Stereo's teacher, commit aee3731.
    second = Second(SecondConfig())
    assert count(second.sparse) == 688_656
    assert count(second.bev.conv) + count(second.bev.hourglass) == 830_976
    assert count(second.bev.head) == 183_368
    assert SecondConfig().slices == 5


def test_a_point_is_seen_at_its_own_place():
    torch.manual_seed(0)
    second = Second(SMALL).eval()
    # Along x in cell 10, along y in cell 3.
    cloud = torch.tensor([[12.4, -4.6, -1.0], [12.5, -4.5, -0.9]])
    with torch.no_grad():
        volume = second(voxelize([cloud, cloud[:0]], SMALL.voxels)).volume
    assert volume.shape == (2, 32 * 5, 16, 16)
    rows, cols = volume[0].abs().sum(0).nonzero().unbind(1)
    assert rows.min() >= 1
    assert rows.max() <= 5
    assert cols.min() >= 8
    assert cols.max() <= 12
    assert (rows == 3).any()
    assert (cols == 10).any()
    assert (volume[1] == 0).all()


def test_a_step_reaches_every_parameter():
    torch.manual_seed(0)
    second = Second(SMALL)
    clouds = [torch.rand(500, 3) * torch.tensor([16.0, 16.0, 4.0]) - torch.tensor([-2.0, 8.0, 3.0])]
    maps = second(voxelize(clouds * 2, SMALL.voxels))
    anchors = maps.bev.anchors
    assert anchors.code.shape == (2, SMALL.bev.anchors.count, 7)
    parts = (anchors.logit, anchors.code, anchors.direction)
    torch.stack([part.square().mean() for part in parts]).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in second.parameters())


def test_no_points_give_finite_predictions():
    second = Second(SMALL).eval()
    with torch.no_grad():
        maps = second(voxelize([torch.zeros(0, 3)], SMALL.voxels))
    assert maps.bev.anchors.logit.isfinite().all()


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="expected 4 voxels a cell along both"):
        SecondConfig(voxels=VoxelGrid())
    flat = VoxelGrid(
        range_min=(2, -30.4, -3), range_max=(59.6, 30.4, 1), voxel_size=(0.05, 0.05, 1)
    )
    with pytest.raises(ValueError, match="4 voxels along z are too few"):
        SecondConfig(voxels=flat)


def test_voxels_and_anchors_cover_the_same_ground():
    elsewhere = VoxelGrid(range_min=(0, -8, -3), range_max=(16, 8, 1), voxel_size=(0.25, 0.25, 0.1))
    with pytest.raises(ValueError, match="they must be the same"):
        SecondConfig(voxels=elsewhere, bev=SMALL.bev)
    with pytest.raises(ValueError, match="SECOND has BatchNorm"):
        SecondConfig(voxels=SMALL.voxels, bev=BEVHeadConfig(anchors=SMALL.bev.anchors))
