"""The thin reader against zarr-python, which wrote the same files, and against damage."""

import struct
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import zstd

from store.chunk import decode, read_fixed, read_map
from store.layout import ROWS_PER_PART, ArrayLayout, fixed_layout, map_layout
from store.schema import ArraySpec, Places

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def maps_of(shape: tuple[int, int, int], dtype: str, rows: int) -> ArrayLayout:
    return map_layout(ArraySpec(name="m", places=Places.MAP, shape=shape, dtype=dtype), rows)


def write(root: Path, layout: ArrayLayout, values: np.ndarray) -> None:
    (root / layout.key).mkdir(parents=True, exist_ok=True)
    (root / layout.metadata_key).write_bytes(layout.metadata())
    for index in layout.chunks:
        path = root / layout.chunk_key(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        block = values[index * layout.chunk : (index + 1) * layout.chunk]
        path.write_bytes(layout.encode(block))


def with_checksum(content: bytes) -> bytes:
    return content + struct.pack("<I", google_crc32c.value(content))


def shard_of(chunk: bytes) -> bytes:
    """A shard whose only frame, the first, is this chunk."""
    absent = [2**64 - 1] * 2 * (ROWS_PER_PART - 1)
    return chunk + with_checksum(struct.pack("<32Q", 0, len(chunk), *absent))


def raw_block(content: bytes, header: bytes) -> bytes:
    """A zstd frame of one uncompressed block behind any frame header."""
    block = (len(content) << 3 | 1).to_bytes(3, "little")
    return ZSTD_MAGIC + header + block + content


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    dtype=st.sampled_from(["float16", "float32", "uint8", "int64"]),
    rows=st.integers(1, 35),
    zeros=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_every_map_is_what_zarr_reads(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int, int],
    dtype: str,
    rows: int,
    zeros: float,
    seed: int,
):
    root = tmp_path_factory.mktemp("maps")
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(rows, *shape)) * 100).astype(dtype)
    values[rng.random(values.shape) < zeros] = 0
    layout = maps_of(shape, dtype, rows)
    write(root, layout, values)
    array = zarr.open_array(root / "m", mode="r")
    for row in range(rows):
        found = read_map(root, layout, row)
        assert found.dtype == array.dtype
        assert found.tobytes() == np.asarray(array[row]).tobytes() == values[row].tobytes()


@pytest.mark.parametrize(("rows", "width", "chunk"), [(1, 1, 1), (10, 3, 4), (8, 70, 4)])
def test_fixed_arrays_are_what_zarr_reads(tmp_path: Path, rows: int, width: int, chunk: int):
    shape = (rows, width)
    layout = fixed_layout("index/x", shape, "int64")
    several = {name: getattr(layout, name) for name in layout.__slots__} | {"chunk": chunk}
    layout = ArrayLayout(**several)
    values = np.arange(rows * width, dtype=np.int64).reshape(shape)
    write(tmp_path, layout, values)
    assert np.array_equal(read_fixed(tmp_path, layout), values)
    assert np.array_equal(zarr.open_array(tmp_path / "index/x", mode="r")[...], values)


def test_no_flipped_bit_or_cut_of_a_shard_is_read(tmp_path: Path):
    layout = maps_of((1, 2, 2), "uint8", 2)
    values = np.arange(8, dtype=np.uint8).reshape(2, 1, 2, 2)
    write(tmp_path, layout, values)
    path = tmp_path / layout.chunk_key(0)
    whole = path.read_bytes()
    refused = 0
    for position in range(len(whole)):
        altered = bytearray(whole)
        altered[position] ^= 1 << position % 8
        path.write_bytes(altered)
        for row in range(2):
            try:
                assert read_map(tmp_path, layout, row).tobytes() == values[row].tobytes()
            except (ValueError, RuntimeError):
                refused += 1
    # A frame's own bit, or the index that both need, but never the other's.
    index_bytes = 16 * ROWS_PER_PART + 4
    assert refused == len(whole) + index_bytes
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"index|crc32c"):
            read_map(tmp_path, layout, 0)


def test_a_frame_that_was_never_written_is_no_map_of_zeros(tmp_path: Path):
    layout = maps_of((2, 3, 4), "float16", 16)
    write(tmp_path, maps_of((2, 3, 4), "float16", 3), np.ones((3, 2, 3, 4), np.float16))
    with pytest.raises(ValueError, match="no such frame"):
        read_map(tmp_path, layout, 3)


def test_a_decompression_bomb_is_refused_before_it_unfolds(tmp_path: Path):
    layout = maps_of((1, 4, 4), "float16", 1)
    path = tmp_path / layout.chunk_key(0)
    path.parent.mkdir(parents=True)
    path.write_bytes(shard_of(with_checksum(zstd.compress(bytes(1 << 24), 1))))
    with pytest.raises(ValueError, match=r"^\d+ bytes for a map of 32"):
        read_map(tmp_path, layout, 0)
    # Of a small map's size, as far as its frame says; what it holds is more.
    path.write_bytes(shard_of(with_checksum(raw_block(bytes(64), b"\x20\x20"))))
    with pytest.raises(RuntimeError, match="decompression error"):
        read_map(tmp_path, layout, 0)
    # A frame of which nobody needs to read a gigabyte to know that it is too long.
    with path.open("wb") as file:
        file.truncate(1 << 32)
        file.seek(1 << 32)
        file.write(with_checksum(struct.pack("<32Q", 0, 1 << 32, *[2**64 - 1] * 30)))
    with pytest.raises(ValueError, match="4294967296 bytes for a map of 32"):
        read_map(tmp_path, layout, 0)


@pytest.mark.parametrize("size", [1, 255, 256, 300, 65_791, 65_792, 70_000])
def test_the_stated_size_is_read_at_each_width_of_its_field(size: int):
    chunk = with_checksum(zstd.compress(bytes(size), 1))
    decode(chunk, np.empty(size, np.uint8))
    for other in (size + 1, size + 256):
        with pytest.raises(ValueError, match=f"it holds {size} bytes, expected {other}"):
            decode(chunk, np.empty(other, np.uint8))


def test_a_frame_with_any_header_is_taken_by_what_it_states():
    content = b"abcdefgh"
    values = np.empty(8, np.uint8)
    eight_bytes_wide = b"\xc0\x00" + (8).to_bytes(8, "little")
    decode(with_checksum(raw_block(content, eight_bytes_wide)), values)
    assert values.tobytes() == content
    with pytest.raises(ValueError, match="it holds 0 bytes, expected 8"):
        decode(with_checksum(raw_block(content, b"\x00\x00")), values)
    with pytest.raises(ValueError, match="no zstd frame"):
        decode(with_checksum(b"no zstd, truly"), values)
    frame = zstd.compress(content, 1)
    with pytest.raises(ValueError, match="destination buffer too small"):
        decode(with_checksum(frame + frame), values)
