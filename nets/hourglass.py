"""PSMNet's hourglass, on maps and on volumes: half and quarter size, and back."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from nets.fit_together import require_multiple

STRIDE = 4
_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_UP = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
Axes = Literal[2, 3]


def conv_norm(
    axes: Axes, in_channels: int, out_channels: int, *, stride: int = 1, groups: int = 32
) -> nn.Sequential:
    """3x3(x3) convolution without bias and its norm; no ReLU.

    Args:
        axes: 2 for maps, 3 for volumes.
        in_channels: Of the input.
        out_channels: Of the output; a multiple of ``groups``.
        stride: Of the convolution.
        groups: Of GroupNorm (LIGA-Stereo's student: 32); 0: BatchNorm (its teacher).
    """
    conv = _CONV[axes](in_channels, out_channels, 3, stride, 1, bias=False)
    return nn.Sequential(conv, _norm(axes, out_channels, groups))


class Hourglass(nn.Module):
    """Four convolutions down to a quarter, two transposed ones up; no ReLU at the end.

    Args:
        axes: 2 for maps, 3 for volumes.
        channels: Of input and output.
        width: Of what lies between.
        groups: Of the norms, as for ``conv_norm``.

    Source: PSMNet, ``models/submodule.py``, as LIGA-Stereo (commit aee3731) uses it.
    """

    def __init__(self, axes: Axes, channels: int, width: int, groups: int = 32) -> None:
        super().__init__()

        def up(out_channels: int) -> nn.Sequential:
            conv = _UP[axes](width, out_channels, 3, 2, 1, output_padding=1, bias=False)
            return nn.Sequential(conv, _norm(axes, out_channels, groups))

        def down(in_channels: int, stride: int) -> nn.Sequential:
            return conv_norm(axes, in_channels, width, stride=stride, groups=groups)

        self.to_half = nn.Sequential(
            down(channels, 2), nn.ReLU(inplace=True), down(width, 1), nn.ReLU(inplace=True)
        )
        self.to_quarter = nn.Sequential(
            down(width, 2), nn.ReLU(inplace=True), down(width, 1), nn.ReLU(inplace=True)
        )
        self.back_to_half = up(width)
        self.back_to_whole = up(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Float[Tensor, "b c ..."]) -> Float[Tensor, "b c ..."]:
        """The refined map or volume, same shape.

        Raises:
            ValueError: A size is no multiple of its stride.
        """
        require_multiple("map or volume", x.shape[2:], STRIDE, "the hourglass's")
        half = self.to_half(x)
        back = self.relu(self.back_to_half(self.to_quarter(half)) + half)
        refined: Tensor = self.back_to_whole(back)
        return refined


def _norm(axes: Axes, channels: int, groups: int) -> nn.Module:
    return nn.GroupNorm(groups, channels) if groups else _NORM[axes](channels)
