"""Reads the chunks that zarr wrote, with a tenth of its overhead; only for format 1's own codecs.

Every size is known before anything is allocated: a chunk that decodes to another number of bytes
than its place in the array needs is refused, not unpacked.
"""

import os
import struct
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
from numcodecs import zstd

from store.errors import DamagedStoreError
from store.files import open_plain
from store.layout import ArrayLayout
from store.source import Source

_CHECKSUM_BYTES = 4
# Of the index behind a shard's inner chunks: where each begins, and its bytes.
_ENTRY = struct.Struct("<QQ")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# ZSTD_compressBound of zstd.h: what cannot be compressed grows by 1/256 and at most 64 bytes.
_ZSTD_SLACK = 64


class MapArray:
    """An array of whole maps, one a row; safe in threads and forked processes.

    Args:
        source: Where its shards come from.
        layout: On the disk.
    """

    def __init__(self, source: Source, layout: ArrayLayout) -> None:
        self._source = source
        self._layout = layout

    def read(self, row: int) -> npt.NDArray[Any]:
        """One row's map, not yet held against its digest.

        Raises:
            DamagedStoreError: Its shard is missing or does not decode.
            CacheError: It cannot be fetched.
        """
        self._source.fetch(self.files(row))
        try:
            return read_map(self._source.root, self._layout, row)
        except (DamagedStoreError, ValueError, RuntimeError, OSError) as error:
            raise DamagedStoreError(f"its shard does not decode ({error})") from error

    def files(self, row: int) -> list[str]:
        """The shard that holds the row's map."""
        return [self._layout.chunk_key(row // self._layout.chunk)]


def read_map(root: Path, layout: ArrayLayout, row: int) -> npt.NDArray[Any]:
    """One frame's map, not yet held against its digest; safe in threads and forked processes.

    Args:
        root: The store.
        layout: Of an array of maps.
        row: Frame.

    Raises:
        ValueError, RuntimeError, OSError: The shard does not decode.
        CacheError: It is missing, or no plain file.
    """
    shard, inner = divmod(row, layout.chunk)
    values = np.empty(layout.shape[1:], layout.dtype)
    descriptor = open_plain(root / layout.chunk_key(shard))
    try:
        start, size = _inner_chunk(descriptor, layout.chunk, inner)
        if size > values.nbytes + (values.nbytes >> 8) + _ZSTD_SLACK + _CHECKSUM_BYTES:
            raise ValueError(f"{size} bytes for a map of {values.nbytes}")
        decode(os.pread(descriptor, size, start), values)
    finally:
        os.close(descriptor)
    return values


def read_fixed(root: Path, layout: ArrayLayout) -> npt.NDArray[Any]:
    """The whole of an array with one entry a row.

    Raises:
        ValueError, RuntimeError, OSError: A chunk does not decode.
    """
    # The last chunk is as long as the others on the disk.
    length = len(layout.chunks) * layout.chunk
    values = np.empty((length, *layout.shape[1:]), layout.dtype)
    for index in layout.chunks:
        part = values[index * layout.chunk : (index + 1) * layout.chunk]
        decode((root / layout.chunk_key(index)).read_bytes(), part)
    return values[: layout.shape[0]]


def decode(chunk: bytes, values: npt.NDArray[Any]) -> None:
    """Decode ``bytes, zstd, crc32c`` into an array that it must fill exactly.

    Raises:
        ValueError, RuntimeError: It does not.
    """
    content = _checked(chunk)
    size = _content_size(chunk)
    if size != values.nbytes:
        raise ValueError(f"it holds {size} bytes, expected {values.nbytes}")
    zstd.decompress(content, values)


def _inner_chunk(descriptor: int, count: int, inner: int) -> tuple[int, int]:
    """Where one of a shard's inner chunks begins, and its bytes."""
    index_bytes = count * _ENTRY.size + _CHECKSUM_BYTES
    end = os.fstat(descriptor).st_size - index_bytes
    if end < 0:
        raise ValueError("the shard is shorter than its index")
    index = os.pread(descriptor, index_bytes, end)
    _checked(index)
    start, size = _ENTRY.unpack_from(index, inner * _ENTRY.size)
    # An inner chunk that was never written has 2**64 - 1 for both.
    if start + size > end:
        raise ValueError("the shard has no such frame")
    return start, size


def _checked(data: bytes) -> npt.NDArray[np.uint8]:
    """The bytes in front of their crc32c."""
    content = np.frombuffer(data, np.uint8)[:-_CHECKSUM_BYTES]
    if google_crc32c.value(content) != int.from_bytes(data[-_CHECKSUM_BYTES:], "little"):
        raise ValueError("its bytes do not have their crc32c")
    return content


def _content_size(frame: bytes) -> int:
    """What a zstd frame says it decodes to (RFC 8878, 3.1.1.1); 0 if it does not say."""
    if frame[:4] != _ZSTD_MAGIC:
        raise ValueError("it is no zstd frame")
    single, flag, dictionary = frame[4] >> 5 & 1, frame[4] >> 6, frame[4] & 3
    width = (single, 2, 4, 8)[flag]
    begin = 6 - single + (0, 1, 2, 4)[dictionary]
    size = int.from_bytes(frame[begin : begin + width], "little")
    return size + 256 if width == 2 else size
