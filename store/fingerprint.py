"""What a cache holds and for what it was made: the fingerprint both stages agree on."""

import hashlib
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from frames.augment import BevAugment, BevAugmentConfig
from frames.cell_masks import CellMask
from frames.grid import BEVGrid
from store.choices import MAX_VIEWS, Coverage
from store.differences import differences
from store.schema import (
    CELL_PLACES,
    FORMAT_VERSION,
    GT_LABELS,
    GT_VALUES,
    MAX_ROW_BYTES,
    ArraySpec,
    Sha256,
)

# Folders the store itself uses; a target may not hide in them.
RESERVED_FOLDERS = frozenset({"gt", "index", "offsets", "parts", "rows"})


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


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
