"""The BEV grid: metres in the ego frame <-> cells of a feature map."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt
from torch import Tensor

# Metres between ranges that are the same but for rounding.
TOUCHING = 1e-3


class BEVGrid(BaseModel):
    """A square-celled grid on the ego ground plane.

    Maps are ``(..., H, W)``: H runs along +y (left), W along +x (forward). Cell (0, 0) has its
    outer corner at (x_min, y_min); integer cell coordinates name cell centres.

    Attributes:
        x_min: Near edge, metres. Negative where the grid reaches behind the car.
        y_min: Right edge, metres.
        cell_size: Edge of one cell, metres.
        shape: (H, W), cells.
        frame: The coordinate frame x and y belong to.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    x_min: float
    y_min: float
    cell_size: PositiveFloat
    shape: tuple[PositiveInt, PositiveInt]
    frame: Literal["ego"] = "ego"

    @property
    def x_max(self) -> float:
        """Far edge, metres."""
        return self.x_min + self.shape[1] * self.cell_size

    @property
    def y_max(self) -> float:
        """Left edge, metres."""
        return self.y_min + self.shape[0] * self.cell_size

    @property
    def symmetric_x(self) -> bool:
        """Whether mirroring x maps it onto itself."""
        return abs(self.x_min + self.x_max) <= TOUCHING

    @property
    def symmetric_y(self) -> bool:
        """Whether mirroring y does."""
        return abs(self.y_min + self.y_max) <= TOUCHING

    @property
    def num_cells(self) -> int:
        """H x W."""
        return self.shape[0] * self.shape[1]

    @property
    def coarser(self) -> "BEVGrid":
        """The same ground in cells twice as wide.

        Raises:
            ValueError: An odd number of cells cannot be halved.
        """
        rows, cols = self.shape
        if rows % 2 or cols % 2:
            raise ValueError(f"a grid of {rows} x {cols} cells has no half resolution: use even")
        return self.model_copy(
            update={"cell_size": 2 * self.cell_size, "shape": (rows // 2, cols // 2)}
        )

    def to_cells(self, xy: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """Continuous cell coordinates (col, row) of points in metres.

        The centre of cell (row 0, col 0) is (0.0, 0.0). Points off the grid fall outside
        [-0.5, W - 0.5) x [-0.5, H - 0.5); none is clipped.
        """
        origin = xy.new_tensor([self.x_min, self.y_min])
        return (xy - origin) / self.cell_size - 0.5

    def to_unit(self, xy: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
        """The same points in ``grid_sample`` units: [-1, 1] over outer cell edges."""
        rows, cols = self.shape
        return (self.to_cells(xy) + 0.5) / xy.new_tensor([cols, rows]) * 2 - 1

    def contains(self, xy: Float[Tensor, "*n 2"]) -> Bool[Tensor, "*n"]:
        """Whether the points, metres, lie on the grid (lower edge in, upper edge out)."""
        rows, cols = self.shape
        corner = self.to_cells(xy) + 0.5
        return (corner >= 0).all(-1) & (corner < corner.new_tensor([cols, rows])).all(-1)

    def cell_index(self, xy: Float[Tensor, "*n 2"]) -> Int64[Tensor, "*n"]:
        """Flat index row * W + col of the cell each point lies in; 0 where it lies in none."""
        col, row = (self.to_cells(xy) + 0.5).floor().long().unbind(-1)
        return torch.where(self.contains(xy), row * self.shape[1] + col, 0)

    def cell_centres(self, index: Int64[Tensor, "*n"]) -> Float[Tensor, "*n 2"]:
        """Centres (x, y), metres, of cells named by their flat index."""
        row, col = index // self.shape[1], index % self.shape[1]
        origin = torch.tensor([self.x_min, self.y_min], device=index.device)
        return (torch.stack([col, row], dim=-1) + 0.5) * self.cell_size + origin
