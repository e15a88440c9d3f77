"""A row's values, held against the plan before anything is written."""

from collections.abc import Callable
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from frames.boxes import Boxes3D
from frames.cell_masks import anchors_of
from store.choices import Encoding
from store.encoding import decode, encode, is_writable, largest_error
from store.errors import DamagedRowError, RowValueError
from store.fingerprint import Fingerprint
from store.rows import RowValues
from store.schema import GT_LABELS, GT_VALUES, ArraySpec, Places

# crc32c of the bytes of a contiguous array: processors have an instruction for it.
digest: Callable[[npt.NDArray[Any]], int] = google_crc32c.value
_UNSIGNED = {4: "u4", 8: "u8"}


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
    wanted = {spec.name for spec in fingerprint.given}
    if values.arrays.keys() != wanted:
        raise RowValueError(
            f"row {token!r} has unplanned arrays {sorted(values.arrays.keys() - wanted)} and "
            f"lacks {sorted(wanted - values.arrays.keys())}; the plan holds {sorted(wanted)}"
        )
    lengths = _lengths(values, fingerprint)
    arrays = values.arrays | ground_truth_arrays(values.gt)
    stored: dict[str, npt.NDArray[Any]] = {}
    for spec in (*fingerprint.given, GT_VALUES, GT_LABELS):
        name = f"array {spec.name!r} of row {token!r}"
        values_ = _checked_shape(spec, arrays[spec.name], lengths, name)
        stored |= _encoded(spec, values_, name) if spec.encoding else _plain(spec, values_, name)
    if fault := _index_fault(stored, _index_sizes(fingerprint)):
        raise RowValueError(f"row {token!r}: array {fault[0]!r} {fault[1]}")
    return [stored[spec.name] for spec in fingerprint.stored]


class RowDecoder:
    """Makes rows of what is stored.

    Args:
        store: Where it is.
        fingerprint: Of it.
    """

    def __init__(self, store: str, fingerprint: Fingerprint) -> None:
        self._store = store
        self._sizes = _index_sizes(fingerprint)
        self._packed = [(spec, spec.encoding) for spec in fingerprint.arrays if spec.encoding]

    def __call__(
        self, stored: dict[str, npt.NDArray[Any]], token: str
    ) -> dict[str, npt.NDArray[Any]]:
        """A row's arrays, by name, as the teacher gave them but for the declared error.

        Args:
            stored: As they lie in the store, all of them or some.
            token: Of the row.

        Raises:
            DamagedRowError: A payload or its ranges, a cell or a label is none that a writer
                writes.
        """
        if fault := _index_fault(stored, self._sizes):
            raise DamagedRowError(self._store, token, *fault)
        values = dict(stored)
        for spec, encoding in self._packed:
            if spec.name in values:
                ranges = values.pop(spec.ranges.name)[0] if spec.ranges else None
                payload = values[spec.name]
                if not is_writable(payload, ranges, encoding):
                    why = f"no finite values give such {encoding}"
                    raise DamagedRowError(self._store, token, spec.name, why)
                values[spec.name] = decode(payload, ranges, encoding, spec.channel_axis)
        return values


def _lengths(values: RowValues, fingerprint: Fingerprint) -> dict[Places, int]:
    """How many values the row has at each kind of places; arrays of a kind must agree."""
    lengths = {Places.BOXES: len(values.gt), Places.ROWS: 1}
    for spec in fingerprint.given:
        decisive = values.arrays.get(spec.places.index_array, values.arrays[spec.name])
        lengths.setdefault(spec.places.counted_as, len(np.atleast_1d(decisive)))
    return lengths


def _checked_shape(
    spec: ArraySpec, array: npt.NDArray[Any], lengths: dict[Places, int], name: str
) -> npt.NDArray[Any]:
    leading = () if spec.places is Places.MAP else (lengths[spec.places.counted_as],)
    if array.shape != (*leading, *spec.shape):
        raise RowValueError(
            f"{name} has shape {array.shape}, expected {(*leading, *spec.shape)} "
            f"({spec.places}, {spec.shape} each)"
        )
    return array


def _plain(spec: ArraySpec, array: npt.NDArray[Any], name: str) -> dict[str, npt.NDArray[Any]]:
    narrows = spec.dtype == "float16" and array.dtype == np.float32
    if array.dtype.name != spec.dtype and not narrows:
        raise RowValueError(f"{name} is {array.dtype.name}, expected {spec.dtype}")
    halved = encode(array, Encoding.FLOAT16, spec.channel_axis)[0] if narrows else array
    stored = np.ascontiguousarray(halved)
    # Ground truth is kept as the data set gives it; nuScenes itself has unknown velocities.
    if spec is not GT_VALUES:
        _check_finite(stored, array, name)
    return {spec.name: stored}


def _encoded(spec: ArraySpec, array: npt.NDArray[Any], name: str) -> dict[str, npt.NDArray[Any]]:
    """Payload and ranges, decoded once to see that the declared bound holds."""
    assert spec.encoding is not None, "others are stored as they are"
    if array.dtype not in (np.float32, np.float16):
        raise RowValueError(f"{name} is {array.dtype.name}, expected float32 or float16")
    _check_finite(array, array, name)
    payload, ranges = encode(array, spec.encoding, spec.channel_axis)
    decoded = decode(payload, ranges, spec.encoding, spec.channel_axis)
    error = largest_error(array, decoded, ranges, spec.channel_axis)
    if not error <= spec.max_error:
        raise RowValueError(
            f"{name} as {spec.encoding} is off by {error:.3g}, more than the declared "
            f"{spec.max_error:.3g}; choose another --encoding"
        )
    beside = {} if ranges is None or spec.ranges is None else {spec.ranges.name: ranges[None]}
    return {spec.name: payload, **beside}


def _check_finite(stored: npt.NDArray[Any], given: npt.NDArray[Any], name: str) -> None:
    if stored.dtype.kind == "f" and not _all_finite(stored):
        worst = given.reshape(-1)[np.flatnonzero(~np.isfinite(stored.reshape(-1)))[0]]
        raise RowValueError(
            f"{name} holds {worst}, which {stored.dtype} cannot: expected finite values up to "
            f"{np.finfo(stored.dtype).max}; does the teacher overflow in mixed precision?"
        )


def _all_finite(values: npt.NDArray[Any]) -> bool:
    if values.dtype == np.float16:
        # All five bits of the exponent set; ten times as fast as numpy's test.
        return bool((values.view(np.uint16) & 0x7C00).max(initial=0) < 0x7C00)
    return bool(np.isfinite(values).all())


def _index_sizes(fingerprint: Fingerprint) -> dict[str, int]:
    """How many cells, anchors or classes there are to choose from, by the array that chooses."""
    sizes = {GT_LABELS.name: len(fingerprint.classes)}
    kinds = {spec.places for spec in fingerprint.arrays}
    if Places.CELLS in kinds:
        sizes[Places.CELLS.index_array] = fingerprint.grid.num_cells
    # An odd number of cells has no half.
    if Places.COARSE_CELLS in kinds:
        sizes[Places.COARSE_CELLS.index_array] = fingerprint.grid.coarser.num_cells
    if anchors := anchors_of(fingerprint.masks):
        sizes[Places.ANCHORS.index_array] = anchors.count
    return sizes


def _index_fault(
    stored: dict[str, npt.NDArray[Any]], sizes: dict[str, int]
) -> tuple[str, str] | None:
    """The first array, of those there, that counts beyond what there is; and how."""
    for name, size in sizes.items():
        values = stored.get(name)
        if values is not None and _largest(values) >= size:
            outside = values[(values < 0) | (values >= size)]
            return name, f"holds {outside[0]}, expected 0 to {size - 1}"
    return None


def _largest(indices: npt.NDArray[Any]) -> int:
    """As unsigned numbers: one below zero is beyond any size. -1 if there are none."""
    unsigned = indices.view(_UNSIGNED[indices.itemsize])
    # A quarter of the time that max() takes.
    return int(unsigned[unsigned.argmax()]) if len(unsigned) else -1
