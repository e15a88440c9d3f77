"""Greedy suppression: of boxes that rival each other the best one stays."""

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from frames.rotated_iou import pairwise_bev_iou


def circle_keep(centres: Float32[Tensor, "n 2"], squared: float, limit: int) -> Bool[Tensor, " n"]:
    """By centre distance (CenterPoint).

    Args:
        centres: x y in metres, best score first.
        squared: A centre this near (square metres) to a better one that is kept, is not kept.
        limit: Number after which no more are kept.
    """
    return _keep((centres[:, None] - centres[None]).square().sum(-1) <= squared, limit)


def rotated_keep(boxes: Float[Tensor, "n d"], overlap: float, limit: int) -> Bool[Tensor, " n"]:
    """By BEV IoU.

    Args:
        boxes: Best first, x y z l w h yaw.
        overlap: A box is dropped if a better one that stays overlaps it by more.
        limit: Boxes kept.
    """
    return _keep(pairwise_bev_iou(boxes, boxes) > overlap, limit)


def _keep(rivals: Bool[Tensor, "n n"], limit: int) -> Bool[Tensor, " n"]:
    near = rivals.cpu().numpy()
    keep = torch.zeros(len(near), dtype=torch.bool)
    free = torch.ones(len(near), dtype=torch.bool).numpy()
    for index in range(len(near)):
        if limit == 0:
            break
        if free[index]:
            keep[index] = True
            free &= ~near[index]
            limit -= 1
    return keep.to(rivals.device)
