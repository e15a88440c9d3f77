"""How floats are stored: the number types of a payload, and how far decoding is from the original.

Zarr 3.1 knows neither bfloat16 nor float8, so their payloads are unsigned integers. With ``low``
and ``high`` of the payload's channel, all in float64 and then rounded to float32:

=========  =======  ================================================================
encoding   payload  decoded value
=========  =======  ================================================================
float32    float32  the payload
float16    float16  the payload
bfloat16   uint16   float32 of which the payload is the upper half, zeros the lower
uint8      uint8    ``low + (high - low) * (payload / 255)``
float8     uint8    ``low + (high - low) * (e4m3(payload) / 448)``, where low is 0
=========  =======  ================================================================

``uint8`` and ``float8`` have ``ranges``, float32 (C, 2): low and high of each channel of the row,
its least and greatest value for ``uint8``, 0 and its largest magnitude for ``float8``. They are
zeros where a row has no values. The channel is the first axis of a map (C, H, W), and the last
one of values at places (n, C) or (n, k, C).

Encoding depends on nothing but the values: every machine writes the same payload.
"""

from collections.abc import Iterable
from types import EllipsisType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from store.choices import Encoding

FloatArray = npt.NDArray[np.float32] | npt.NDArray[np.float16]
ChannelAxis = Literal[0, -1]

# Largest finite values of bfloat16 and of float8 e4m3 (the "fn" form, which has no infinity).
BFLOAT16_MAX = np.float32(torch.finfo(torch.bfloat16).max)
FLOAT8_MAX = torch.finfo(torch.float8_e4m3fn).max
SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)


# Places decoded in one go, in float64: so many fit the processor's cache.
_ROWS_AT_ONCE = 256
# Where in its channel's range each of the 256 payloads lies.
_UNITS = {
    Encoding.UINT8: np.arange(256) / 255,
    Encoding.FLOAT8: torch.arange(256, dtype=torch.uint8)
    .view(torch.float8_e4m3fn)
    .double()
    .div(FLOAT8_MAX)
    .numpy(),
}


def encode(
    values: FloatArray, encoding: Encoding, channel_axis: ChannelAxis
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32] | None]:
    """The payload, of the values' shape, and the ranges (C, 2) where the encoding has them.

    The payload may be the given array itself, where that needs no change.

    Args:
        values: One row's finite values: a map (C, H, W), or (n, ..., C) with any n.
        encoding: What to make of them.
        channel_axis: 0 for a map, -1 for values at places.
    """
    if encoding is Encoding.FLOAT16:
        return _as_tensor(values).half().numpy(), None
    values = as_float32(values)
    if encoding is Encoding.FLOAT32:
        return values, None
    if encoding is Encoding.BFLOAT16:
        return _upper_halves(values), None
    ranges = _ranges(values, encoding, channel_axis)
    low, span = _low_and_span(ranges)
    whole = encoding is Encoding.UINT8
    scale = np.zeros_like(span)
    np.divide(255 if whole else FLOAT8_MAX, span, out=scale, where=span > 0)
    scaled: npt.NDArray[Any] = np.empty(values.shape, np.uint8 if whole else np.float32)
    for at in _blocks(ranges, channel_axis):
        level = np.subtract(values[at], low[at], dtype=np.float64)
        level *= scale[at]
        scaled[at] = np.rint(level, out=level) if whole else level
    return scaled if whole else _float8(scaled), ranges


def decode(
    payload: npt.NDArray[Any],
    ranges: npt.NDArray[np.float32] | None,
    encoding: Encoding,
    channel_axis: ChannelAxis,
) -> FloatArray:
    """The values, of the payload's shape: float16 for ``float16``, otherwise float32.

    Args:
        payload: As :func:`encode` gave it.
        ranges: Its ranges (C, 2), None where the encoding has none.
        encoding: What it was made with.
        channel_axis: 0 for a map, -1 for values at places.
    """
    if encoding is Encoding.BFLOAT16:
        return (payload.astype(np.uint32) << 16).view(np.float32)
    if not encoding.has_ranges:
        return payload
    assert ranges is not None, f"{encoding} is decoded with its ranges"
    low, span = _low_and_span(ranges)
    unit = _UNITS[encoding]
    # A byte cannot miss a table of 256: "clip" only spares numpy the look.
    if channel_axis == -1:
        decoded = np.empty(payload.shape, np.float32)
        payloads = payload.reshape(-1, payload.shape[-1])
        rows = decoded.reshape(payloads.shape)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            at = slice(start, start + _ROWS_AT_ONCE)
            values = unit.take(payloads[at], mode="clip")
            values *= span
            values += low
            rows[at] = values
        return decoded
    # The values of a whole map are looked up, several times faster than computing each.
    levels = (low[:, None] + span[:, None] * unit).astype(np.float32)
    decoded = np.empty(payload.shape, np.float32)
    for channel, level in enumerate(levels):
        np.take(level, payload[channel], out=decoded[channel], mode="clip")
    return decoded


def is_writable(
    payload: npt.NDArray[Any], ranges: npt.NDArray[np.float32] | None, encoding: Encoding
) -> bool:
    """Whether :func:`encode` can have made these of finite values, as far as NaNs tell."""
    if encoding is Encoding.BFLOAT16:
        return not ((payload & 0x7F80) == 0x7F80).any()
    if encoding is Encoding.FLOAT8 and ((payload & 0x7F) == 0x7F).any():
        return False
    return ranges is None or bool(np.isfinite(ranges).all())


def largest_error(
    values: FloatArray,
    decoded: FloatArray,
    ranges: npt.NDArray[np.float32] | None,
    channel_axis: ChannelAxis,
) -> float:
    """Largest error of the decoded values, to be held against ``Encoding.max_error``.

    Each ``|decoded - given|`` is divided by ``max(1, |given|)``; where there are ranges, by the
    largest magnitude of its channel in the row, taken as 2^-126 where it is less. 0 if empty.

    Args:
        values: As given to :func:`encode`.
        decoded: What :func:`decode` makes of them.
        ranges: Of the payload, None where the encoding has none.
        channel_axis: 0 for a map, -1 for values at places.
    """
    values = as_float32(values)
    if not values.size:
        return 0.0
    error = np.abs(as_float32(decoded) - values)
    if ranges is None:
        return float((error / np.maximum(np.abs(values), 1)).max())
    magnitude = np.abs(ranges).max(1).clip(min=SMALLEST_NORMAL)
    return float((error.max(_other_axes(error, channel_axis)) / magnitude).max())


def as_float32(values: FloatArray) -> npt.NDArray[np.float32]:
    """The values as float32; through torch, which widens float16 ten times as fast as numpy."""
    array: npt.NDArray[np.float32] = _as_tensor(values).float().numpy()
    return array


def _as_tensor(values: FloatArray) -> torch.Tensor:
    # Torch warns of arrays that it may not write to, as those over a file's bytes.
    return torch.from_numpy(np.require(values, requirements=("C", "W")))


def _upper_halves(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Upper halves of the float32 bits, rounded to nearest, ties to even."""
    bits = values.clip(-BFLOAT16_MAX, BFLOAT16_MAX).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def _float8(scaled: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """The e4m3 bits nearest to values within [-448, 448]."""
    tensor = torch.from_numpy(scaled).to(torch.float8_e4m3fn)
    payload: npt.NDArray[np.uint8] = tensor.view(torch.uint8).numpy()
    return payload


def _ranges(
    values: npt.NDArray[np.float32], encoding: Encoding, channel_axis: ChannelAxis
) -> npt.NDArray[np.float32]:
    ranges = np.zeros((values.shape[channel_axis], 2), np.float32)
    if values.size:
        others = _other_axes(values, channel_axis)
        low, high = values.min(others), values.max(others)
        if encoding is Encoding.FLOAT8:
            low, high = np.zeros_like(low), np.maximum(-low, high)
        # Adding 0 makes a zero positive: which of two unlike ones is the least is left to chance.
        ranges[:, 0], ranges[:, 1] = low + 0, high + 0
    return ranges


def _low_and_span(
    ranges: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    # In float64, as float32 cannot hold the span of -3e38 .. 3e38.
    low, high = ranges.astype(np.float64).T
    return low, high - low


def _blocks(
    ranges: npt.NDArray[np.float32], channel_axis: ChannelAxis
) -> Iterable[int | EllipsisType]:
    """Indices, of values and of ranges alike, whose work fits the processor's cache."""
    return range(len(ranges)) if channel_axis == 0 else (...,)


def _other_axes(values: npt.NDArray[Any], channel_axis: ChannelAxis) -> tuple[int, ...]:
    return tuple(axis for axis in range(values.ndim) if axis != channel_axis % values.ndim)
