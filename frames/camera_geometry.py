"""Where a batch's cameras look, as the networks need it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float32
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraGeometry:
    """Calibration and augmentation of every camera of a batch.

    Attributes:
        image_from_cam: Intrinsics, pixels of the image as read; integer pixels are centres.
        augmented_from_image: Homogeneous 2D transform to the pixels the network sees.
        ego_from_cam: Camera (x right, y down, z forward) to ego, metres.
        augmented_from_ego: BEV augmentation; the output lies in the augmented ego frame.
    """

    image_from_cam: Float32[Tensor, "b n 3 3"]
    augmented_from_image: Float32[Tensor, "b n 3 3"]
    ego_from_cam: Float32[Tensor, "b n 4 4"]
    augmented_from_ego: Float32[Tensor, "b 4 4"]

    def to(self, device: torch.device) -> "CameraGeometry":
        """The same geometry on another device."""
        return CameraGeometry(
            image_from_cam=self.image_from_cam.to(device),
            augmented_from_image=self.augmented_from_image.to(device),
            ego_from_cam=self.ego_from_cam.to(device),
            augmented_from_ego=self.augmented_from_ego.to(device),
        )

    def pixels_from_cam(self) -> Float32[Tensor, "b n 3 3"]:
        """Intrinsics with the image augmentation folded in."""
        with torch.autocast(self.image_from_cam.device.type, enabled=False):
            return self.augmented_from_image @ self.image_from_cam

    def bev_from_cam(self) -> Float32[Tensor, "b n 4 4"]:
        """Camera to the augmented ego frame."""
        with torch.autocast(self.ego_from_cam.device.type, enabled=False):
            return self.augmented_from_ego[:, None] @ self.ego_from_cam

    def calibration_vector(self, image_size: tuple[int, int]) -> Float32[Tensor, "b n 18"]:
        """What a depth network may know of its camera: 6 intrinsics, 12 extrinsics.

        BEVDepth's 27 numbers with both augmentations folded into what they act on. Intrinsics are
        divided by the image's (height, width) in pixels, so all entries are of order 1.
        """
        height, width = image_size
        scale = self.image_from_cam.new_tensor([[width], [height]])
        intrinsics = self.pixels_from_cam()[..., :2, :] / scale
        return torch.cat([intrinsics.flatten(-2), self.bev_from_cam()[..., :3, :].flatten(-2)], -1)
