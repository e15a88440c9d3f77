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
        BevAugment.compose(shift=(0.4, -1.7)),
        BevAugment.compose(yaw=-0.3, scale=0.95, flip_x=True, shift=(-0.6, 0.9)),
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


def test_a_shift_is_in_the_offset_alone_less_the_cells_that_the_box_has_moved_by():
    """Cells of a metre; by hand, the cells' corners and what is left of the shift (0.4, -1.7).

    (1.2, 0.3) in the cell at (1, 0) goes to (1.6, -1.4) in that at (1, -2): 0.4 and 0.3 are left.
    (-4, 5.4) goes from (-4, 5) to (-3.6, 3.7) at (-4, 3): the same.
    (2.5, -4.1) goes from (2, -5) to (2.9, -5.8) at (2, -6): 0.4 and -0.7.
    """
    still = carried_codes(IDENTITY)
    moved = carried_codes(BevAugment.compose(shift=(0.4, -1.7)))
    left = torch.tensor([[0.4, 0.3], [0.4, 0.3], [0.4, -0.7]])
    on = (torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]))
    assert torch.allclose(moved[on][:, :2] - still[on][:, :2], left, atol=1e-5)
    assert torch.allclose(moved[on][:, 2:], still[on][:, 2:], atol=1e-6)
