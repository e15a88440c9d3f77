"""What a cache holds and for what it was made: the fingerprint both stages agree on."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PositiveInt,
    StringConstraints,
    model_validator,
)

from frames.grid import BEVGrid

FORMAT_VERSION: Literal[1] = 1
CELL_INDEX = "cells/index"
# No teacher's map of one frame comes near it; a larger one is a mistake or an attack.
MAX_VALUE_BYTES = 1 << 28
# Nor do all arrays of one frame.
MAX_ROW_BYTES = 1 << 30

ITEM_BYTES = {
    "float16": 2,
    "float32": 4,
    "float64": 8,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "uint32": 4,
}
DTypeName = Literal["float16", "float32", "float64", "int32", "int64", "uint8", "uint32"]
ArrayName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+(/[a-z0-9_]+)*$", max_length=128)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# Folders the store itself uses; a target may not hide in them.
RESERVED_FOLDERS = frozenset({"gt", "index", "offsets", "parts", "rows"})


class Target(StrEnum):
    """What a teacher says of a frame.

    ``bev_low`` and ``bev_high`` are the map before and after the BEV backbone; ``box_code`` the
    regression channels before decoding; ``boxes`` the decoded boxes.
    """

    BEV_LOW = "bev_low"
    BEV_HIGH = "bev_high"
    HEATMAP_LOGIT = "heatmap_logit"
    BOX_CODE = "box_code"
    BOXES = "boxes"


class Places(StrEnum):
    """Where a target is read: the whole map, the foreground mask's cells, or each true box."""

    MAP = "map"
    CELLS = "cells"
    BOXES = "boxes"


class Coverage(StrEnum):
    """How much a dump keeps: just the places asked for, or whole maps."""

    FOREGROUND = "foreground"
    DENSE = "dense"


@dataclass(frozen=True, slots=True, order=True)
class Need:
    """One thing a method reads of the cache.

    Attributes:
        target: What.
        places: Where.
    """

    target: Target
    places: Places


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ArraySpec(_Frozen):
    """One array of teacher targets.

    Attributes:
        name: Path inside the store, for example ``boxes/centre``.
        places: What one value belongs to.
        shape: Of one place's value: (C, H, W) for a map, (C,) or () for cells and boxes.
        dtype: Stored number type, little-endian.
        max_error: Bound on ``|stored - given| / max(1, |given|)``; 0 means lossless.
    """

    name: ArrayName
    places: Places
    shape: tuple[PositiveInt, ...]
    dtype: DTypeName
    max_error: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _sensible(self) -> "ArraySpec":
        if self.places is Places.MAP and len(self.shape) != 3:
            raise ValueError(f"{self.name}: a map is (C, H, W), found {self.shape}")
        if self.places is not Places.MAP and len(self.shape) > 1:
            raise ValueError(f"{self.name}: one value is (C,) or (), found {self.shape}")
        if self.value_bytes > MAX_VALUE_BYTES:
            raise ValueError(f"{self.name}: {self.value_bytes} bytes a value is absurd")
        return self

    @property
    def value_bytes(self) -> int:
        """Bytes of one place's value, uncompressed."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


# The ground truth as the teacher saw it; stored with every cache, whatever the methods need.
GT_VALUES = ArraySpec(name="gt/values", places=Places.BOXES, shape=(9,), dtype="float32")
GT_LABELS = ArraySpec(name="gt/labels", places=Places.BOXES, shape=(), dtype="int64")


class TeacherIdentity(_Frozen):
    """Which teacher spoke.

    Attributes:
        name: For example ``centerpoint_voxel``.
        kind: Modality: ``lidar``, ``camera``, ``fusion``.
        checkpoint_sha256: Of the weights file.
        config: The teacher's resolved configuration.
    """

    name: str
    kind: str
    checkpoint_sha256: Sha256
    config: dict[str, JsonValue]


class DatasetIdentity(_Frozen):
    """On which frames, against which ground truth.

    Attributes:
        name: For example ``nuscenes``.
        version: For example ``v1.0-mini``.
        split: For example ``mini_train``.
        token_hash: ``rows.token_hash`` of the ordered frame tokens.
        ground_truth_filter: What decided which annotations count.
    """

    name: str
    version: str
    split: str
    token_hash: Sha256
    ground_truth_filter: dict[str, JsonValue]


class Fingerprint(_Frozen):
    """Everything that decides a cache's content: two equal ones mean the same cache.

    Attributes:
        format: Of the store on disk.
        teacher: Who spoke.
        dataset: On what.
        grid: Of every map and cell index.
        classes: Names, in the order of labels and heat map channels.
        coverage: Whole maps or places.
        augmentation: ``canonical``: the teacher saw the frames as they are.
        arrays: The targets.
        code_revision: Of this project, as the dump ran.
    """

    format: Literal[1] = FORMAT_VERSION
    teacher: TeacherIdentity
    dataset: DatasetIdentity
    grid: BEVGrid
    classes: tuple[str, ...] = Field(min_length=1)
    coverage: Coverage
    augmentation: Literal["canonical"] = "canonical"
    arrays: tuple[ArraySpec, ...]
    code_revision: str

    @model_validator(mode="after")
    def _arrays_fit_together(self) -> "Fingerprint":
        names = [spec.name for spec in self.arrays]
        if len(set(names)) != len(names):
            raise ValueError(f"an array is listed twice in {names}")
        taken = [name for name in names if name.split("/")[0] in RESERVED_FOLDERS]
        if taken:
            raise ValueError(f"{taken}: the folders {sorted(RESERVED_FOLDERS)} are the store's")
        folders = {str(folder) for name in names for folder in PurePosixPath(name).parents}
        if nested := folders & set(names):
            raise ValueError(f"arrays inside arrays: {sorted(nested)}")
        if sum(spec.value_bytes for spec in self.arrays) > MAX_ROW_BYTES:
            raise ValueError(f"one row has more than {MAX_ROW_BYTES} bytes, which is absurd")
        if any(s.places is Places.CELLS for s in self.arrays) and CELL_INDEX not in names:
            raise ValueError(f"values at cells need the array {CELL_INDEX!r}")
        return self

    @property
    def stored(self) -> tuple[ArraySpec, ...]:
        """The targets, then the ground truth: every array with a digest, in digest order."""
        return (*self.arrays, GT_VALUES, GT_LABELS)

    def mismatches(self, expected: "Fingerprint") -> list[str]:
        """Readable lines such as ``grid.cell_size: found 0.8, expected 1.2``; [] if equal."""
        return list(differences(_by_name(self), _by_name(expected)))


def _by_name(fingerprint: Fingerprint) -> dict[str, Any]:
    document = fingerprint.model_dump(mode="json")
    return document | {"arrays": {spec["name"]: spec for spec in document["arrays"]}}


def differences(found: Any, expected: Any, where: str = "") -> Iterator[str]:
    """Where two JSON documents differ, one readable line for each leaf.

    Args:
        found: What is there.
        expected: What should be.
        where: Dotted path of both inside their documents.

    Yields:
        ``path: found x, expected y``; a side that lacks the key says ``nothing``.
    """
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted(found.keys() | expected.keys()):
            path = f"{where}.{key}" if where else key
            if key not in found:
                yield f"{path}: found nothing, expected {expected[key]!r}"
            elif key not in expected:
                yield f"{path}: found {found[key]!r}, expected nothing"
            else:
                yield from differences(found[key], expected[key], path)
    elif found != expected:
        yield f"{where}: found {found!r}, expected {expected!r}"
