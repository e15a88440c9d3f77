import pytest
import torch

from nets.bev_backbone import BEVBackbone, BEVBackboneConfig, BEVNeck

SMALL = BEVBackboneConfig(
    in_channels=3, channels=(4, 6, 8), layers=(0, 1, 2), strides=(2, 2, 1), up_channels=(2, 3, 4)
)


def test_stages_shrink_and_the_neck_returns_to_the_input_grid() -> None:
    backbone, neck = BEVBackbone(SMALL), BEVNeck(SMALL)
    maps = backbone(torch.rand(2, 3, 12, 8))
    assert [tuple(m.shape) for m in maps] == [(2, 4, 6, 4), (2, 6, 3, 2), (2, 8, 3, 2)]
    fused = neck(maps)
    assert fused.shape == (2, SMALL.out_channels, 12, 8) == (2, 9, 12, 8)
    fused.sum().backward()
    assert all(p.grad is not None for p in [*backbone.parameters(), *neck.parameters()])


def test_paper_scale_parameters_by_hand() -> None:
    config = BEVBackboneConfig()
    stage_0 = 256 * 128 * 9 + 5 * 128 * 128 * 9 + 6 * 2 * 128
    stage_1 = 128 * 256 * 9 + 5 * 256 * 256 * 9 + 6 * 2 * 256
    assert sum(p.numel() for p in BEVBackbone(config).parameters()) == stage_0 + stage_1
    neck = 128 * 256 + 2 * 256 + 256 * 256 * 4 + 2 * 256
    assert sum(p.numel() for p in BEVNeck(config).parameters()) == neck
    assert config.out_channels == 512


def test_norms_are_second_s() -> None:
    norms = [m for m in BEVBackbone(SMALL).modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.01)}


def test_a_map_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(10, 8\) is no multiple of the backbone's stride 4"):
        BEVBackbone(SMALL)(torch.rand(1, 3, 10, 8))


def test_uneven_configs_are_refused() -> None:
    with pytest.raises(ValueError, match="one entry a stage expected in each"):
        BEVBackboneConfig(layers=(5,))
