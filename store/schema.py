"""What a cache holds and for what it was made: the fingerprint both stages agree on."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PositiveInt,
    StringConstraints,
    model_validator,
)

from frames.augment import BevAugment, BevAugmentConfig
from frames.cell_masks import CellMask
from frames.grid import BEVGrid
from frames.heatmap import CENTER_HEAD
from store.choices import MAX_VIEWS, Coverage, Encoding
from store.encoding import ChannelAxis

# Those whose payload's number type does not say what it means.
PackedEncoding = Literal[Encoding.BFLOAT16, Encoding.UINT8, Encoding.FLOAT8]

FORMAT_VERSION: Literal[1] = 1
# No teacher's map of one frame comes near it; a larger one is a mistake or an attack.
MAX_VALUE_BYTES = 1 << 28
# Nor do all arrays of one frame.
MAX_ROW_BYTES = 1 << 30
# The nine points of a box have a vector each.
MAX_VALUE_AXES = 2

ITEM_BYTES = {
    "float16": 2,
    "float32": 4,
    "float64": 8,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
}
DTypeName = Literal["float16", "float32", "float64", "int32", "int64", "uint8", "uint16", "uint32"]
ArrayName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+(/[a-z0-9_]+)*$", max_length=128)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
# Folders the store itself uses; a target may not hide in them.
RESERVED_FOLDERS = frozenset({"gt", "index", "offsets", "parts", "rows"})


class Target(StrEnum):
    """What a teacher says of a frame.

    Maps: ``bev_low`` and ``bev_high`` before and after the BEV backbone, ``bev_camera`` and
    ``bev_lidar`` the branches of a fusion teacher, ``stage_0`` and ``stage_1`` the backbone's
    stages at full and half resolution, ``label_0`` and ``label_1`` a label encoder's features at
    the same two, ``heatmap_logit``, ``box_code`` the regression channels before decoding,
    ``anchor_logit`` the class logits of a cell's anchors. ``relation`` are cosines between
    ``bev_high`` at the nine points of a box. ``boxes`` are decoded at each true box, ``anchors``
    at each positive anchor; ``detections`` are the best boxes found, true or not.
    """

    BEV_LOW = "bev_low"
    BEV_HIGH = "bev_high"
    BEV_CAMERA = "bev_camera"
    BEV_LIDAR = "bev_lidar"
    STAGE_0 = "stage_0"
    STAGE_1 = "stage_1"
    LABEL_0 = "label_0"
    LABEL_1 = "label_1"
    HEATMAP_LOGIT = "heatmap_logit"
    BOX_CODE = "box_code"
    ANCHOR_LOGIT = "anchor_logit"
    RELATION = "relation"
    BOXES = "boxes"
    ANCHORS = "anchors"
    DETECTIONS = "detections"


class Places(StrEnum):
    """Where a target is read.

    The whole map; the foreground mask's cells, on the grid or at half its resolution; the nine
    points of each true box; each true box, positive anchor, or detection; or once a row.
    """

    MAP = "map"
    CELLS = "cells"
    COARSE_CELLS = "coarse_cells"
    POINTS = "points"
    BOXES = "boxes"
    ANCHORS = "anchors"
    DETECTIONS = "detections"
    ROWS = "rows"

    @property
    def counted_as(self) -> "Places":
        """Whose number in a row decides how many values there are."""
        return Places.BOXES if self is Places.POINTS else self

    @property
    def index_array(self) -> str:
        """Array that says which cells a row's values belong to."""
        return f"{self}/index"


CELL_PLACES = (Places.CELLS, Places.COARSE_CELLS)
# Where a mask decides how many values there are.
MASKED_PLACES = (*CELL_PLACES, Places.ANCHORS)


FeatureDType = Literal["float32", "float16"]


@dataclass(frozen=True, slots=True)
class Need:
    """One thing a method reads of the cache.

    Attributes:
        target: What.
        places: Where.
        dtype: How exactly: float16 is within 2**-11 of ``max(1, |value|)``, float32 lossless.
        mask: Which cells, where ``places`` are cells; whose anchors, where they are anchors.
        offset: Of which frame: 0 is the row's own, -2 the second key frame before it in its scene.
            Nothing more is stored for it: it is what that frame's own row holds.
    """

    target: Target
    places: Places
    dtype: FeatureDType = "float16"
    mask: CellMask = CENTER_HEAD
    offset: int = 0

    def __post_init__(self) -> None:
        if self.offset > 0:
            raise ValueError(f"{self} has the offset {self.offset}: expected 0, or past frames")

    def __str__(self) -> str:
        return f"{self.target} at {self.places}"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ArraySpec(_Frozen):
    """One array of teacher targets.

    Attributes:
        name: Path inside the store, for example ``boxes/centre``.
        places: What one value belongs to.
        shape: Of one place's value: (C, H, W) for a map, (9, C) for the points of a box, else (C,)
            or ().
        dtype: Stored number type, little-endian.
        max_error: Bound on ``|stored - given| / max(1, |given|)``; 0 means lossless. With ranges it
            is relative to the largest magnitude of the channel in the row.
        encoding: How floats are packed into integers; None where the dtype says it.
    """

    name: ArrayName
    places: Places
    shape: tuple[PositiveInt, ...]
    dtype: DTypeName
    max_error: float = Field(0.0, ge=0, lt=1)
    encoding: PackedEncoding | None = None

    @model_validator(mode="after")
    def _sensible(self) -> "ArraySpec":
        if self.places is Places.MAP and len(self.shape) != 3:
            raise ValueError(f"{self.name}: a map is (C, H, W), found {self.shape}")
        if self.places is not Places.MAP and len(self.shape) > MAX_VALUE_AXES:
            raise ValueError(f"{self.name}: one value is (9, C), (C,) or (), found {self.shape}")
        if self.encoding and (self.dtype != self.encoding.payload_dtype or not self.shape):
            raise ValueError(
                f"{self.name}: {self.encoding} packs vectors and maps into "
                f"{self.encoding.payload_dtype}, found {self.dtype} {self.shape}"
            )
        if self.value_bytes > MAX_VALUE_BYTES:
            raise ValueError(f"{self.name}: {self.value_bytes} bytes a value is absurd")
        return self

    @property
    def value_bytes(self) -> int:
        """Bytes of one place's value, uncompressed."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    @property
    def target(self) -> Target:
        """What of the teacher it holds, where it is a target's only array at its places.

        Raises:
            ValueError: It is a part of a target, such as ``boxes/yaw``.
        """
        return Target(self.name.split("/")[-1])

    @property
    def channel_axis(self) -> ChannelAxis:
        """Axis of the channels in a row's values."""
        return 0 if self.places is Places.MAP else -1

    @property
    def ranges(self) -> "ArraySpec | None":
        """The array that decoding needs beside this one."""
        if self.encoding is None or not self.encoding.has_ranges:
            return None
        channels = self.shape[self.channel_axis]
        return ArraySpec(
            name=f"{self.name}_range", places=Places.ROWS, shape=(channels, 2), dtype="float32"
        )


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
        token_hash: ``rows.token_hash`` of the frame tokens, in order, each once.
        ground_truth_filter: What decided which annotations count.
    """

    name: str
    version: str
    split: str
    token_hash: Sha256
    ground_truth_filter: dict[str, JsonValue]


class DrawnViews(_Frozen):
    """The teacher saw each frame on several drawn BEV augmentations.

    Attributes:
        views: So many; each is a row.
        ranges: What they are drawn from.
        seed: Of the draws.
    """

    views: int = Field(ge=2, le=MAX_VIEWS)
    ranges: BevAugmentConfig
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def _not_all_the_same(self) -> "DrawnViews":
        if self.ranges == BevAugmentConfig():
            raise ValueError("bev_augment is off: all views of a frame would be the same")
        return self

    def draw(self, token: str, view: int) -> BevAugment:
        """The augmentation of one view of a frame; depends on nothing but these and the seed."""
        name = int.from_bytes(hashlib.sha256(token.encode()).digest()[:8])
        return self.ranges.draw(np.random.default_rng([self.seed, name, view]))


# Canonical: one view of each frame, as it is.
Augmentation = Literal["canonical"] | DrawnViews


class Fingerprint(_Frozen):
    """Everything that decides a cache's content: two equal ones mean the same cache.

    Attributes:
        format: Of the store on disk.
        teacher: Who spoke.
        dataset: On what.
        grid: Of every map and cell index.
        classes: Names, in the order of labels and heat map channels.
        coverage: Whole maps or places.
        augmentation: On which views of the frames the teacher spoke.
        masks: Values at cells are those of their union; values at anchors, of the anchor mask.
        arrays: The targets.
        code_revision: Of this project, as the dump ran.
        sources: Manifest hashes of the stores that this one was merged from, in order.
        label_encoder: Checkpoint whose maps ``label_0`` and ``label_1`` are; None without them, and
            in stores from before there were any.
    """

    format: Literal[1] = FORMAT_VERSION
    teacher: TeacherIdentity
    dataset: DatasetIdentity
    grid: BEVGrid
    classes: tuple[str, ...] = Field(min_length=1)
    coverage: Coverage
    augmentation: Augmentation = "canonical"
    masks: tuple[CellMask, ...] = ()
    arrays: tuple[ArraySpec, ...]
    code_revision: str
    sources: tuple[Sha256, ...] = ()
    label_encoder: Sha256 | None = None

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
        named = dict(zip(names, self.arrays, strict=True))
        ranges = {spec.name: spec.ranges for spec in self.arrays if spec.ranges}
        if missing := [name for name, own in ranges.items() if named.get(own.name) != own]:
            raise ValueError(f"the ranges of {missing} are not stored")
        for places in CELL_PLACES:
            if any(s.places is places for s in self.arrays) and places.index_array not in names:
                raise ValueError(f"values at {places} need the array {places.index_array!r}")
        return self

    @property
    def views(self) -> int:
        """Rows of each frame."""
        return 1 if self.augmentation == "canonical" else self.augmentation.views

    @property
    def stored(self) -> tuple[ArraySpec, ...]:
        """The targets, then the ground truth: every array with a digest, in digest order."""
        return (*self.arrays, GT_VALUES, GT_LABELS)

    @property
    def given(self) -> tuple[ArraySpec, ...]:
        """The arrays a teacher's values come in: all but the ranges, which encoding adds."""
        derived = {spec.ranges.name for spec in self.arrays if spec.ranges}
        return tuple(spec for spec in self.arrays if spec.name not in derived)

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
    elif _are_tables(found) and _are_tables(expected) and len(found) == len(expected):
        for index, (theirs, ours) in enumerate(zip(found, expected, strict=True)):
            yield from differences(theirs, ours, f"{where}[{index}]")
    elif found != expected:
        yield f"{where}: found {found!r}, expected {expected!r}"


def _are_tables(value: Any) -> bool:
    """Lists of plain values are told whole."""
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)
