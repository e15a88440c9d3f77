"""What a cache may hold: what a teacher says, where, and the arrays that keep it."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    StringConstraints,
    model_validator,
)

from frames.cell_masks import CellMask
from frames.heatmap import CENTER_HEAD
from store.choices import Encoding
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


class ArraySpec(BaseModel):
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

    model_config = ConfigDict(frozen=True, extra="forbid")

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
# In ``boxes/label``: the teacher has no box there. In ``detections/object``: it is of no true box.
NO_BOX = -1
NO_OBJECT = -1
# Detections of a frame that this repository's teachers tell: the queries of BEVDistill's teacher,
# which seems to be STXD's.
MOST_FOUND = 300
