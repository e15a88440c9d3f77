"""The manifest: the seal of a finished store, from which every byte of it can be checked."""

import json
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from store.errors import DamagedStoreError, UnsafeStoreError, explained
from store.files import HASH_KEY, FileEntry, parse_sealed_json, read_bounded, sealed_json
from store.fingerprint import Fingerprint
from store.layout import (
    MANIFEST,
    MAX_METADATA_BYTES,
    ArrayLayout,
    fixed_layout,
    map_layout,
    metadata_keys,
    offsets_key,
    ragged_layout,
    ragged_places,
    store_metadata,
)
from store.rows import MAX_NAME_BYTES
from store.schema import Places

# Ten times the largest public driving set at full camera rate.
MAX_ROWS = 100_000_000
# Four hundred thousand files; parsed, JSON may take twenty times its size.
MAX_MANIFEST_BYTES = 1 << 26
MAX_PLACES = 1 << 40
# What a reader holds of a store as long as it is open: ten million rows.
MAX_INDEX_BYTES = 1 << 32
NameWidth = Annotated[int, Field(ge=1, le=MAX_NAME_BYTES)]


class Counts(BaseModel):
    """How much a store holds; with the fingerprint it decides every array's shape.

    Attributes:
        rows: Views of all frames.
        places: Of all rows, by kind: true boxes, foreground cells.
        token_width: Bytes of the longest token.
        scene_width: Bytes of the longest scene name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = Field(ge=1, le=MAX_ROWS)
    places: dict[Places, Annotated[int, Field(ge=0, le=MAX_PLACES)]]
    token_width: NameWidth
    scene_width: NameWidth

    def values(self, places: Places) -> int:
        """Values that an array at these places has in all."""
        return self.rows if places is Places.MAP else self.places[places.counted_as]


class Manifest(BaseModel):
    """What a sealed store holds.

    Attributes:
        fingerprint: For what it was made.
        counts: How much of it.
        files: Every file but the manifest, by path inside the store.
        root_hash: sha256 over all of the above; the identity of the store.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: Fingerprint
    counts: Counts
    files: dict[str, FileEntry]
    root_hash: str = ""

    def encode(self) -> bytes:
        """The manifest's file."""
        document = self.model_dump(mode="json", exclude={"root_hash"})
        return sealed_json(document | {"format": self.fingerprint.format})

    @classmethod
    def load(cls, root: Path) -> "Manifest":
        """The manifest of a sealed store.

        Raises:
            FormatVersionError: Written in another format.
            DamagedStoreError: Not as it was written.
        """
        data = read_bounded(root / MANIFEST, MAX_MANIFEST_BYTES)
        return cls.parse(data, str(root / MANIFEST))

    @classmethod
    def parse(cls, data: bytes, name: str) -> "Manifest":
        """The manifest in these bytes; ``name`` says where they are from.

        Raises:
            FormatVersionError: Written in another format.
            DamagedStoreError: Not as it was written.
            UnsafeStoreError: It lists other files than format 1 has for its fingerprint.
        """
        document = parse_sealed_json(data, name)
        if "root_hash" in document:
            raise DamagedStoreError(f"{name} has a key 'root_hash', which format 1 never writes")
        document["root_hash"] = document.pop(HASH_KEY)
        del document["format"]
        try:
            # Of JSON, strict: no number in quotes, no 20.0 for 20.
            manifest = cls.model_validate_json(json.dumps(document), strict=True)
        except ValidationError as error:
            raise DamagedStoreError(f"{name} is not a manifest: {explained(error)}") from error
        if odd_kinds := manifest.counts.places.keys() ^ set(ragged_places(manifest.fingerprint)):
            raise UnsafeStoreError(
                f"{name}: counts of {sorted(odd_kinds)} are not those of the fingerprint's arrays"
            )
        manifest._refuse_absurd(name)
        return manifest

    def _refuse_absurd(self, name: str) -> None:
        """Before anything is listed, fetched or held because a manifest says so."""
        layouts = self.layouts
        index = sum(layout.size for layout in self.fixed)
        count = sum(len(layout.chunks) for layout in layouts)
        if index > MAX_INDEX_BYTES or count > len(self.files):
            raise UnsafeStoreError(
                f"{name}: {self.counts.rows} rows need an index of {index} bytes (at most "
                f"{MAX_INDEX_BYTES} fit) and {count} chunk files; it lists {len(self.files)} files"
            )
        sizes = dict.fromkeys(metadata_keys(layouts), range(MAX_METADATA_BYTES + 1))
        sizes |= {key: layout.file_bytes for layout in layouts for key in layout.chunk_keys}
        # Every file is known from the fingerprint: no path of a stranger's is ever followed.
        if odd := sorted(sizes.keys() ^ self.files.keys()):
            raise UnsafeStoreError(f"{name}: format 1 and the manifest disagree on files {odd[:5]}")
        if odd := [key for key, entry in self.files.items() if entry.size not in sizes[key]]:
            raise UnsafeStoreError(
                f"{name} says that {odd[0]} has {self.files[odd[0]].size} bytes; in format 1 it "
                f"has {sizes[odd[0]].start} to {sizes[odd[0]].stop - 1}"
            )

    @property
    def size(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(entry.size for entry in self.files.values())

    @property
    def layouts(self) -> list[ArrayLayout]:
        """All arrays."""
        return [*self.maps, *self.ragged, *self.fixed]

    @property
    def metadata(self) -> dict[str, bytes]:
        """Every ``zarr.json``, as it must be."""
        return store_metadata(self.layouts)

    @property
    def chunks(self) -> list[str]:
        """Every chunk file."""
        return [key for layout in self.layouts for key in layout.chunk_keys]

    @property
    def index_files(self) -> list[str]:
        """What is read when a store is opened."""
        return [*self.metadata, *(key for layout in self.fixed for key in layout.chunk_keys)]

    @property
    def maps(self) -> list[ArrayLayout]:
        """Arrays of whole maps."""
        arrays = self.fingerprint.arrays
        return [map_layout(s, self.counts.rows) for s in arrays if s.places is Places.MAP]

    @property
    def ragged(self) -> list[ArrayLayout]:
        """Arrays with a value for each cell or box."""
        return [
            ragged_layout(spec, self.counts.rows, self.counts.values(spec.places))
            for spec in self.fingerprint.stored
            if spec.places is not Places.MAP
        ]

    @property
    def fixed(self) -> list[ArrayLayout]:
        """Arrays with one entry a row: identity, index, and the offsets of ragged arrays."""
        rows, counts = self.counts.rows, self.counts
        shapes: dict[str, tuple[tuple[int, ...], str]] = {
            "rows/token": ((rows, counts.token_width), "uint8"),
            "rows/view": ((rows,), "int32"),
            "rows/bev_augment": ((rows, 2, 3), "float32"),
            "rows/scene": ((rows, counts.scene_width), "uint8"),
            "rows/timestamp_us": ((rows,), "int64"),
            "rows/prev": ((rows,), "int64"),
            "rows/next": ((rows,), "int64"),
            "rows/global_from_ego": ((rows, 4, 4), "float64"),
            "index/state": ((rows,), "uint8"),
            "index/digest": ((rows, len(self.fingerprint.stored)), "uint32"),
        }
        for places in ragged_places(self.fingerprint):
            shapes[offsets_key(places)] = ((rows + 1,), "int64")
        return [fixed_layout(key, shape, dtype) for key, (shape, dtype) in shapes.items()]
