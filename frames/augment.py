"""Augmentation of the BEV frame: one matrix, applied to points, boxes and cameras alike."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, model_validator
from torch import Tensor

from frames.boxes import CENTRE, SIZE, VELOCITY, YAW, Boxes3D


class BevAugmentConfig(BaseModel):
    """How far the BEV frame may be turned, scaled, mirrored and shifted (0, (1, 1): not at all).

    Attributes:
        rotation: Largest turn either way, radians.
        scale: Smallest and largest factor.
        flip_x: Probability that x changes its sign.
        flip_y: Probability that y changes its sign.
        shift: Standard deviation of a shift along x and along y, metres; UniDistill has 0.5, along
            z too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rotation: float = Field(0.0, ge=0, le=math.pi)
    scale: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)
    flip_x: float = Field(0.0, ge=0, le=1)
    flip_y: float = Field(0.0, ge=0, le=1)
    # Left out where there is none: manifests written before it was known keep their bytes.
    shift: float = Field(0.0, ge=0, allow_inf_nan=False, exclude_if=lambda shift: shift == 0)

    @model_validator(mode="after")
    def _scale_in_order(self) -> "BevAugmentConfig":
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale is (smallest, largest), got {self.scale}; swap them")
        return self

    def draw(self, rng: np.random.Generator) -> "BevAugment":
        """One random augmentation: flip @ scale @ rotation, as BEVDet composes it, then a shift."""
        yaw = rng.uniform(-self.rotation, self.rotation)
        scale = rng.uniform(*self.scale)
        flip_x, flip_y = rng.random(2) < (self.flip_x, self.flip_y)
        # Where nothing is shifted nothing is drawn: what else follows of the generator stays.
        x, y = rng.normal(0, self.shift, 2) if self.shift else (0.0, 0.0)
        return BevAugment.compose(
            yaw=yaw, scale=scale, flip_x=bool(flip_x), flip_y=bool(flip_y), shift=(x, y)
        )


@dataclass(frozen=True, slots=True)
class BevAugment:
    """A similarity of the ego frame: turn, scale (z scales too), mirror, shift in the plane.

    Attributes:
        matrix: ``augmented_from_ego`` on (x, y, 1); the scale of z is the matrix's own.
    """

    matrix: Float32[Tensor, "2 3"]

    @classmethod
    def identity(cls) -> "BevAugment":
        """Leaves everything in place."""
        return cls(torch.eye(2, 3))

    @classmethod
    def compose(
        cls,
        *,
        yaw: float = 0.0,
        scale: float = 1.0,
        flip_x: bool = False,
        flip_y: bool = False,
        shift: tuple[float, float] = (0.0, 0.0),
    ) -> "BevAugment":
        """Turn by yaw (radians, counter-clockwise), scale, negate x and/or y, shift (metres)."""
        cos, sin = math.cos(yaw), math.sin(yaw)
        turn = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
        mirror = torch.diag(torch.tensor([1.0 - 2 * flip_x, 1.0 - 2 * flip_y])).double()
        linear = (mirror @ (scale * turn)).float()
        return cls(torch.cat([linear, torch.tensor(shift, dtype=torch.float32)[:, None]], dim=1))

    @property
    def is_identity(self) -> bool:
        """Whether it leaves everything in place."""
        return torch.equal(self.matrix, torch.eye(2, 3))

    @property
    def scale(self) -> float:
        """Factor on all lengths."""
        return math.sqrt(abs(float(torch.linalg.det(self.matrix[:, :2].double()))))

    @property
    def mirrors(self) -> bool:
        """Whether left and right change places: an odd number of axes is negated."""
        return bool(torch.linalg.det(self.matrix[:, :2].double()) < 0)

    def xy(self, xy: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Ground-plane points, metres."""
        return xy @ self.matrix[:, :2].mT.to(xy) + self.matrix[:, 2].to(xy)

    def points(self, points: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """Points whose first three columns are x y z, metres; further columns stay."""
        return torch.cat(
            [self.xy(points[:, :2]), points[:, 2:3] * self.scale, points[:, 3:]], dim=1
        )

    def boxes(self, boxes: Float[Tensor, "*n 9"]) -> Float[Tensor, "*n 9"]:
        """Boxes x y z l w h yaw vx vy; velocity turns and scales with the plane."""
        if self.is_identity:
            # Not by way of sine and cosine: what is compared with these boxes stays equal.
            return boxes
        linear = self.matrix[:, :2].to(boxes)
        heading = torch.stack([boxes[..., YAW].cos(), boxes[..., YAW].sin()], dim=-1) @ linear.mT
        yaw = torch.atan2(heading[..., 1], heading[..., 0])
        centre = boxes[..., CENTRE]
        return torch.cat(
            [
                self.xy(centre[..., :2]),
                centre[..., 2:] * self.scale,
                boxes[..., SIZE] * self.scale,
                yaw[..., None],
                boxes[..., VELOCITY] @ linear.mT,
            ],
            dim=-1,
        )

    def boxes3d(self, boxes: Boxes3D) -> Boxes3D:
        """Boxes with their labels."""
        return Boxes3D(self.boxes(boxes.values), boxes.labels)

    @property
    def matrix4(self) -> Float32[Tensor, "4 4"]:
        """Homogeneous ``augmented_from_ego``, for camera geometry."""
        matrix = torch.eye(4)
        matrix[:2, :2], matrix[:2, 3] = self.matrix[:, :2], self.matrix[:, 2]
        matrix[2, 2] = self.scale
        return matrix
