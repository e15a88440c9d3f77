"""Dynamic voxelisation: every point in range belongs to the voxel it lies in.

No caps: mmdet3d keeps at most 10 points a voxel and 90k / 120k voxels a frame (train / test), in
order of arrival. Without caps the result does not depend on the order of the points.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int32, Int64
from pydantic import BaseModel, ConfigDict, PositiveFloat, model_validator
from torch import Tensor


class VoxelGrid(BaseModel):
    """A box of space cut into voxels; defaults are CenterPoint's with 0.1 m voxels.

    Attributes:
        range_min: Lower corner x y z, metres, ego frame; inside.
        range_max: Upper corner x y z, metres; outside.
        voxel_size: Edges along x y z, metres; each divides its range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    range_min: tuple[float, float, float] = (-51.2, -51.2, -5.0)
    range_max: tuple[float, float, float] = (51.2, 51.2, 3.0)
    voxel_size: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.1, 0.1, 0.2)

    @model_validator(mode="after")
    def _whole_voxels(self) -> "VoxelGrid":
        for axis, low, high, size in zip(
            "xyz", self.range_min, self.range_max, self.voxel_size, strict=True
        ):
            count = (high - low) / size
            if round(count) < 1 or abs(count - round(count)) > 1e-3:
                raise ValueError(
                    f"{axis}: {low}..{high} m holds {count:.3f} voxels of {size} m; expected a "
                    "positive whole number: change the range or voxel_size"
                )
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along z, y, x."""
        x, y, z = (
            round((high - low) / size)
            for low, high, size in zip(self.range_min, self.range_max, self.voxel_size, strict=True)
        )
        return z, y, x


@dataclass(frozen=True, slots=True)
class Voxels:
    """Occupied voxels of a batch, sorted by (batch, z, y, x), and the points in them.

    Attributes:
        mean: Mean of each voxel's points, all their columns.
        coords: batch, z, y, x.
        points: The points in range, frame after frame.
        point_voxel: Which voxel each point lies in.
        batch_size: Number of frames, empty ones included.
    """

    mean: Float32[Tensor, "v c"]
    coords: Int32[Tensor, "v 4"]
    points: Float32[Tensor, "p c"]
    point_voxel: Int64[Tensor, " p"]
    batch_size: int


def voxelize(frames: list[Float32[Tensor, "_ c"]], grid: VoxelGrid) -> Voxels:
    """Sort points into voxels; those out of range or not finite are dropped.

    Args:
        frames: Points of each frame, x y z first, metres, ego frame, then any further columns.
        grid: Range and voxel size.
    """
    points = torch.cat(frames)
    batch = torch.repeat_interleave(
        torch.tensor([len(frame) for frame in frames], device=points.device)
    )
    shape = points.new_tensor(grid.shape[::-1])
    cell = (points[:, :3] - points.new_tensor(grid.range_min)) / points.new_tensor(grid.voxel_size)
    inside = ((cell >= 0) & (cell < shape)).all(1)
    points, batch = points[inside], batch[inside]
    x, y, z = cell[inside].long().unbind(1)
    depth, rows, cols = grid.shape
    key, point_voxel = torch.unique(
        ((batch * depth + z) * rows + y) * cols + x, return_inverse=True
    )
    coords = torch.stack(
        [
            key // (depth * rows * cols),
            key // (rows * cols) % depth,
            key // cols % rows,
            key % cols,
        ],
        dim=1,
    )
    total = points.new_zeros(len(key), points.shape[1]).index_add(0, point_voxel, points)
    mean = total / torch.bincount(point_voxel)[:, None]
    return Voxels(mean, coords.int(), points, point_voxel, len(frames))
