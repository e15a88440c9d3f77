"""From images to a BEV map: backbone, depth by one convolution, lift-splat (BEVDet, UniDistill)."""

from jaxtyping import Float, Float32
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor, nn

from frames.camera_input import CameraInput
from frames.grid import BEVGrid
from nets.depth_conv import DepthConv, DepthConvConfig
from nets.fit_together import check_fit
from nets.image_backbone import ImageBackbone, ImageBackboneConfig
from nets.view_transform import ViewTransform, ViewTransformConfig


class CameraEncoderConfig(BaseModel):
    """Parts of the encoder; defaults are UniDistill's.

    Attributes:
        image: Image backbone and neck.
        depth: Depth distribution and context of every image cell.
        z_range: Heights that are lifted, metres in the ego frame; the default is BEVDepth's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: ImageBackboneConfig = ImageBackboneConfig()
    depth: DepthConvConfig = DepthConvConfig()
    z_range: tuple[float, float] = (-5.0, 3.0)

    @model_validator(mode="after")
    def _fits(self) -> "CameraEncoderConfig":
        check_fit(
            {
                "depth.in_channels": (self.depth.in_channels, self.image.out_channels),
                "depth.stride": (self.depth.stride, self.image.stride),
            }
        )
        return self

    @property
    def out_channels(self) -> int:
        """Channels of the BEV map."""
        return self.depth.context_channels

    def without_pretraining(self) -> "CameraEncoderConfig":
        """The same network, its image backbone not fetched: for weights from a checkpoint."""
        image = self.image.model_copy(update={"pretrained": False})
        return self.model_copy(update={"image": image})


class CameraEncoder(nn.Module):
    """Images of several cameras to one BEV map."""

    def __init__(self, config: CameraEncoderConfig, grid: BEVGrid) -> None:
        super().__init__()
        self.image = ImageBackbone(config.image)
        self.depth = DepthConv(config.depth)
        self.lift = ViewTransform(
            ViewTransformConfig(
                grid=grid,
                bins=config.depth.bins,
                stride=config.depth.stride,
                z_range=config.z_range,
            )
        )

    def forward(
        self, seen: CameraInput
    ) -> tuple[Float32[Tensor, "b c rows cols"], Float[Tensor, "b n d h w"]]:
        """The BEV map, and the depth logits of every image cell."""
        lifted = self.depth(self.image(seen.images))
        return self.lift(lifted, seen.geometry), lifted.depth_logit
