import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nets.voxelize import VoxelGrid, voxelize

# 4 voxels along x, 2 along y, 2 along z.
GRID = VoxelGrid(range_min=(0, -1, 0), range_max=(4, 1, 2), voxel_size=(1, 1, 1))


def test_points_of_two_frames_land_in_their_voxels() -> None:
    first = torch.tensor([[3.5, 0.5, 1.5, 10.0], [0.5, -0.5, 0.5, 1.0], [3.1, 0.9, 1.9, 20.0]])
    second = torch.tensor([[0.0, -1.0, 0.0, 7.0]])
    voxels = voxelize([first, second], GRID)
    assert voxels.coords.tolist() == [[0, 0, 0, 0], [0, 1, 1, 3], [1, 0, 0, 0]]
    expected = torch.tensor([[0.5, -0.5, 0.5, 1.0], [3.3, 0.7, 1.7, 15.0], [0.0, -1.0, 0.0, 7.0]])
    torch.testing.assert_close(voxels.mean, expected)
    assert voxels.point_voxel.tolist() == [1, 0, 1, 2]
    assert voxels.batch_size == 2


@pytest.mark.parametrize(
    "outside",
    [[4.0, 0, 1], [-0.01, 0, 1], [1, 1, 1], [1, 0, 2], [torch.nan, 0, 1], [torch.inf] * 3],
)
def test_points_out_of_range_are_dropped(outside: list[float]) -> None:
    voxels = voxelize([torch.tensor([outside, [1.5, 0.5, 0.5]])], GRID)
    assert voxels.points.tolist() == [[1.5, 0.5, 0.5]]
    assert voxels.coords.tolist() == [[0, 0, 1, 1]]


def test_frames_without_points_give_no_voxels() -> None:
    voxels = voxelize([torch.zeros(0, 5), torch.zeros(0, 5)], GRID)
    assert voxels.coords.shape == (0, 4)
    assert voxels.mean.shape == (0, 5)
    assert voxels.batch_size == 2


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 60))
def test_voxel_means_do_not_depend_on_the_order_and_match_a_loop(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 4, generator=generator) * torch.tensor([6, 4, 4, 1]) - 1
    shuffled = points[torch.randperm(count, generator=generator)]
    voxels, other = voxelize([points], GRID), voxelize([shuffled], GRID)
    torch.testing.assert_close(voxels.mean, other.mean)
    groups: dict[tuple[int, ...], list[list[float]]] = {}
    for point in points.tolist():
        x, y, z = int(point[0] // 1), int((point[1] + 1) // 1), int(point[2] // 1)
        if 0 <= x < 4 and 0 <= y < 2 and 0 <= z < 2:
            groups.setdefault((0, z, y, x), []).append(point)
    assert [tuple(row) for row in voxels.coords.tolist()] == sorted(groups)
    expected = [torch.tensor(groups[key]).mean(0) for key in sorted(groups)]
    if expected:
        torch.testing.assert_close(voxels.mean, torch.stack(expected))


def test_defaults_have_the_teachers_shape() -> None:
    assert VoxelGrid().shape == (40, 1024, 1024)


def test_a_range_that_is_no_whole_number_of_voxels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"y: -51.2..51.2 m holds 146.286 voxels of 0.7 m"):
        VoxelGrid(voxel_size=(0.1, 0.7, 0.2))
