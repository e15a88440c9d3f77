import math

import pytest
import torch
from torch import nn

from nets.read_at import read_at
from store.schema import Target
from student_train.methods.base import Method, TermConfig
from student_train.methods.imitation import Imitation, ImitationConfig, feature_loss, heatmap_loss
from tests.student_train.method_suite import CHANNELS, CONTEXT, MethodSuite


class TestImitation(MethodSuite):
    def build(self) -> Method:
        config = ImitationConfig(feature=TermConfig(), heatmap=TermConfig())
        return identity_adapter(Imitation(config, CONTEXT))


class TestBinaryLowLevelImitation(MethodSuite):
    def build(self) -> Method:
        return identity_adapter(
            Imitation(ImitationConfig(level=Target.BEV_LOW, mask="binary"), CONTEXT)
        )


class TestHeatmapImitation(MethodSuite):
    def build(self) -> Method:
        return Imitation(ImitationConfig(feature=TermConfig(weight=0)), CONTEXT)


def identity_adapter(method: Imitation) -> Imitation:
    nn.init.eye_(method.adapter.weight)
    nn.init.zeros_(method.adapter.bias)
    return method


def test_a_linear_adapter_on_samples_is_a_1x1_convolution():
    adapter, maps = nn.Linear(CHANNELS, 6), torch.randn(2, CHANNELS, 16, 16)
    conv = nn.Conv2d(CHANNELS, 6, 1)
    conv.weight.data, conv.bias = adapter.weight.data[..., None, None], adapter.bias
    points = torch.rand(2, 20, 2) * 1.8 - 0.9
    assert torch.allclose(adapter(read_at(maps, points)), read_at(conv(maps), points), atol=1e-5)


def test_feature_loss_by_hand():
    student = torch.tensor([[[1.0, 2.0], [0.0, 0.0]], [[5.0, 5.0], [1.0, 1.0]]])
    weight = torch.tensor([[1.0, 0.5], [0.0, 0.0]])
    # Frame 0: (1 * 2.5 + 0.5 * 0) / 1.5; frame 1 has no foreground: 0; mean of the two.
    assert feature_loss(student, torch.zeros(2, 2, 2), weight).item() == pytest.approx(2.5 / 3)


def test_heatmap_loss_by_hand():
    student, teacher = torch.zeros(1, 1, 1), torch.full((1, 1, 1), math.log(3.0))
    # p_S = 1/2, p_T = 3/4: cross entropy ln 2, squared gap 1/16; two objects.
    loss = heatmap_loss(student, teacher, torch.ones(1, 1, dtype=torch.bool), torch.tensor(2))
    assert loss.item() == pytest.approx(math.log(2) / 16 / 2)
