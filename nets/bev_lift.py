"""Image features to a BEV map as BEVFusion lifts: to finer cells, then convolved to the grid's.

MIT BEVFusion's LSSTransform: depth and context by one 1x1 convolution, lift-splat to cells of half
the size, three convolutions of which the second has the stride (SimDistill, commit 2d0d5eb).
"""

from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor, nn

from frames.camera_geometry import CameraGeometry
from frames.grid import BEVGrid
from nets.blocks import conv_norm_relu
from nets.depth_conv import DepthConv, DepthConvConfig
from nets.depth_net import DepthBins
from nets.view_transform import ViewTransform, ViewTransformConfig


class BEVLiftConfig(BaseModel):
    """Sizes; defaults are SimDistill's.

    Attributes:
        depth: Depth distribution and context of every image cell.
        z_range: Heights that are lifted, metres in the ego frame.
        finer: Cells of the lift in one of the grid, along either axis; 1: no convolutions follow.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    depth: DepthConvConfig = DepthConvConfig(
        in_channels=256,
        stride=8,
        context_channels=80,
        bins=DepthBins(start=1.0, stop=60.0, step=0.5),
    )
    z_range: tuple[float, float] = (-10.0, 10.0)
    finer: PositiveInt = 2

    @property
    def out_channels(self) -> int:
        """Channels of the BEV map."""
        return self.depth.context_channels


class BEVLift(nn.Module):
    """One view transform, sensors other than cameras unseen."""

    def __init__(self, config: BEVLiftConfig, grid: BEVGrid) -> None:
        super().__init__()
        self.depth = DepthConv(config.depth)
        rows, cols = (size * config.finer for size in grid.shape)
        cells = {"cell_size": grid.cell_size / config.finer, "shape": (rows, cols)}
        self.lift = ViewTransform(
            ViewTransformConfig(
                grid=grid.model_copy(update=cells),
                bins=config.depth.bins,
                stride=config.depth.stride,
                z_range=config.z_range,
            )
        )
        width = config.out_channels
        self.down: nn.Module = nn.Identity()
        if config.finer > 1:
            self.down = nn.Sequential(
                conv_norm_relu(width, width),
                conv_norm_relu(width, width, stride=config.finer),
                conv_norm_relu(width, width),
            )

    def forward(
        self, features: Float[Tensor, "b n _ rows cols"], geometry: CameraGeometry
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b n d rows cols"]]:
        """The BEV map, and the depth logits of every image cell."""
        lifted = self.depth(features)
        return self.down(self.lift(lifted, geometry)), lifted.depth_logit
