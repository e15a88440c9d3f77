"""Convolution blocks shared by the networks here."""

from jaxtyping import Float
from torch import Tensor, nn

# mmdet3d's SECOND and sparse encoder (v1.0.0rc4, configs/_base_/models/centerpoint_*).
NORM_EPS = 1e-3
NORM_MOMENTUM = 0.01


def norm_2d(channels: int) -> nn.BatchNorm2d:
    """BatchNorm of the LiDAR and BEV parts."""
    return nn.BatchNorm2d(channels, eps=NORM_EPS, momentum=NORM_MOMENTUM)


def conv_norm_relu(
    in_channels: int, out_channels: int, *, kernel: int = 3, stride: int = 1
) -> nn.Sequential:
    """Convolution without bias, BatchNorm, ReLU; an odd kernel keeps the size at stride 1.

    An even kernel is meant to equal the stride: non-overlapping patches, no padding.
    """
    padding = kernel // 2 if kernel % 2 else 0
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False),
        norm_2d(out_channels),
        nn.ReLU(inplace=True),
    )


def deconv_norm_relu(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Transposed convolution whose kernel equals its stride, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, stride, stride, bias=False),
        norm_2d(out_channels),
        nn.ReLU(inplace=True),
    )


def resample_block(
    in_channels: int, out_channels: int, *, from_stride: int, to_stride: int
) -> nn.Sequential:
    """SECONDFPN's lateral: 1x1 at the same stride, strided convolution down, deconvolution up."""
    if from_stride > to_stride:
        return deconv_norm_relu(in_channels, out_channels, from_stride // to_stride)
    factor = to_stride // from_stride
    return conv_norm_relu(in_channels, out_channels, kernel=factor, stride=factor)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm around an identity, ReLU after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_norm_relu(channels, channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            norm_2d(channels),
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The refined map, same shape."""
        refined: Tensor = self.relu(x + self.body(x))
        return refined
