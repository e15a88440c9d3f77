"""Boxes relative to anchors: the residual code of SECOND, PointPillars and LIGA-Stereo.

A code is seven numbers: x y over the anchor's diagonal, z over its height, natural logarithms of
the ratios of l w h, and the difference of the yaws.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from frames.geometry import wrap_angle


def encode_at_anchors(
    boxes: Float[Tensor, "*n 7"], anchors: Float[Tensor, "*n 7"]
) -> Float[Tensor, "*n 7"]:
    """Codes of boxes x y z l w h yaw; the yaw's difference is wrapped to [-pi, pi), as LIGA does.

    OpenPCDet does not wrap; a loss on the sine of the difference sees no difference.
    """
    centre = (boxes[..., :3] - anchors[..., :3]) / _scale(anchors)
    size = (boxes[..., 3:6] / anchors[..., 3:6]).log()
    return torch.cat([centre, size, wrap_angle(boxes[..., 6:] - anchors[..., 6:])], -1)


def decode_at_anchors(
    codes: Float[Tensor, "*n 7"], anchors: Float[Tensor, "*n 7"]
) -> Float[Tensor, "*n 7"]:
    """The boxes of codes; the yaw is the raw one, before the direction classifier has its say."""
    centre = codes[..., :3] * _scale(anchors) + anchors[..., :3]
    size = codes[..., 3:6].exp() * anchors[..., 3:6]
    return torch.cat([centre, size, codes[..., 6:] + anchors[..., 6:]], -1)


def _scale(anchors: Float[Tensor, "*n 7"]) -> Float[Tensor, "*n 3"]:
    diagonal = anchors[..., 3:5].norm(dim=-1, keepdim=True)
    return torch.cat([diagonal, diagonal, anchors[..., 5:6]], -1)
