"""What a dump may be asked for; without torch, for the command line to start fast."""

from enum import StrEnum
from typing import Literal

# Three hundred epochs, each with an augmentation of its own, are more than anyone trains.
MAX_VIEWS = 1024


class Coverage(StrEnum):
    """How much a dump keeps: just the places asked for, or whole maps."""

    FOREGROUND = "foreground"
    DENSE = "dense"


class Encoding(StrEnum):
    """The representations a stored array of floats may have."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    UINT8 = "uint8"
    FLOAT8 = "float8"

    @property
    def payload_dtype(self) -> Literal["float32", "float16", "uint16", "uint8"]:
        """Number type of the stored payload."""
        return _PAYLOAD_DTYPE[self]

    @property
    def has_ranges(self) -> bool:
        """Whether decoding needs the ranges of the row's channels."""
        return self in (Encoding.UINT8, Encoding.FLOAT8)

    @property
    def max_error(self) -> float:
        """Bound on :func:`store.encoding.largest_error`, which says against what the error is held.

        - float32: 0.
        - float16: 2^-11, half a unit in the last of 11 significant bits, up to 65504. Greater
          values become infinite, and their error with them.
        - bfloat16: 2^-8, the same with 8 bits. Every finite float32 has a finite nearest value,
          subnormals too: what would round to infinity becomes the greatest finite value.
        - uint8: 1/255, half a step of a range as wide as twice the largest magnitude. A channel
          without negative values, as after a ReLU, keeps half of it, 1/510.
        - float8: 1/28, half a step of 32 just below the greatest value 448. A value is also within
          2^-4 of itself, down to 2^-6/448 of the largest magnitude.

        The scaled two have 2^-20 more, for the float32 roundings of the decoded value.
        """
        return _MAX_ERROR[self]


_PAYLOAD_DTYPE: dict[Encoding, Literal["float32", "float16", "uint16", "uint8"]] = {
    Encoding.FLOAT32: "float32",
    Encoding.FLOAT16: "float16",
    Encoding.BFLOAT16: "uint16",
    Encoding.UINT8: "uint8",
    Encoding.FLOAT8: "uint8",
}
_MAX_ERROR = {
    Encoding.FLOAT32: 0.0,
    Encoding.FLOAT16: 2.0**-11,
    Encoding.BFLOAT16: 2.0**-8,
    Encoding.UINT8: 1 / 255 + 2.0**-20,
    Encoding.FLOAT8: 1 / 28 + 2.0**-20,
}
