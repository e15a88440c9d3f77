"""Augmentation of one image: resize, crop, mirror, turn, and the pixel matrix that says so."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, UInt8
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor


class ImageAugmentConfig(BaseModel):
    """BEVDepth's scheme: the crop always keeps the image's bottom.

    Attributes:
        out_size: (height, width) of the result, pixels.
        resize: Smallest and largest factor on the image while training.
        flip: Probability of mirroring left and right while training.
        rotation: Largest turn either way while training, degrees.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    out_size: tuple[PositiveInt, PositiveInt]
    resize: tuple[PositiveFloat, PositiveFloat]
    flip: float = Field(0.0, ge=0, le=1)
    rotation: float = Field(0.0, ge=0, le=180)

    @model_validator(mode="after")
    def _resize_in_order(self) -> "ImageAugmentConfig":
        if self.resize[0] > self.resize[1]:
            raise ValueError(f"resize is (smallest, largest), got {self.resize}; swap them")
        return self

    def draw(
        self, rng: np.random.Generator, size: tuple[int, int], *, training: bool
    ) -> "ImageAugment":
        """One augmentation for images of this size.

        While training the factor, the crop's left edge, flip and turn are random. Otherwise the
        image just fills ``out_size``, cropped at its top and evenly left and right.

        Args:
            rng: Source of chance; untouched unless training.
            size: (height, width) of the image, pixels.
            training: Whether to draw at random.
        """
        (height, width), (out_height, out_width) = size, self.out_size
        factor = max(out_height / height, out_width / width)
        if training:
            factor = rng.uniform(*self.resize)
        resized = (round(height * factor), round(width * factor))
        spare = max(0, resized[1] - out_width)
        return ImageAugment(
            size=size,
            resized=resized,
            crop=(
                resized[0] - out_height,
                int(rng.integers(spare + 1)) if training else spare // 2,
            ),
            out_size=self.out_size,
            flip=training and bool(rng.random() < self.flip),
            rotation=rng.uniform(-self.rotation, self.rotation) if training else 0.0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageAugment:
    """Resize, then crop, then mirror left and right, then turn about the centre.

    Sizes are (height, width), pixels.

    Attributes:
        size: The image it is for.
        resized: After the resize.
        crop: (top, left) of the crop in the resized image; outside it the crop is black.
        out_size: Size of the crop and the result.
        flip: Whether left and right change places.
        rotation: Degrees, counter-clockwise as seen.
    """

    size: tuple[int, int]
    resized: tuple[int, int]
    crop: tuple[int, int]
    out_size: tuple[int, int]
    flip: bool = False
    rotation: float = 0.0

    @classmethod
    def identity(cls, size: tuple[int, int]) -> "ImageAugment":
        """Leaves images of this size as they are."""
        return cls(size=size, resized=size, crop=(0, 0), out_size=size)

    def apply(self, image: Image.Image) -> UInt8[Tensor, "3 h w"]:
        """The augmented image; RGB.

        Raises:
            ValueError: The image is not of the size this was drawn for.
        """
        if (image.height, image.width) != self.size:
            raise ValueError(
                f"image is {image.height} x {image.width}, this augmentation is for "
                f"{self.size[0]} x {self.size[1]}; draw one for the image's own size"
            )
        (top, left), (height, width) = self.crop, self.out_size
        image = image.resize(self.resized[::-1], Image.Resampling.BICUBIC)
        image = image.crop((left, top, left + width, top + height))
        if self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.rotation:
            image = image.rotate(self.rotation, Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()

    @property
    def matrix(self) -> Float32[Tensor, "3 3"]:
        """``augmented_from_image`` on (u, v, 1), where integer pixels are pixel centres."""
        (top, left), (height, width) = self.crop, self.out_size
        # Pillow scales, mirrors and turns in pixel-edge coordinates: centre = edge + 0.5.
        edge_from_centre, centre_from_edge = _shift(0.5, 0.5), _shift(-0.5, -0.5)
        resize = np.diag([self.resized[1] / self.size[1], self.resized[0] / self.size[0], 1.0])
        mirror = _shift(width, 0) @ np.diag([-1.0, 1.0, 1.0]) if self.flip else np.eye(3)
        turn = (
            _shift(width / 2, height / 2) @ _turn(self.rotation) @ _shift(-width / 2, -height / 2)
        )
        matrix = centre_from_edge @ turn @ mirror @ _shift(-left, -top) @ resize @ edge_from_centre
        return torch.from_numpy(matrix).float()


def _shift(u: float | int, v: float | int) -> Float64[np.ndarray, "3 3"]:
    return np.array([[1.0, 0.0, u], [0.0, 1.0, v], [0.0, 0.0, 1.0]])


def _turn(degrees: float) -> Float64[np.ndarray, "3 3"]:
    """Counter-clockwise as seen, so clockwise in (u, v): v points down."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
