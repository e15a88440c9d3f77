"""Geometry compensation: a map plus deformable attention of the map to itself (SimDistill).

Single-scale deformable attention as Deformable DETR defines it, without its compiled kernel: every
cell of every head reads a few places near itself, at learned offsets, with learned weights.
No norm, no feed-forward part, no dropout, as in SimDistill (commit 2d0d5eb).

Axes: k map, c channel, n query (a cell), p point.
"""

import math

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F


class CompensationConfig(BaseModel):
    """Sizes.

    Attributes:
        heads: Into which the channels are split.
        points: That a head reads for each cell.
        corner_reference: Count offsets from a cell's corner, as the released code does, which makes
            its reference points in integers; half a cell that the offsets' bias can learn away.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    heads: PositiveInt = 8
    points: PositiveInt = 10
    corner_reference: bool = False

    def check(self, channels: int) -> None:
        """Refuse a map of so many channels if they cannot be split.

        Raises:
            ValueError: They cannot.
        """
        if channels % 2 or channels % self.heads:
            raise ValueError(
                f"{channels} channels cannot be split over {self.heads} heads and two position "
                "embeddings: expected an even multiple of the heads"
            )


class GeometryCompensation(nn.Module):
    """The map, and what deformable attention adds to it.

    Args:
        config: Sizes.
        channels: Of the map; even, and a multiple of the heads.
        shape: (rows, columns) of the map, of which each has a learned embedding.

    Raises:
        ValueError: The channels cannot be split.
    """

    def __init__(self, config: CompensationConfig, channels: int, shape: tuple[int, int]) -> None:
        super().__init__()
        config.check(channels)
        self.config, self.shape = config, shape
        heads, points = config.heads, config.points
        self.value = nn.Linear(channels, channels)
        self.offset = nn.Linear(channels, heads * points * 2)
        self.weight = nn.Linear(channels, heads * points)
        self.out = nn.Linear(channels, channels)
        self.of_row = nn.Parameter(torch.rand(shape[0], channels // 2))
        self.of_col = nn.Parameter(torch.rand(shape[1], channels // 2))
        for linear in (self.offset, self.weight):
            nn.init.zeros_(linear.weight)
        nn.init.zeros_(self.weight.bias)
        with torch.no_grad():
            self.offset.bias.copy_(first_offsets(heads, points).flatten())
        for linear in (self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, maps: Float[Tensor, "k c h w"]) -> Float[Tensor, "k c h w"]:
        """The compensated maps, float32 also under autocast.

        Raises:
            ValueError: They are not of the shape that the embeddings are for.
        """
        if maps.shape[2:] != self.shape:
            raise ValueError(
                f"a map of {tuple(maps.shape[2:])} cells, expected {self.shape}: images and grid "
                "must be those of the network's config"
            )
        with torch.autocast(maps.device.type, enabled=False):
            cells = maps.float().flatten(2).mT
            query = cells + self._position()
            size, heads = len(maps), self.config.heads
            split = (size, -1, heads, self.config.points)
            value = self.value(cells).mT.reshape(size, heads, -1, *self.shape)
            offset = self.offset(query).view(*split, 2).transpose(1, 2)
            weight = self.weight(query).view(split).softmax(-1).transpose(1, 2)
            start = 0.0 if self.config.corner_reference else 0.5
            read = attend(value, self._cells(start, maps.device) + offset, weight)
            added: Tensor = self.out(read.flatten(1, 2).mT).mT
            return maps.float() + added.reshape(maps.shape)

    def _position(self) -> Float[Tensor, "n c"]:
        rows, cols = self.shape
        along = self.of_col.expand(rows, cols, -1), self.of_row[:, None].expand(rows, cols, -1)
        return torch.cat(along, dim=-1).flatten(0, 1)

    def _cells(self, start: float, device: torch.device) -> Float[Tensor, "n 1 2"]:
        rows, cols = (torch.arange(size, device=device) + start for size in self.shape)
        x, y = torch.meshgrid(cols, rows, indexing="xy")
        return torch.stack([x, y], dim=-1).view(-1, 1, 2)


def first_offsets(heads: int, points: int) -> Float[Tensor, "heads points 2"]:
    """Where heads look at first: each its own way, the p-th point p cells off (largest norm)."""
    angle = torch.arange(heads) * (2 * math.pi / heads)
    way = torch.stack([angle.cos(), angle.sin()], dim=-1)
    way = way / way.abs().amax(-1, keepdim=True)
    return way[:, None] * torch.arange(1, points + 1)[:, None]


def attend(
    value: Float[Tensor, "k heads c h w"],
    places: Float[Tensor, "k heads n p 2"],
    weight: Float[Tensor, "k heads n p"],
) -> Float[Tensor, "k heads c n"]:
    """Weighted sum of bilinear samples; zeros off the map.

    Args:
        value: What each head reads.
        places: Column and row in cells, counted from the map's outer corner: the centre of the
            first cell is (0.5, 0.5).
        weight: Of each place.
    """
    rows, cols = value.shape[-2:]
    unit = places / places.new_tensor([cols, rows]) * 2 - 1
    sampled = F.grid_sample(
        value.flatten(0, 1), unit.flatten(0, 1), padding_mode="zeros", align_corners=False
    )
    read: Tensor = (sampled * weight.flatten(0, 1)[:, None]).sum(-1)
    return read.view(*value.shape[:3], -1)
