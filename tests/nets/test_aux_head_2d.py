import pytest
import torch
from torch import Tensor

from nets.aux_head_2d import AuxHead2D, AuxHead2DConfig


def test_parameters_are_as_many_as_the_layers_say():
    head = AuxHead2D(AuxHead2DConfig(), 32, 3)
    pyramid = (32 + 1) * 64 + 5 * (64 * 9 + 1) * 64
    towers = 2 * 4 * (64 * 9 * 64 + 2 * 64)
    predictions = (64 * 9 + 1) * (3 + 3 * 4 + 1)
    assert sum(p.numel() for p in head.parameters()) == pyramid + towers + predictions + 5


def test_levels_and_anchors_of_kittis_images():
    head = AuxHead2D(AuxHead2DConfig(), 32, 3)
    with torch.no_grad():
        maps = head(torch.randn(1, 32, 80, 312))
    assert [len(level) for level in maps.anchors] == [80 * 312, 40 * 156, 20 * 78, 10 * 39, 5 * 20]
    assert maps.code.shape == (1, 33250, 3, 4)
    assert maps.logit.sigmoid().mean().item() == pytest.approx(0.01, abs=2e-3)
    # The second level: 128 pixels wide, 8 apart, the first about the corner pixel.
    assert maps.anchors[1][0].tolist() == [-64, -64, 64, 64]
    assert maps.anchors[1][156 + 2].tolist() == [-48, -56, 80, 72]


def test_predictions_are_in_the_order_of_the_anchors():
    head = AuxHead2D(AuxHead2DConfig(channels=4, layers=1, groups=2, levels=2), 4, 3)
    kept: list[Tensor] = []
    head.code.register_forward_hook(lambda _m, _i, output: kept.append(output))
    maps = head(torch.randn(2, 4, 4, 6))
    j, i, label, part = 1, 2, 1, 3
    assert maps.code[1, 4 * 6 + j * 3 + i, label, part] == kept[1][1, label * 4 + part, j, i]


def test_predictions_are_in_float32_under_autocast():
    head = AuxHead2D(AuxHead2DConfig(channels=4, layers=1, groups=2), 4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        maps = head(torch.randn(1, 4, 8, 16))
    assert {maps.logit.dtype, maps.code.dtype, maps.centreness.dtype} == {torch.float32}
