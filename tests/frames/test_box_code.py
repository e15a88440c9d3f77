import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frames.box_code import decode_boxes, encode_boxes, encode_boxes_at
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
