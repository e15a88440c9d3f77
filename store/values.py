"""A row's values, held against the plan before anything is written."""

from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import torch

from frames.boxes import Boxes3D
from frames.grid import BEVGrid
from store.errors import RowValueError
from store.rows import RowValues
from store.schema import CELL_INDEX, GT_LABELS, GT_VALUES, ArraySpec, Fingerprint, Places


def digest(values: npt.NDArray[Any]) -> int:
    """crc32c of the values' bytes: processors have an instruction for it."""
    return int(google_crc32c.value(np.ascontiguousarray(values)))


def ground_truth_arrays(gt: Boxes3D) -> dict[str, npt.NDArray[Any]]:
    """The ground truth as two arrays, by name."""
    return {
        GT_VALUES.name: gt.values.detach().cpu().numpy(),
        GT_LABELS.name: gt.labels.detach().cpu().numpy(),
    }


def checked_row(values: RowValues, token: str, fingerprint: Fingerprint) -> list[npt.NDArray[Any]]:
    """The row's arrays as they will be stored, in the order of ``fingerprint.stored``.

    Raises:
        RowValueError: Another frame's values; an array too many, too few, of a wrong shape, type
            or length; a value that is not finite or becomes so in float16; a cell off the grid.
    """
    if values.token != token:
        raise RowValueError(f"found the values of {values.token!r}, expected those of {token!r}")
    wanted = {spec.name for spec in fingerprint.arrays}
    if values.arrays.keys() != wanted:
        raise RowValueError(
            f"row {token!r} has unplanned arrays {sorted(values.arrays.keys() - wanted)} and "
            f"lacks {sorted(wanted - values.arrays.keys())}; the plan holds {sorted(wanted)}"
        )
    lengths = _lengths(values, token)
    arrays = values.arrays | ground_truth_arrays(values.gt)
    stored = [
        _stored(spec, arrays[spec.name], lengths, f"array {spec.name!r} of row {token!r}")
        for spec in fingerprint.stored
    ]
    if Places.CELLS in lengths:
        _check_cells(values.arrays[CELL_INDEX], fingerprint.grid, token)
    return stored


def _lengths(values: RowValues, token: str) -> dict[Places, int]:
    lengths = {Places.BOXES: len(values.gt)}
    if CELL_INDEX in values.arrays:
        if values.arrays[CELL_INDEX].ndim != 1:
            raise RowValueError(f"array {CELL_INDEX!r} of row {token!r} must have one axis")
        lengths[Places.CELLS] = len(values.arrays[CELL_INDEX])
    return lengths


def _stored(
    spec: ArraySpec, array: npt.NDArray[Any], lengths: dict[Places, int], name: str
) -> npt.NDArray[Any]:
    leading = () if spec.places is Places.MAP else (lengths[spec.places],)
    if array.shape != (*leading, *spec.shape):
        raise RowValueError(
            f"{name} has shape {array.shape}, expected {(*leading, *spec.shape)} "
            f"({spec.places}, {spec.shape} each)"
        )
    narrows = spec.dtype == "float16" and array.dtype == np.float32
    if array.dtype.name != spec.dtype and not narrows:
        raise RowValueError(f"{name} is {array.dtype.name}, expected {spec.dtype}")
    stored = np.ascontiguousarray(_half(array) if narrows else array)
    # Ground truth is kept as the data set gives it; nuScenes itself has unknown velocities.
    if spec is not GT_VALUES and stored.dtype.kind == "f" and not _all_finite(stored):
        worst = array.reshape(-1)[np.flatnonzero(~np.isfinite(stored.reshape(-1)))[0]]
        raise RowValueError(
            f"{name} holds {worst}, which {spec.dtype} cannot: expected finite values up to "
            f"{np.finfo(stored.dtype).max}; does the teacher overflow in mixed precision?"
        )
    return stored


def _half(values: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
    """As float16; what is too large becomes infinite. torch does it thirty times faster."""
    halves: npt.NDArray[np.float16] = (
        torch.from_numpy(np.require(values, None, ["C", "W"])).half().numpy()
    )
    return halves


def _all_finite(values: npt.NDArray[Any]) -> bool:
    if values.dtype == np.float16:
        # All five bits of the exponent set; ten times as fast as numpy's test.
        return bool((values.view(np.uint16) & 0x7C00).max(initial=0) < 0x7C00)
    return bool(np.isfinite(values).all())


def _check_cells(cells: npt.NDArray[Any], grid: BEVGrid, token: str) -> None:
    outside = cells[(cells < 0) | (cells >= grid.num_cells)]
    if len(outside):
        raise RowValueError(
            f"row {token!r} names cell {outside[0]}; the grid has cells 0 to {grid.num_cells - 1}"
        )
