import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from frames.camera_geometry import CameraGeometry
from frames.grid import BEVGrid
from nets.depth_net import DepthBins, DepthOutput
from nets.view_transform import ViewTransform, ViewTransformConfig, frustum_points, splat

GRID = BEVGrid(x_min=0.0, y_min=-6.0, cell_size=1.0, shape=(12, 16))
BINS = DepthBins(start=2.0, stop=14.0, step=1.0)
CONFIG = ViewTransformConfig(grid=GRID, bins=BINS, stride=16)
# Camera axes x right, y down, z forward to ego x forward, y left, z up; 0.5 m above the ground.
EGO_FROM_CAM = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0.5], [0, 0, 0, 1]])
INTRINSICS = torch.tensor([[40.0, 0, 31.5], [0, 40, 15.5], [0, 0, 1]])
IMAGE_FLIP = torch.tensor([[-1.0, 0, 63], [0, 1, 0], [0, 0, 1]])


def geometry(*, image: Tensor | None = None, bev: Tensor | None = None) -> CameraGeometry:
    return CameraGeometry(
        image_from_cam=INTRINSICS[None, None],
        augmented_from_image=(torch.eye(3) if image is None else image)[None, None],
        ego_from_cam=EGO_FROM_CAM[None, None],
        augmented_from_ego=(torch.eye(4) if bev is None else bev)[None],
    )


def one_pixel(row: int, col: int, depth_bin: int) -> DepthOutput:
    """Feature (7, -3) on one pixel of a 2 x 4 map, all its depth in one bin."""
    logit = torch.zeros(1, 1, 12, 2, 4)
    logit[0, 0, depth_bin, row, col] = 200
    context = torch.zeros(1, 1, 2, 2, 4)
    context[0, 0, :, row, col] = torch.tensor([7.0, -3.0])
    return DepthOutput(logit, context)


# Feature cell (0, 1) is pixel (23.5, 7.5): ray (-0.2, -0.2, 1). Bin 8 is 10.5 m deep, so the point
# is at x 10.5, y 2.1, z 0.5 + 2.1 = 2.6 in the ego frame: column 10, row 8.
@pytest.mark.parametrize(
    ("pixel", "image", "bev", "cell"),
    [
        ((0, 1), None, None, (8, 10)),
        # Mirrored, the same ray is seen at u = 63 - 23.5 = 39.5: feature column 2.
        ((0, 2), IMAGE_FLIP, None, (8, 10)),
        # y becomes -2.1: row 3.
        ((0, 1), None, torch.diag(torch.tensor([1.0, -1, 1, 1])), (3, 10)),
        ((0, 2), IMAGE_FLIP, torch.diag(torch.tensor([1.0, -1, 1, 1])), (3, 10)),
        # A quarter turn left, then a shift: x = -2.1 + 5 = 2.9, y = 10.5 - 9 = 1.5.
        (
            (0, 1),
            None,
            torch.tensor([[0.0, -1, 0, 5], [1, 0, 0, -9], [0, 0, 1, 0], [0, 0, 0, 1]]),
            (7, 2),
        ),
    ],
)
def test_a_feature_lands_in_the_cell_worked_out_by_hand(
    pixel: tuple[int, int], image: Tensor | None, bev: Tensor | None, cell: tuple[int, int]
) -> None:
    pooled = ViewTransform(CONFIG)(one_pixel(*pixel, 8), geometry(image=image, bev=bev))
    expected = torch.zeros(1, 2, 12, 16)
    expected[0, :, cell[0], cell[1]] = torch.tensor([7.0, -3.0])
    torch.testing.assert_close(pooled, expected)


def test_points_outside_the_heights_are_left_out() -> None:
    config = CONFIG.model_copy(update={"z_range": (-5.0, 2.5)})
    assert not ViewTransform(config)(one_pixel(0, 1, 8), geometry()).any()


def test_frustum_points_are_bin_centres_along_the_rays() -> None:
    points = frustum_points(geometry(), BINS, 16, (2, 4))
    assert points.shape == (1, 1, 12, 2, 4, 3)
    torch.testing.assert_close(points[0, 0, 8, 0, 1], torch.tensor([10.5, 2.1, 2.6]))
    torch.testing.assert_close(points[0, 0, 0, 1, 3], torch.tensor([2.5, -1.5, 0.0]))


def slow_splat(depth: Tensor, context: Tensor, cells: Tensor, num_cells: int):
    batch, cameras, bins, rows, cols = depth.shape
    out = [[torch.zeros(context.shape[2]) for _ in range(num_cells)] for _ in range(batch)]
    for b, n, d, h, w in torch.cartesian_prod(
        *(torch.arange(size) for size in (batch, cameras, bins, rows, cols))
    ).tolist():
        if cells[b, n, d, h, w] >= 0:
            cell = int(cells[b, n, d, h, w])
            out[b][cell] = out[b][cell] + depth[b, n, d, h, w] * context[b, n, :, h, w]
    return torch.stack([torch.stack(frame, dim=1) for frame in out])


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), low=st.sampled_from([-1, -20]))
def test_pooling_and_its_gradients_equal_a_slow_loop(seed: int, low: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    depth = torch.rand(2, 2, 3, 2, 4, generator=generator).requires_grad_()
    context = torch.randn(2, 2, 5, 2, 4, generator=generator).requires_grad_()
    cells = torch.randint(low, 7, depth.shape, generator=generator).clamp(min=-1)
    weight = torch.randn(2, 5, 7, generator=generator)
    results = []
    for pool in (splat, slow_splat):
        pooled = pool(depth, context, cells, 7)
        results.append((pooled, *torch.autograd.grad((pooled * weight).sum(), (depth, context))))
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-5)


def test_no_point_on_the_grid_gives_zeros_and_zero_gradients() -> None:
    depth, context = torch.rand(1, 1, 3, 2, 4), torch.rand(1, 1, 5, 2, 4, requires_grad=True)
    pooled = splat(depth, context, torch.full(depth.shape, -1), 7)
    (gradient,) = torch.autograd.grad(pooled.sum(), context)
    assert not pooled.any()
    assert not gradient.any()


def test_the_mass_of_depth_inside_the_grid_is_kept() -> None:
    generator = torch.Generator().manual_seed(0)
    lifted = DepthOutput(
        torch.randn(1, 1, 12, 2, 4, generator=generator), torch.ones(1, 1, 1, 2, 4)
    )
    everywhere = ViewTransformConfig(
        grid=BEVGrid(x_min=-50, y_min=-50, cell_size=5, shape=(20, 20)),
        bins=BINS,
        z_range=(-50, 50),
    )
    # Eight pixels, each with a probability that sums to one.
    assert float(ViewTransform(everywhere)(lifted, geometry()).sum()) == pytest.approx(8, rel=1e-5)
