"""What an author does who wants to harm whoever opens the store, and computes every hash anew.

Such an author may put other values into a store: then it is another store. What must not happen is
that reading it runs code, hangs, takes absurd memory, or ends in anything but a ``CacheError``.
"""

import hashlib
import io
import json
import os
import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from store.files import sealed_json
from store.fingerprint import Fingerprint
from store.layout import ArrayLayout, store_metadata
from store.manifest import Counts, Manifest
from store.schema import ITEM_BYTES, Places
from tests.store.fuzz import RAW, damage, edit, odd_file, some_document

SPARSE = 1 << 28
BLOCK = 1 << 17


class Touch:
    """When unpickled, makes the marker that says that code has run."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.open, (self.marker, os.O_CREAT)


def payload(store: Path) -> bytes:
    """A pickle that gives itself away."""
    return pickle.dumps(Touch(store.parent / "marker"))


def signed(document: dict[str, Any]) -> bytes:
    """As ``sealed_json``, for whatever JSON can hold."""
    document.pop("sha256", None)
    try:
        return sealed_json(document)
    except ValueError:
        text = json.dumps(document, sort_keys=True, separators=(",", ":"))
        return f'{text[:-1]},"sha256":"{hashlib.sha256(text.encode()).hexdigest()}"}}\n'.encode()


def entry(path: Path) -> dict[str, Any]:
    """A file's entry in a manifest; a sparse one's hash is not worth the time."""
    size = path.stat().st_size
    data = path.read_bytes() if size < SPARSE else b""
    return {"size": size, "sha256": hashlib.sha256(data).hexdigest()}


def sign(store: Path) -> None:
    """Make the manifest vouch for whatever the files hold now."""
    seal = store / "manifest.json"
    if not seal.is_file() or seal.stat().st_size >= SPARSE:
        return
    try:
        document = json.loads(seal.read_bytes())
        for key in document["files"]:
            if (store / key).is_file() and not (store / key).is_symlink():
                document["files"][key] = entry(store / key)
    except (ValueError, TypeError, KeyError, OSError, RecursionError):
        return
    seal.write_bytes(signed(document))


def signed_damage(store: Path, rng: random.Random) -> str:
    told = (damage if rng.random() < 0.9 else odd_file)(store, rng)
    sign(store)
    return f"{told}; signed"


def signed_edit(store: Path, rng: random.Random) -> str:
    """Edit JSON, and make every hash right again."""
    path = some_document(store, rng)
    document = json.loads(path.read_bytes())
    told = "; ".join(edit(document, rng) for _ in range(rng.choice((1, 1, 2))))
    if path.name == "zarr.json":
        path.write_text(f"{json.dumps(document, indent=2)}\n")
        sign(store)
    else:
        path.write_bytes(signed(document))
    return f"{path}: {told}; signed"


CODECS: tuple[Any, ...] = (
    *("pickle", "numcodecs.pickle", "json2", "numcodecs.json2", "numcodecs.msgpack2", "vlen-utf8"),
    *("numcodecs.zlib", "blosc", "gzip", "unknown", "os.system", "../codec", "numcodecs.zstd"),
)


def codec(store: Path, rng: random.Random) -> str:
    """Codecs and number types that may hold objects, with a pickle for them to find."""
    metadata = rng.choice(sorted(store.rglob("c"))).parent / "zarr.json"
    document = json.loads(metadata.read_bytes())
    evil = {"name": rng.choice(CODECS), "configuration": rng.choice(({}, {"level": 1}))}
    match rng.choice(("alone", "first", "type", "shard", "index")):
        case "alone":
            document["codecs"] = [evil]
        case "first":
            document["codecs"].insert(0, evil)
        case "type":
            document["data_type"] = rng.choice(("object", "|O", "string", "r64", "variable_length"))
            document["codecs"] = [{"name": "vlen-utf8"}, evil]
        case "shard":
            document["codecs"] = [{"name": "sharding_indexed", "configuration": {"codecs": [evil]}}]
        case _:
            inner = document["codecs"][0].setdefault("configuration", {})
            inner["index_codecs"] = [evil]
    metadata.write_text(f"{json.dumps(document, indent=2)}\n")
    for chunk in metadata.parent.glob("c/**/*"):
        if chunk.is_file():
            chunk.write_bytes(payload(store))
    sign(store)
    return f"{metadata}: {evil['name']}"


def zstd_bomb(size: int, stated: int | None) -> bytes:
    """A zstd frame of ``size`` zeros in repeated blocks, 4 bytes each; says it has ``stated``."""
    flags, stating = (0, b"") if stated is None else (0xC0, struct.pack("<Q", stated))
    frame = b"\x28\xb5\x2f\xfd" + bytes([flags, 0x58]) + stating
    count, rest = divmod(size, BLOCK)
    blocks = [BLOCK] * count + [rest]
    heads = (length << 3 | 2 | (index == count) for index, length in enumerate(blocks))
    return frame + b"".join(struct.pack("<I", head)[:3] + b"\0" for head in heads)


def checked(data: bytes) -> bytes:
    """With its crc32c, as the last codec of format 1 leaves it."""
    return data + struct.pack("<I", google_crc32c.value(data))


def some_bomb(size: int, rng: random.Random) -> bytes:
    """A frame in the place of one that holds ``size`` bytes."""
    real = rng.choice((size, size, 1 << 20, 1 << 30, 3 << 30))
    stated = rng.choice((real, real, size, None, 0, 1 << 40, (1 << 64) - 1, (1 << 64) - 2))
    return zstd_bomb(real, stated) * rng.choice((1, 1, 1, 2))


def shard(inner: bytes, chunks: int, rng: random.Random) -> bytes:
    """A shard whose every frame is ``inner``; its index may say anything."""
    lie = rng.choice((None, None, (0, 1 << 50), (1 << 63, 1), ((1 << 64) - 1, 1), (1 << 40, 8)))
    where = (0, len(inner)) if lie is None else lie
    return inner + checked(struct.pack("<QQ", *where) * chunks)


def chunk_of(layout: ArrayLayout, rng: random.Random) -> bytes:
    """A hostile chunk file."""
    size = ITEM_BYTES[layout.dtype] * int(np.prod(layout.shape[1:], dtype=object))
    kind = layout.codecs[0]["name"] if len(layout.codecs) < 3 else "zstd"
    if kind == "zstd":
        return checked(some_bomb(size * layout.chunk, rng))
    if kind == "sharding_indexed":
        return shard(checked(some_bomb(size, rng)), layout.chunk, rng)
    return checked(b"")


def bomb(store: Path, rng: random.Random) -> str:
    """A chunk that claims, or has, far more than it should once decompressed."""
    manifest = Manifest.load(store)
    layout = rng.choice([*manifest.maps, *manifest.maps, *manifest.fixed])
    path = store / rng.choice(layout.chunk_keys)
    path.write_bytes(chunk_of(layout, rng))
    sign(store)
    return f"{path} is a bomb"


def index(store: Path, rng: random.Random) -> str:
    """Names, offsets, states and digests that say anything, well encoded and signed."""
    manifest = Manifest.load(store)
    layout = rng.choice([each for each in manifest.fixed if each.key != "rows/view"])
    dtype = np.dtype(layout.dtype)
    if dtype.kind == "f":
        values = np.array(rng.choices((np.nan, np.inf, 0, 1e30), k=int(np.prod(layout.shape))))
    else:
        info = np.iinfo(dtype)
        extremes = (info.min, info.max, info.max - 1, 0, 1, 255, info.min + 1, info.max // 2)
        values = np.array(rng.choices(extremes, k=int(np.prod(layout.shape))), dtype)
        if layout.key.startswith("offsets") and rng.random() < 0.7:
            values[0], values[-1] = 0, manifest.counts.values(Places(layout.key.split("/")[-1]))
        if rng.random() < 0.3:
            values[:] = values[0]
    block = values.astype(dtype).reshape(layout.shape)
    (store / layout.chunk_key(0)).write_bytes(layout.encode(block))
    sign(store)
    return f"{layout.key} says anything"


def giant(store: Path, rng: random.Random) -> str:
    """A store of absurd size that keeps to format 1 in all its metadata, with files to match."""
    document = json.loads((store / "manifest.json").read_bytes())
    made_for, counts = document["fingerprint"], document["counts"]
    arrays = {spec["name"]: spec for spec in made_for["arrays"]}
    much = rng.choice((10**5, 10**7, 10**9, 10**12, 10**18, 1 << 63, 10**400))
    match rng.choice(("map", "map", "cells", "boxes", "rows", "width", "value", "arrays", "grid")):
        case "map":
            side = rng.choice((1 << 10, 1 << 12, 1 << 14, 1 << 20, 1 << 40))
            arrays["bev_high"]["shape"] = [rng.choice((1, 4, 64)), side, side]
        case "cells" | "boxes" as places:
            counts["places"][places] = much
        case "rows":
            counts["rows"] = rng.choice((2000, 10**5, 10**8, much))
        case "width":
            counts["token_width"] = rng.choice((256, 257, much))
        case "value":
            arrays["cells/bev_low"]["shape"] = [rng.choice((1 << 20, 1 << 27, 1 << 28, much))]
        case "arrays":
            new = [
                arrays["cells/bev_low"] | {"name": f"t{i}"}
                for i in range(rng.choice((100, 20_000)))
            ]
            made_for["arrays"] += new
        case _:
            made_for["grid"]["shape"] = [much, much]
    told = f"{rng.randrange(1000)} giant: {much}"
    try:
        fill(store, document, rng)
    except (ValueError, OverflowError, MemoryError) as error:
        # Not even metadata can be written for it; the manifest alone must be refused.
        told += f" ({type(error).__name__})"
    (store / "manifest.json").write_bytes(signed(document))
    return told


def plausible(layout: ArrayLayout, counts: Counts) -> npt.NDArray[Any]:
    """Index values that let a reader go on to the rows, of which the last holds everything."""
    values = np.ones(layout.shape, layout.dtype)
    if layout.key.startswith("offsets"):
        values[:] = 0
        values[-1] = counts.values(Places(layout.key.split("/")[-1]))
    if layout.key == "rows/token":
        values = np.arange(values.size, dtype=np.uint32).reshape(values.shape).astype(np.uint8)
    return values[: layout.chunk]


def fill(store: Path, document: dict[str, Any], rng: random.Random) -> None:
    """Write what the manifest says there is; its chunks sparse, or bombs."""
    manifest = Manifest(
        fingerprint=Fingerprint.model_validate(document["fingerprint"]),
        counts=Counts.model_validate(document["counts"]),
        files={},
    )
    layouts = manifest.layouts
    if sum(len(layout.chunks) for layout in layouts) > 200:
        return
    held = document["files"]
    files = {}
    for key, data in store_metadata(layouts).items():
        (store / key).parent.mkdir(parents=True, exist_ok=True)
        (store / key).write_bytes(data)
        files[key] = entry(store / key)
    for layout, key in ((each, key) for each in layouts for key in each.chunk_keys):
        (store / key).parent.mkdir(parents=True, exist_ok=True)
        if layout in manifest.fixed and rng.random() < 0.98:
            (store / key).write_bytes(layout.encode(plausible(layout, manifest.counts)))
        elif layout in manifest.fixed or key not in held:
            (store / key).write_bytes(chunk_of(layout, rng))
        if layout in manifest.ragged:
            os.truncate(store / key, layout.file_bytes.start)
        files[key] = entry(store / key)
    document["files"] = files


def hostile_record(store: Path, rng: random.Random) -> str:
    """A part record with a right hash that says, or is, anything."""
    path = rng.choice(sorted(store.glob("parts/*.part")))
    line, values = path.read_bytes()[:-32].split(b"\n", 1)
    match rng.choice(("edit", "edit", "edit", "bytes", "archive", "header", "sparse")):
        case "edit":
            header = json.loads(line)
            told = "; ".join(edit(header, rng) for _ in range(rng.choice((1, 1, 2))))
            content = json.dumps(header, separators=(",", ":")).encode() + b"\n" + values
        case "bytes":
            content, told = line + b"\n" + rng.randbytes(rng.choice((0, len(values)))), "bytes"
        case "archive":
            content, told = archive(store, rng), "an archive"
        case "header":
            content, told = rng.choice(RAW).encode() + b"\n" + values, "header"
        case _:
            header = json.loads(line)
            name = rng.choice(sorted(header["values"]))
            header["values"][name]["shape"] = [1 << 20, rng.choice((1, 64, 1 << 13, 1 << 20))]
            content, told = json.dumps(header).encode() + b"\n", "sparse"
    path.write_bytes(content + hashlib.sha256(content).digest())
    if told == "sparse":
        os.truncate(path, len(content) + rng.choice((1 << 22, 1 << 30, 1 << 33, 1 << 40)))
    return f"{path}: {told}"


def archive(store: Path, rng: random.Random) -> bytes:
    """What numpy and zipfile may be made to open: pickled objects, bombs, absurd shapes."""
    buffer = io.BytesIO()
    match rng.choice(("pickle", "npy", "npz", "bomb", "shape")):
        case "pickle":
            return payload(store)
        case "npy":
            np.save(buffer, np.array([Touch(store.parent / "marker")], dtype=object))
        case "npz":
            np.savez(buffer, digests=np.array([Touch(store.parent / "marker")], dtype=object))
        case "bomb":
            np.savez_compressed(buffer, digests=np.zeros(1 << 24, np.uint8))
        case _:
            np.lib.format.write_array_header_1_0(
                buffer, {"descr": "<f8", "fortran_order": False, "shape": (1 << 50,)}
            )
    return buffer.getvalue()
