"""The nine points of a box at which UniDistill reads BEV maps (CVPR 2023, section 3.2)."""

import torch
from jaxtyping import Float
from torch import Tensor

from frames.boxes import YAW
from frames.geometry import yaw_rotations

# In units of (length / 2, width / 2), forward and left: four corners, centre, four edge middles;
# the order is that of the released code.
POINTS = torch.tensor(
    [[-1, -1], [-1, 1], [1, 1], [1, -1], [0, 0], [-1, 0], [0, 1], [1, 0], [0, -1]],
    dtype=torch.float32,
)
NUM_POINTS, NUM_CORNERS = len(POINTS), 4
# Which point of a box becomes each point of its mirror image: left and right change places.
MIRRORED = torch.tensor([1, 0, 3, 2, 4, 5, 8, 7, 6])


def box_points(boxes: Float[Tensor, "*n 9"]) -> Float[Tensor, "*n 9 2"]:
    """Ground-plane points (x, y), metres, of boxes x y z l w h yaw vx vy."""
    along = boxes[..., None, 3:5] / 2 * POINTS.to(boxes)
    heading, left = yaw_rotations(boxes[..., None, YAW]).unbind(-1)
    return boxes[..., None, :2] + (along[..., :1] * heading + along[..., 1:] * left)
