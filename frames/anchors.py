"""Anchors on a BEV map: at every cell, one box of each class at each rotation.

Every table of anchors is flat, in the order cell (row, then column), class, rotation: anchor
``((row * W + col) * classes + class) * rotations + rotation``, as OpenPCDet and LIGA-Stereo have
it. Source of the defaults: LIGA-Stereo's KITTI configs (its repository, commit aee3731).
"""

import torch
from jaxtyping import Float, Int64
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat
from torch import Tensor

from frames.grid import BEVGrid

BOX_CODE = 7
# LIGA-Stereo, kitti configs: 2..59.6 x -30.4..30.4 m in cells of 0.2 m.
LIGA_GRID = BEVGrid(x_min=2.0, y_min=-30.4, cell_size=0.2, shape=(304, 288))


class AnchorClass(BaseModel):
    """The anchors of one class.

    Attributes:
        name: Of the class.
        size: l, w, h, metres.
        bottom: z of the bottom face, metres.
        positive_iou: An anchor that overlaps an object so much, seen from above, is positive.
        negative_iou: One that overlaps none so much is background; between them it is ignored.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    size: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    bottom: float
    positive_iou: float = Field(gt=0, le=1)
    negative_iou: float = Field(gt=0, le=1)


KITTI_ANCHORS = (
    AnchorClass(
        name="Car", size=(3.9, 1.6, 1.56), bottom=-1.78, positive_iou=0.6, negative_iou=0.45
    ),
    AnchorClass(
        name="Pedestrian", size=(0.8, 0.6, 1.73), bottom=-0.6, positive_iou=0.5, negative_iou=0.35
    ),
    AnchorClass(
        name="Cyclist", size=(1.76, 0.6, 1.73), bottom=-0.6, positive_iou=0.5, negative_iou=0.35
    ),
)


class AnchorConfig(BaseModel):
    """Where the anchors lie.

    Attributes:
        grid: Of the map. The outermost anchors lie on its edges, so that anchors are a little
            further apart than cells (OpenPCDet's ``align_center=False``).
        classes: In the order of the labels.
        rotations: Yaws, radians. Not quite a right angle in the published configs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    grid: BEVGrid = LIGA_GRID
    classes: tuple[AnchorClass, ...] = Field(KITTI_ANCHORS, min_length=1)
    rotations: tuple[float, ...] = Field((0.0, 1.57), min_length=1)

    @property
    def per_cell(self) -> int:
        """Anchors at one cell."""
        return len(self.classes) * len(self.rotations)

    @property
    def count(self) -> int:
        """Anchors on the map."""
        return self.grid.num_cells * self.per_cell

    def centres(self, cell: Int64[Tensor, "*n"]) -> Float[Tensor, "*n 2"]:
        """(x, y) of the anchors of cells, metres; see ``grid`` why they are not the cells' own."""
        x, y = (line.to(cell.device) for line in self._lines())
        return torch.stack([x[cell % len(x)], y[cell // len(x)]], -1)

    def boxes(self) -> Float[Tensor, "n 7"]:
        """All anchors as x y z l w h yaw: gravity centre, metres, radians."""
        x, y = self._lines()
        sizes = torch.tensor([kind.size for kind in self.classes])
        heights = torch.tensor([kind.bottom for kind in self.classes]) + sizes[:, 2] / 2
        table = torch.empty(len(y), len(x), len(self.classes), len(self.rotations), BOX_CODE)
        table[..., 0] = x[:, None, None]
        table[..., 1] = y[:, None, None, None]
        table[..., 2] = heights[:, None]
        table[..., 3:6] = sizes[:, None]
        table[..., 6] = torch.tensor(self.rotations)
        return table.flatten(0, 3)

    def _lines(self) -> tuple[Float[Tensor, " w"], Float[Tensor, " h"]]:
        """X of the anchors of each column, y of those of each row, metres."""
        grid = self.grid
        x = torch.linspace(grid.x_min, grid.x_max, grid.shape[1])
        return x, torch.linspace(grid.y_min, grid.y_max, grid.shape[0])
