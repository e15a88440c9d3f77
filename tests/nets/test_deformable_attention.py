"""Geometry compensation against slow loops, and as it starts."""

import math

import pytest
import torch
from torch import Tensor

from nets.deformable_attention import (
    CompensationConfig,
    GeometryCompensation,
    attend,
    first_offsets,
)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def bilinear(map_: Tensor, x: float, y: float) -> Tensor:
    """One sample (c,), x and y in cells from the outer corner; zeros off the map."""
    col, row = x - 0.5, y - 0.5
    total = map_.new_zeros(len(map_))
    for r in (math.floor(row), math.floor(row) + 1):
        for c in (math.floor(col), math.floor(col) + 1):
            if 0 <= r < map_.shape[1] and 0 <= c < map_.shape[2]:
                total = total + (1 - abs(row - r)) * (1 - abs(col - c)) * map_[:, r, c]
    return total


def slow(module: GeometryCompensation, maps: Tensor) -> Tensor:
    """The same, a cell, head and point at a time."""
    heads, points = module.config.heads, module.config.points
    start = 0.0 if module.config.corner_reference else 0.5
    out = maps.clone()
    rows, cols = maps.shape[2:]
    width = maps.shape[1] // heads
    for k, map_ in enumerate(maps):
        value = torch.stack([module.value(cell) for cell in map_.flatten(1).T], 1).view_as(map_)
        for row in range(rows):
            for col in range(cols):
                here = map_[:, row, col]
                query = here + torch.cat([module.of_col[col], module.of_row[row]])
                offset = module.offset(query).view(heads, points, 2)
                weight = module.weight(query).view(heads, points).softmax(-1)
                read = []
                for head in range(heads):
                    own = value[head * width : (head + 1) * width]
                    samples = [
                        weight[head, p]
                        * bilinear(
                            own,
                            col + start + float(offset[head, p, 0]),
                            row + start + float(offset[head, p, 1]),
                        )
                        for p in range(points)
                    ]
                    read.append(torch.stack(samples).sum(0))
                out[k, :, row, col] = here + module.out(torch.cat(read))
    return out


def some_module(**changes: object) -> GeometryCompensation:
    """All of its weights random, so that every cell looks elsewhere."""
    torch.manual_seed(0)
    config = CompensationConfig.model_validate({"heads": 2, "points": 3, **changes})
    module = GeometryCompensation(config, 4, (3, 5))
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


@pytest.mark.parametrize("corner", [False, True])
@torch.no_grad()
def test_it_is_the_slow_loop(corner: bool):
    module, maps = some_module(corner_reference=corner), torch.randn(2, 4, 3, 5)
    torch.testing.assert_close(module(maps), slow(module, maps), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_head_that_looks_one_cell_right_reads_it():
    """One head, one point, weights of identity: the map shifted by a cell, added to itself."""
    module = GeometryCompensation(CompensationConfig(heads=1, points=1), 2, (3, 4))
    for linear in (module.value, module.out):
        linear.weight.copy_(torch.eye(2))
    assert module.offset.bias.tolist() == [1, 0]
    maps = torch.randn(1, 2, 3, 4)
    shifted = torch.cat([maps[..., 1:], torch.zeros(1, 2, 3, 1)], -1)
    torch.testing.assert_close(module(maps), maps + shifted)


def test_heads_look_eight_ways_at_first():
    offsets = first_offsets(8, 3)
    assert offsets.abs().amax(-1).tolist() == [pytest.approx([1, 2, 3])] * 8
    ways = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    torch.testing.assert_close(offsets[:, 0], torch.tensor(ways).float(), atol=1e-6, rtol=0)


def test_weights_and_places_get_gradient():
    value = torch.randn(1, 2, 3, 4, 5, requires_grad=True)
    places = (torch.rand(1, 2, 7, 3, 2) * 4).requires_grad_()
    weight = torch.rand(1, 2, 7, 3, requires_grad=True)
    read = attend(value, places, weight)
    assert read.shape == (1, 2, 3, 7)
    read.square().sum().backward()
    assert all(leaf.grad is not None and leaf.grad.any() for leaf in (value, places, weight))


@pytest.mark.parametrize(
    ("points", "channels", "shape", "parameters"),
    [(20, 80, (180, 180), 51_840), (10, 256, (32, 88), 193_264)],
)
def test_parameters_are_those_specified(
    points: int, channels: int, shape: tuple[int, int], parameters: int
):
    module = GeometryCompensation(CompensationConfig(points=points), channels, shape)
    positions = sum(shape) * channels // 2
    assert count(module) == parameters + positions


def test_it_stays_float32_under_autocast():
    module = some_module()
    with torch.autocast("cpu", torch.bfloat16):
        found = module(torch.randn(1, 4, 3, 5).bfloat16())
    assert found.dtype == torch.float32


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="6 channels cannot be split over 4 heads"):
        GeometryCompensation(CompensationConfig(heads=4), 6, (3, 5))
    with pytest.raises(ValueError, match=r"a map of \(5, 3\) cells, expected \(3, 5\)"):
        some_module()(torch.randn(1, 4, 5, 3))
