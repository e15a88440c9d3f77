"""The centre head's box code (mmdet3d CenterPoint): ten numbers at the cell of a box's centre.

Code: [cx - floor(cx), cy - floor(cy), z, ln l, ln w, ln h, sin yaw, cos yaw, vx, vy], with cx, cy
counted in cells from the grid's outer corner, the other lengths in metres.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from frames.augment import BevAugment
from frames.boxes import SIZE, VELOCITY, YAW
from frames.detection_classes import DETECTION_CLASSES
from frames.errors import DataError
from frames.grid import BEVGrid

CODE_SIZE = 10
# An IoU-aware head (UniDistill) says last how well it thinks the box fits.
CODE_SIZES = (CODE_SIZE, CODE_SIZE + 1)
OFFSET, HEIGHT, LOG_SIZE = slice(0, 2), slice(2, 3), slice(3, 6)
SIN_COS, CODE_VELOCITY = slice(6, 8), slice(8, 10)


def encode_boxes(boxes: Float[Tensor, "*n 9"], grid: BEVGrid) -> Float[Tensor, "*n 10"]:
    """Codes of boxes at their own centre cells."""
    corner = grid.to_cells(boxes[..., :2]) + 0.5
    return _code(boxes, corner - corner.floor())


def encode_boxes_at(
    boxes: Float[Tensor, "*n 9"], cell_index: Int64[Tensor, "*n"], grid: BEVGrid
) -> Float[Tensor, "*n 10"]:
    """Codes of boxes at given cells; the offset leaves [0, 1) where the centre lies elsewhere."""
    corner = grid.to_cells(boxes[..., :2]) + 0.5
    return _code(boxes, corner - _cell_corner(cell_index, grid).to(corner))


def decode_boxes(
    code: Float[Tensor, "*n 10"], cell_index: Int64[Tensor, "*n"], grid: BEVGrid
) -> Float[Tensor, "*n 9"]:
    """Boxes x y z l w h yaw vx vy, metres and radians, from codes at cells."""
    origin = code.new_tensor([grid.x_min, grid.y_min])
    xy = (_cell_corner(cell_index, grid).to(code) + code[..., OFFSET]) * grid.cell_size + origin
    yaw = torch.atan2(code[..., 6], code[..., 7])
    size = code[..., LOG_SIZE].exp()
    return torch.cat([xy, code[..., HEIGHT], size, yaw[..., None], code[..., CODE_VELOCITY]], -1)


def code_size(channels: int) -> int:
    """Numbers in a code, from the regression channels of all tasks: 60 are 6 x 10, 66 are 6 x 11.

    Every task has a class of its own, so there are ten at most and no number is both.

    Raises:
        DataError: It is neither.
    """
    for size in CODE_SIZES:
        if channels % size == 0 and 0 < channels // size <= len(DETECTION_CLASSES):
            return size
    raise DataError(
        f"{channels} regression channels; expected {' or '.join(map(str, CODE_SIZES))} for each of "
        f"up to {len(DETECTION_CLASSES)} tasks: dump a teacher with a centre head"
    )


def move_codes(code: Float[Tensor, "*n _"], augment: BevAugment) -> Float[Tensor, "*n _"]:
    """Codes of the augmented boxes, each at a cell centred where its own cell's centre has gone.

    All but the size is linear, so a heading that is no unit vector is moved too. Numbers after the
    tenth stay.
    """
    linear, scale = augment.matrix[:, :2].mT.to(code), augment.scale
    # From the cell's centre, and with the cosine first: as vectors of the plane.
    offset = (code[..., OFFSET] - 0.5) @ linear + 0.5
    heading = code[..., SIN_COS].flip(-1) @ linear / scale
    return torch.cat(
        [
            *(offset, code[..., HEIGHT] * scale, code[..., LOG_SIZE] + math.log(scale)),
            *(heading.flip(-1), code[..., CODE_VELOCITY] @ linear, code[..., CODE_SIZE:]),
        ],
        dim=-1,
    )


def _cell_corner(cell_index: Int64[Tensor, "*n"], grid: BEVGrid) -> Int64[Tensor, "*n 2"]:
    cols = grid.shape[1]
    return torch.stack([cell_index % cols, cell_index // cols], dim=-1)


def _code(boxes: Float[Tensor, "*n 9"], offset: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 10"]:
    # Padding has size 0: the clamp keeps its logarithm finite.
    log_size = boxes[..., SIZE].clamp(min=1e-3).log()
    yaw = boxes[..., YAW]
    heading = torch.stack([yaw.sin(), yaw.cos()], dim=-1)
    return torch.cat([offset, boxes[..., 2:3], log_size, heading, boxes[..., VELOCITY]], dim=-1)
