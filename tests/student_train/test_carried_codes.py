"""Box codes at objects, carried into an augmented frame."""

import pytest
import torch
from torch import Tensor

from frames.augment import BevAugment
from frames.box_code import decode_boxes
from frames.boxes import BoxBatch
from tests.student_train.labeldistill_case import (
    GRID,
    IDENTITY,
    TRUTHS,
    method_of,
    rows_of,
    targets_of,
)


def carried_codes(augment: BevAugment) -> Tensor:
    method = method_of()
    codes = targets_of(method, rows_of(method, TRUTHS, IDENTITY), augment).codes
    assert codes is not None
    return codes


@pytest.mark.parametrize(
    "augment",
    [
        BevAugment.compose(flip_x=True, flip_y=True),
        BevAugment.compose(yaw=0.4, scale=1.05, flip_y=True),
    ],
)
def test_carried_codes_are_those_of_the_moved_boxes(augment: BevAugment):
    """Each at the cell to which its true box has moved."""
    boxes = BoxBatch.pad(TRUTHS)
    moved = augment.boxes(boxes.values)
    before, after = (GRID.cell_index(values[..., :2]) for values in (boxes.values, moved))
    said = augment.boxes(decode_boxes(carried_codes(IDENTITY), before, GRID))
    carried = decode_boxes(carried_codes(augment), after, GRID)
    on = (torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]))
    assert torch.allclose(carried[on][:, :6], said[on][:, :6], atol=1e-4)
    assert torch.allclose(carried[on][:, 7:], said[on][:, 7:], atol=1e-4)
    assert torch.allclose((carried[on][:, 6] - said[on][:, 6]).cos(), torch.ones(3), atol=1e-5)


def test_a_flip_reflects_the_offset_and_keeps_the_length_of_the_heading():
    still, flipped = (
        carried_codes(IDENTITY)[0, 0],
        carried_codes(BevAugment.compose(flip_x=True))[0, 0],
    )
    assert flipped[0].item() == pytest.approx(1 - still[0].item(), abs=1e-5)
    assert flipped[1:6].tolist() == pytest.approx(still[1:6].tolist(), abs=1e-5)
    # Sine stays, cosine and the velocity along x change their sign.
    assert flipped[6:].tolist() == pytest.approx(
        (still[6:] * torch.tensor([1, -1, -1, 1])).tolist()
    )
