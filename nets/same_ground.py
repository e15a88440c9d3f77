"""Voxels and anchors of one network cover the same ground, cell by cell."""

from collections.abc import Sequence

from frames.grid import TOUCHING, BEVGrid


def require_same_ground(
    grid: BEVGrid, range_min: Sequence[float], edge: Sequence[float], name: str
) -> None:
    """Refuse voxels that do not lie on the cells of a grid.

    Args:
        grid: Of the anchors.
        range_min: Lower corner x y (z) of the voxels, metres.
        edge: Along x and y of as many voxels as a cell has, metres.
        name: What has the voxels, for the message.

    Raises:
        ValueError: Another corner, or another cell.
    """
    found = (*range_min[:2], *edge)
    expected = (grid.x_min, grid.y_min, grid.cell_size, grid.cell_size)
    if any(abs(a - b) > TOUCHING for a, b in zip(found, expected, strict=True)):
        raise ValueError(
            f"{name} begin at {tuple(range_min[:2])} m with cells of {tuple(edge)} m, the anchors' "
            f"grid at {(grid.x_min, grid.y_min)} m with cells of {grid.cell_size} m: they must be "
            "the same"
        )
