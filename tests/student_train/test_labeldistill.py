"""LabelDistill's losses by hand and against a literal reading; its method on tiny maps."""

import math

import pytest
import torch
from torch import nn

from student_train.methods.labeldistill import (
    Response,
    adaptor,
    channel_third,
    feature_loss,
    response_at_cells,
    response_elsewhere,
)

FORMS: tuple[Response, ...] = ("soft_target", "official_dead_positive")


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("low", "count"), [(450, 1_880_448), (750, 1_995_648)])
def test_an_adaptor_has_the_released_codes_parameters(low: int, count: int):
    """Specification, 2.4: two and four past frames, 300 channels at half resolution."""
    assert parameters(adaptor(low // 3, 128)) + parameters(adaptor(300 // 3, 256)) == count


def test_thirds_of_everything_and_of_each_time_step():
    maps = torch.arange(14.0).view(1, 14, 1, 1)
    assert [channel_third(maps, k).flatten().tolist() for k in range(3)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]
    assert [channel_third(maps, k, 2).flatten().tolist() for k in range(3)] == [
        [0, 1, 7, 8],
        [2, 3, 9, 10],
        [4, 5, 11, 12],
    ]


def test_feature_loss_by_hand():
    student = torch.tensor([[[1.0, 2.0], [0.0, 3.0]], [[5.0, 5.0], [1.0, 1.0]]])
    weight = torch.tensor([[1.5, 0.5], [0.0, 0.0]])
    # (1.5 * 5 + 0.5 * 9) / 2, whatever the frame.
    assert feature_loss(student, torch.zeros(2, 2, 2), weight).item() == pytest.approx(6.0)
    # Weights that sum to less than 1 do not blow it up.
    assert feature_loss(student, torch.zeros(2, 2, 2), weight / 8).item() == pytest.approx(1.5)


def test_response_by_hand():
    """p of the student 1/2, of the teacher 3/4, a Gaussian of 1 and one of 1/3."""
    student, teacher = torch.zeros(1, 2, 1), torch.full((1, 2, 1), math.log(3.0))
    heatmap = torch.tensor([[[1.0], [1 / 3]]])
    # Targets 3/4 and 1/4: -ln(1/2) / 4 times (1/4)^4 and (3/4)^4; no positive cell.
    dead = math.log(2) / 4 * (1 / 256 + 81 / 256)
    found = response_at_cells(student, teacher, heatmap, "official_dead_positive")
    assert found.tolist() == pytest.approx([dead])
    # Cross entropy ln 2 for either, squared gaps 1/16.
    found = response_at_cells(student, teacher, heatmap, "soft_target")
    assert found.tolist() == pytest.approx([2 * math.log(2) / 16])


@pytest.mark.parametrize("form", FORMS)
def test_away_from_objects_it_is_the_ordinary_negative_loss(form: Response):
    logit = torch.tensor([[[[0.0, math.log(3.0)]], [[5.0, -20.0]]]])
    outside = torch.tensor([[[True, True]]])
    first = math.log(2) / 4 + 9 / 16 * math.log(4)
    found = response_elsewhere(logit, outside, form)
    assert found[0].item() == pytest.approx(first)
    none = response_elsewhere(logit, torch.zeros_like(outside), form)
    assert none.tolist() == [0, 0]
