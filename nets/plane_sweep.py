"""Plane sweep: what both cameras see if everything lay at one depth, for many depths."""

import torch
from jaxtyping import Float
from torch import Tensor


def plane_sweep(
    left: Float[Tensor, "b c h w"],
    right: Float[Tensor, "b c h w"],
    disparity: Float[Tensor, "b d"],
    stride: int = 4,
) -> Float[Tensor, "b {2*left.shape[1]} d _ _"]:
    """Concatenate left features with the right ones that would match at each plane.

    At cell (v, u) lies the left feature of pixel (stride v, stride u), and the right one at column
    ``stride u - disparity``, between pixels interpolated; zeros where that is off the image.

    Args:
        left: Features at full resolution.
        right: Likewise.
        disparity: Of each plane, pixels: focal length x baseline / depth.
        stride: Pixels in a cell, along either axis.

    Source: LIGA-Stereo, commit aee3731.
    """
    width = left.shape[3]
    columns = torch.arange(0, width, stride, device=left.device)
    planes = []
    for own, rows, shift in zip(left, right[:, :, ::stride], disparity, strict=True):
        at = columns - shift[:, None]
        seen = (at >= 0) & (at <= width - 1)
        low = at.floor().clamp(0, width - 1)
        # Index and interpolate one row of planes at a time: (c, h, d * w).
        first = rows[:, :, low.long().flatten()]
        second = rows[:, :, (low.long() + 1).clamp(max=width - 1).flatten()]
        weight = ((at - low) * seen).flatten().to(rows.dtype)
        matched = torch.lerp(first, second, weight) * seen.flatten()
        matched = matched.unflatten(2, at.shape).transpose(1, 2)
        fixed = own[:, None, ::stride, ::stride].expand(-1, len(shift), -1, -1)
        planes.append(torch.cat([fixed, matched]))
    return torch.stack(planes)
