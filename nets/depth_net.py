"""Camera-aware depth and context (BEVDepth, slim), and the loss that LiDAR depth puts on it.

Left out against BEVDepth: ASPP and the deformable convolution. Its BatchNorm of the calibration
vector is replaced by fixed scales, so that a frame's result does not depend on its batch.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Int64
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from frames.camera_geometry import CameraGeometry
from frames.camera_input import CameraInput
from nets.blocks import ResidualBlock, conv_norm_relu

CALIBRATION_SIZE = 18


class DepthBins(BaseModel):
    """Equal bins of depth along the optical axis; defaults are BEVDepth's 112.

    Attributes:
        start: Near edge of the first bin, metres.
        stop: Far edge of the last bin, metres.
        step: Width of a bin, metres.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: PositiveFloat = 2.0
    stop: PositiveFloat = 58.0
    step: PositiveFloat = 0.5

    @model_validator(mode="after")
    def _not_empty(self) -> "DepthBins":
        if self.count < 1:
            raise ValueError(
                f"depth {self.start}..{self.stop} m in steps of {self.step} m holds no bin: "
                "expected stop above start by at least one step"
            )
        return self

    @property
    def count(self) -> int:
        """Number of bins."""
        return round((self.stop - self.start) / self.step)

    def centres(self) -> Float32[Tensor, " d"]:
        """Middle of each bin, metres (BEVDepth lifts to the near edge instead)."""
        return self.start + (torch.arange(self.count) + 0.5) * self.step


class DepthNetConfig(BaseModel):
    """Sizes; defaults are BEVDepth's.

    Attributes:
        in_channels: Channels of the image features.
        stride: Image pixels in one feature cell, along either axis.
        channels: Width inside.
        context_channels: Channels that are lifted to BEV.
        depth_blocks: Residual blocks of the depth branch.
        bins: Depth bins.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_channels: PositiveInt = 512
    stride: PositiveInt = 16
    channels: PositiveInt = 512
    context_channels: PositiveInt = 80
    depth_blocks: PositiveInt = 3
    bins: DepthBins = DepthBins()


@dataclass(frozen=True, slots=True)
class DepthOutput:
    """What is lifted.

    Attributes:
        depth_logit: Before the softmax over bins.
        context: Features.
    """

    depth_logit: Float[Tensor, "b n d h w"]
    context: Float[Tensor, "b n c h w"]


class CameraGate(nn.Module):
    """Scales channels by what a small network makes of the calibration (squeeze-excitation)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(CALIBRATION_SIZE, channels),
            nn.ReLU(inplace=True),
            nn.Linear(channels, channels),
            nn.ReLU(inplace=True),
            nn.Linear(channels, channels),
            nn.Sigmoid(),
        )

    def forward(
        self, x: Float[Tensor, "k c h w"], calibration: Float[Tensor, "k v"]
    ) -> Float[Tensor, "k c h w"]:
        """The gated features."""
        gate: Tensor = self.mlp(calibration)
        return x * gate[..., None, None]


class DepthNet(nn.Module):
    """A common convolution, then a gated branch each for context and depth."""

    def __init__(self, config: DepthNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        self.reduce = conv_norm_relu(config.in_channels, width)
        self.context_gate, self.depth_gate = CameraGate(width), CameraGate(width)
        self.context = nn.Conv2d(width, config.context_channels, 1)
        self.depth = nn.Sequential(
            *(ResidualBlock(width) for _ in range(config.depth_blocks)),
            nn.Conv2d(width, config.bins.count, 1),
        )

    def forward(
        self, features: Float[Tensor, "b n c h w"], geometry: CameraGeometry
    ) -> DepthOutput:
        """Depth logits and context of every camera."""
        batch, _, _, rows, cols = features.shape
        image_size = (rows * self.config.stride, cols * self.config.stride)
        calibration = geometry.calibration_vector(image_size).flatten(0, 1)
        x = self.reduce(features.flatten(0, 1))
        context = self.context(self.context_gate(x, calibration))
        depth = self.depth(self.depth_gate(x, calibration))
        return DepthOutput(depth.unflatten(0, (batch, -1)), context.unflatten(0, (batch, -1)))


def depth_terms(
    depth_logit: Float[Tensor, "b nl d h w"] | None,
    seen: CameraInput | None,
    bins: DepthBins,
    weight: float,
) -> dict[str, Tensor]:
    """The weighted term "depth", where it is taught.

    Args:
        depth_logit: Of all cameras; of several lifts, those of one behind those of the other.
        seen: With the depth of every camera, which its reader has pooled to the logits' cells.
        bins: Of the logits.
        weight: Of the term.
    """
    if depth_logit is None or seen is None or seen.depth is None:
        return {}
    target = depth_target(seen.depth, bins)
    of_each = target.repeat(1, depth_logit.shape[1] // target.shape[1], 1, 1)
    return {"depth": weight * depth_loss(depth_logit, of_each)}


def depth_target(depth: Float32[Tensor, "b n h w"], bins: DepthBins) -> Int64[Tensor, "b n h w"]:
    """Bin of each depth: 1 is the first bin, 0 says none.

    Args:
        depth: Of the nearest LiDAR point in each cell, metres, 0 where there is none.
        bins: Depths outside of them give 0.
    """
    index = ((depth - bins.start) / bins.step).floor() + 1
    return torch.where((index >= 1) & (index <= bins.count), index, 0).long()


def depth_loss(
    depth_logit: Float[Tensor, "b n d h w"], target: Int64[Tensor, "b n h w"]
) -> Float32[Tensor, ""]:
    """Binary cross-entropy on the softmax over bins, summed over bins, a mean over valid cells.

    As BEVDepth has it (its weight of 3 is the caller's); 0 where no cell has a target.

    Args:
        depth_logit: Before the softmax.
        target: From ``depth_target``.
    """
    valid = target > 0
    prob = depth_logit.float().movedim(2, -1)[valid].softmax(-1)
    one_hot = F.one_hot(target[valid] - 1, prob.shape[-1]).to(prob)
    with torch.autocast(prob.device.type, enabled=False):
        total = F.binary_cross_entropy(prob, one_hot, reduction="sum")
    return total / valid.sum().clamp(min=1)
