"""The stereo volume: matching costs over planes of depth, and how deep each pixel lies.

LIGA-Stereo's (commit aee3731): one volume at a quarter of the resolution,
72 planes of 0.8 m; the depth distribution at full resolution, 288 bins of 0.2 m.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32
from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nets.depth_net import DepthBins
from nets.fit_together import require_multiple
from nets.hourglass import STRIDE, Hourglass, conv_norm
from nets.plane_sweep import plane_sweep


class DepthVolumeConfig(BaseModel):
    """Sizes; defaults are LIGA-Stereo's.

    Attributes:
        planes: Of the sweep.
        finer: Bins of the depth distribution in a plane, and pixels in a cell, along either axis.
        channels: Of the volume.
        width: Inside its hourglass.
        groups: Of GroupNorm.
        checkpointed: Whether the volume's activations are computed anew for the gradient.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    planes: DepthBins = DepthBins(start=2.0, stop=59.6, step=0.8)
    finer: PositiveInt = 4
    channels: PositiveInt = 32
    width: PositiveInt = 64
    groups: PositiveInt = 32
    checkpointed: bool = False

    @model_validator(mode="after")
    def _halves_twice(self) -> "DepthVolumeConfig":
        require_multiple(
            "planes.count (of start, stop, step)", [self.planes.count], STRIDE, "the hourglass's"
        )
        return self

    @property
    def bins(self) -> DepthBins:
        """Of the depth distribution."""
        return self.planes.model_copy(update={"step": self.planes.step / self.finer})


@dataclass(frozen=True, slots=True)
class DepthVolume:
    """What matching says of a batch of image pairs.

    Attributes:
        volume: Features at each plane.
        plane_logit: Of each plane, before it is scaled to the bins and pixels and before softmax.
    """

    volume: Float[Tensor, "b c d hs ws"]
    plane_logit: Float[Tensor, "b d hs ws"]


class DepthVolumeNet(nn.Module):
    """Plane sweep, aggregation, depth head.

    Args:
        config: Sizes.
        feature_channels: Of the stereo features.
    """

    def __init__(self, config: DepthVolumeConfig, feature_channels: int) -> None:
        super().__init__()
        self.config = config
        channels, groups = config.channels, config.groups
        self.matched = nn.Sequential(
            conv_norm(3, 2 * feature_channels, channels, groups=groups),
            nn.ReLU(inplace=True),
        )
        self.refined = conv_norm(3, channels, channels, groups=groups)
        self.hourglass = Hourglass(3, channels, config.width, groups)
        self.depth = nn.Sequential(
            conv_norm(3, channels, channels, groups=groups),
            nn.ReLU(inplace=True),
            nn.Conv3d(channels, 1, 3, padding=1, bias=False),
        )

    def forward(
        self,
        left: Float[Tensor, "b c h w"],
        right: Float[Tensor, "b c h w"],
        focal_baseline: Float[Tensor, " b"],
    ) -> DepthVolume:
        """Match the stereo features of both images.

        Args:
            left: Features.
            right: Likewise.
            focal_baseline: Focal length x distance between the cameras, pixels x metres.
        """
        # Always in float32: in bfloat16 a disparity would be off by a pixel.
        disparity = focal_baseline[:, None] / self.config.planes.centres().to(left.device)
        if self.config.checkpointed and self.training:
            volume, logit = checkpoint(self._volume, left, right, disparity, use_reentrant=False)
        else:
            volume, logit = self._volume(left, right, disparity)
        return DepthVolume(volume, logit)

    def _volume(self, left: Tensor, right: Tensor, disparity: Tensor) -> tuple[Tensor, Tensor]:
        costs = plane_sweep(left, right, disparity, self.config.finer)
        matched = self.matched(costs)
        refined = self.refined(matched) + matched
        volume = refined + self.hourglass(refined)
        return volume, self.depth(volume)[:, 0]


@torch.no_grad()
def depth_distribution(
    plane_logit: Float[Tensor, "b d hs ws"], size: tuple[int, int], bins: DepthBins
) -> Float32[Tensor, "b bins h w"]:
    """Probability of each bin at each of ``size`` pixels; no gradient passes (LIGA-Stereo)."""
    logit = F.interpolate(
        plane_logit[:, None].float(), size=(bins.count, *size), mode="trilinear", align_corners=True
    )
    return logit[:, 0].softmax(1)


def stereo_depth_loss(
    plane_logit: Float[Tensor, "b d hs ws"], depth: Float32[Tensor, "b h w"], bins: DepthBins
) -> Float[Tensor, ""]:
    """Cross-entropy with a tent over the two nearest bins, mean over pixels with a LiDAR depth.

    The distribution is that of :func:`depth_distribution`, scaled to the bins at those pixels only:
    a tenth of the time and memory.

    Args:
        plane_logit: Of each plane.
        depth: Metres; 0 where no point projects. Pixels outside the bins' range do not count.
        bins: Equal bins.

    Source: LIGA-Stereo, commit aee3731: ``-sum_k max(0, 1 - |d - d_k| / step) log p_k``.
    """
    known: Bool[Tensor, "b h w"] = (depth > bins.start) & (depth < bins.stop)
    centres = bins.centres().to(depth)
    wanted = (1 - (depth[known][:, None] - centres).abs() / bins.step).clamp(min=0)
    size = depth.shape[1:]
    at_pixels = F.interpolate(plane_logit.float(), size=size, mode="bilinear", align_corners=True)
    at_known = at_pixels.permute(0, 2, 3, 1)[known][:, None]
    logit = F.interpolate(at_known, size=bins.count, mode="linear", align_corners=True)
    log_prob = logit[:, 0].log_softmax(1)
    total = -(wanted * log_prob).sum()
    return total / known.sum().clamp(min=1)
