"""What BEV maps say at points between their cells."""

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def read_at(
    maps: Float[Tensor, "b c h w"],
    points: Float[Tensor, "b k 2"],
    *,
    outside: Literal["border", "zeros"] = "border",
) -> Float[Tensor, "b k c"]:
    """Bilinear samples, in float32.

    Args:
        maps: On one grid.
        points: In ``BEVGrid.to_unit`` units.
        outside: What lies beyond the map: its edge goes on, or zeros.
    """
    sampled = F.grid_sample(
        maps.float(), points[:, None], padding_mode=outside, align_corners=False
    )
    return sampled[:, :, 0].mT
