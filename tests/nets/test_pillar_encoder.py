from typing import Any

import pytest
import torch

from nets.pillar_encoder import PillarEncoder, PillarEncoderConfig, decorate
from nets.voxelize import VoxelGrid, voxelize

GRID = VoxelGrid(range_min=(0, -4, -5), range_max=(4, 4, 3), voxel_size=(1, 1, 8))


def config(**changes: Any) -> PillarEncoderConfig:
    return PillarEncoderConfig(**{"voxels": GRID, "in_channels": 4, "channels": 6, **changes})


def test_points_are_decorated_with_offsets_to_mean_and_centre() -> None:
    voxels = voxelize([torch.tensor([[2.2, -0.6, 1.0, 9.0], [2.6, -0.2, 2.0, 5.0]])], GRID)
    expected = [
        [2.2, -0.6, 1.0, 9.0, -0.2, -0.2, -0.5, -0.3, -0.1],
        [2.6, -0.2, 2.0, 5.0, 0.2, 0.2, 0.5, 0.1, 0.3],
    ]
    torch.testing.assert_close(decorate(voxels, GRID), torch.tensor(expected))


def test_a_pillar_is_the_maximum_of_its_points_at_its_row_and_column() -> None:
    torch.manual_seed(0)
    encoder = PillarEncoder(config()).eval()
    points = torch.tensor([[2.2, 3.4, 1.0, 9.0], [2.6, 3.2, 2.0, 5.0], [0.5, -3.5, 0.0, 1.0]])
    voxels = voxelize([torch.zeros(0, 4), points], GRID)
    bev = encoder(voxels)
    features = encoder.point_net(decorate(voxels, GRID))
    expected = torch.zeros(2, 6, 8, 4)
    expected[1, :, 7, 2] = features[:2].amax(0)
    expected[1, :, 0, 0] = features[2]
    torch.testing.assert_close(bev, expected)
    assert bev[1, :, 7, 2].any()


@pytest.mark.parametrize(("stride", "size"), [(1, (8, 4)), (2, (4, 2)), (4, (2, 1))])
def test_strided_blocks_bring_the_map_to_the_heads_grid(stride: int, size: tuple[int, int]) -> None:
    encoder = PillarEncoder(config(stride=stride, block_layers=2))
    points = torch.rand(30, 4, generator=torch.Generator().manual_seed(0)) * 4
    bev = encoder(voxelize([points, points], GRID))
    assert bev.shape == (2, 6, *size)
    bev.sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_a_batch_without_points_gives_a_zero_map() -> None:
    bev = PillarEncoder(config(stride=2)).eval()(voxelize([torch.zeros(0, 4)], GRID))
    assert bev.shape == (1, 6, 4, 2)
    assert not bev.any()


def test_parameters_by_hand() -> None:
    # Linear 9 -> 6, its BatchNorm, then two blocks of one convolution.
    encoder = PillarEncoder(config(stride=4))
    expected = 9 * 6 + 2 * 6 + 2 * (6 * 6 * 9 + 2 * 6)
    assert sum(p.numel() for p in encoder.parameters()) == expected


def test_voxels_that_are_no_pillars_are_refused() -> None:
    flat = VoxelGrid(range_min=(0, -4, -5), range_max=(4, 4, 3), voxel_size=(1, 1, 4))
    with pytest.raises(ValueError, match="along z, y, x are 2, 8, 4; expected 1 along z"):
        config(voxels=flat)
