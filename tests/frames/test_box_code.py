import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frames.augment import BevAugment
from frames.box_code import (
    code_size,
    decode_boxes,
    encode_boxes,
    encode_boxes_at,
    move_codes,
)
from frames.errors import DataError
from frames.grid import BEVGrid

GRID = BEVGrid(x_min=2.0, y_min=-8.0, cell_size=0.8, shape=(20, 30))


def test_code_by_hand():
    # x = 2 + 0.8 * 3.25 and y = -8 + 0.8 * 10.5: a quarter and a half into cell (3, 10).
    box = torch.tensor([[4.6, 0.4, -1.0, 4.0, 2.0, 1.5, math.pi / 6, 3.0, -1.0]])
    code = encode_boxes(box, GRID)[0].tolist()
    log = [math.log(4.0), math.log(2.0), math.log(1.5)]
    expected = [0.25, 0.5, -1.0, *log, 0.5, math.sqrt(3) / 2, 3.0, -1.0]
    assert code == pytest.approx(expected, abs=1e-5)


@given(
    x=st.floats(2.1, 25.9),
    y=st.floats(-7.9, 7.9),
    yaw=st.floats(-3.1, 3.1),
    length=st.floats(0.3, 15.0),
)
def test_decoding_undoes_encoding(x: float, y: float, yaw: float, length: float):
    box = torch.tensor([[x, y, 0.3, length, 1.9, 1.6, yaw, 4.0, -2.0]])
    cell = GRID.cell_index(box[:, :2])
    assert torch.allclose(decode_boxes(encode_boxes(box, GRID), cell, GRID), box, atol=1e-4)


def test_a_code_at_another_cell_still_decodes_to_the_box():
    box = torch.tensor([[4.6, 0.4, -1.0, 4.0, 2.0, 1.5, 0.5, 3.0, -1.0]])
    other = GRID.cell_index(torch.tensor([[9.0, -3.0]]))
    code = encode_boxes_at(box, other, GRID)
    assert not ((code[0, :2] >= 0) & (code[0, :2] < 1)).all()
    assert torch.allclose(decode_boxes(code, other, GRID), box, atol=1e-4)


def test_padding_is_finite():
    assert encode_boxes(torch.zeros(2, 9), GRID).isfinite().all()


@given(
    yaw=st.floats(-math.pi, math.pi),
    scale=st.floats(0.9, 1.1),
    flip_x=st.booleans(),
    flip_y=st.booleans(),
)
def test_a_moved_code_is_the_moved_boxs(yaw: float, scale: float, flip_x: bool, flip_y: bool):
    """Its offset counts from the corner of a cell centred where the old cell's centre has gone."""
    augment = BevAugment.compose(yaw=yaw, scale=scale, flip_x=flip_x, flip_y=flip_y)
    box = torch.tensor([[4.6, 0.4, -1.0, 4.0, 2.0, 1.5, 0.5, 3.0, -1.0]])
    cell = GRID.cell_index(torch.tensor([[6.0, -1.0]]))
    with_iou = torch.cat([encode_boxes_at(box, cell, GRID), torch.tensor([[0.7]])], 1)
    moved, there = move_codes(with_iou, augment), augment.boxes(box)
    centre = augment.xy(GRID.cell_centres(cell))
    xy = centre + (moved[:, :2] - 0.5) * GRID.cell_size
    assert torch.allclose(xy, there[:, :2], atol=1e-4)
    assert torch.allclose(moved[:, 2:10], encode_boxes(there, GRID)[:, 2:], atol=1e-5)
    assert moved[0, 10] == with_iou[0, 10]


def test_a_networks_heading_need_not_be_a_unit_vector():
    """A quarter turn takes the cosine to the sine; its length stays, whatever the scale."""
    code = torch.zeros(1, 10)
    code[0, 6:8] = torch.tensor([0.0, 0.5])
    moved = move_codes(code, BevAugment.compose(yaw=math.pi / 2, scale=1.1))
    assert moved[0, 6:8].tolist() == pytest.approx([0.5, 0.0], abs=1e-6)


@pytest.mark.parametrize(
    ("channels", "size"), [(10, 10), (20, 10), (22, 11), (60, 10), (66, 11), (100, 10), (110, 11)]
)
def test_channels_say_how_long_a_code_is(channels: int, size: int):
    assert code_size(channels) == size


@pytest.mark.parametrize("channels", [0, 7, 42, 120])
def test_channels_of_no_centre_head_are_refused(channels: int):
    with pytest.raises(DataError, match=f"{channels} regression channels; expected 10 or 11"):
        code_size(channels)
