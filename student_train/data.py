"""Frames as a student reads them: its input, ground truth, teacher targets."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from frames.augment import BevAugment
from frames.boxes import BoxBatch, Boxes3D
from frames.class_balance import class_balanced
from frames.errors import DataError
from frames.frame import Frame
from frames.labelled import labelled_frames
from runs.sampler import Blocks, Example, TrainingData
from store.plan import arrays_read
from store.reader import Cache
from store.rows import CachedRow
from store.schema import Need
from student_train.config import StudentRun
from student_train.methods.base import TeacherTargets
from student_train.past_rows import PastRows
from student_train.students.base import StudentInput
from student_train.targets import FrameTargets, frame_targets, pad_targets


@dataclass(frozen=True, slots=True)
class StudentExample:
    """One training frame; everything in the same augmented ego frame.

    Attributes:
        seen: What the student looks at.
        boxes: Ground truth; without labels the teacher's detections in the cache, or none.
        targets: Of the teacher.
        supervised: Whether these boxes are taught; of a batch it stays on the CPU.
    """

    seen: StudentInput
    boxes: Boxes3D
    targets: FrameTargets
    supervised: bool = True


@dataclass(frozen=True, slots=True)
class StudentBatch:
    """Several training frames; see :class:`StudentExample`."""

    seen: StudentInput
    boxes: BoxBatch
    targets: TeacherTargets
    supervised: Bool[Tensor, " b"]

    def to(self, device: torch.device) -> "StudentBatch":
        """The same batch on another device."""
        return StudentBatch(
            self.seen.to(device),
            self.boxes.to(device),
            self.targets.to(device),
            self.supervised,
        )


class StudentDataset(TrainingData[StudentExample]):
    """Training frames; an example's position seeds its augmentation.

    LiDAR files are opened only if the student's config asks for depth supervision.

    Args:
        frames: All with the same cameras.
        run: Augmentation, and who reads.
        cache: Teacher targets; None without a method.
        needs: What the methods read of it.

    Raises:
        DataError: The cache lacks past frames that a method reads.
    """

    def __init__(
        self, frames: Sequence[Frame], run: StudentRun, cache: Cache | None, needs: Collection[Need]
    ) -> None:
        self.run, self.needs = run, frozenset(needs)
        self.frames = labelled_frames(frames) if run.unlabelled == "leave_out" else frames
        if run.fit.class_balanced:
            self.frames = class_balanced(self.frames, run.fit.seed)
        self.reader = run.reader.among(frames)
        own = [need for need in needs if not need.offset]
        read = arrays_read(own, cache.fingerprint.arrays) if cache else ()
        self.cache = cache.only(read) if cache else None
        self.past: PastRows | None = None
        if cache is not None and len(own) < len(self.needs):
            self.past = PastRows(cache, self.needs, frames, run.student.grid)

    @property
    def blocks(self) -> Blocks | None:
        """The shards of a dense cache behind a URL."""
        if self.cache is None:
            return None
        shards = self.cache.shards(frame.token for frame in self.frames)
        return None if shards is None else Blocks(shards, self._fetch_frames)

    def fetch(self, rows: Iterable[tuple[int, int]]) -> None:
        """Bring what the cache holds of these frames, by index and view, near."""
        if self.cache is None:
            return
        wanted = [(self.frames[index].token, view) for index, view in rows]
        self.cache.fetch(wanted)
        if self.past is not None:
            self.past.fetch(wanted)

    def _fetch_frames(self, indices: Sequence[int]) -> None:
        views = self.cache.views if self.cache else 0
        self.fetch(product(indices, range(views)))

    def __len__(self) -> int:
        return len(self.frames)

    def __getitems__(self, examples: Sequence[Example]) -> list[StudentExample]:
        """Several examples; their cached rows are fetched together."""
        self.fetch((index, self._view(self._chance(position))) for index, position in examples)
        return [self[example] for example in examples]

    def __getitem__(self, example: Example) -> StudentExample:
        index, position = example
        frame = self.frames[index]
        rng = self._chance(position)
        augment, boxes, targets = self._seen(frame, rng)
        seen = self.reader.read(frame, augment, rng)
        supervised = not frame.unlabelled or self.run.unlabelled == "pseudo_labels"
        return StudentExample(seen, boxes, targets, supervised)

    def _chance(self, position: int) -> np.random.Generator:
        return np.random.default_rng([self.run.fit.seed, position])

    def _view(self, rng: np.random.Generator) -> int:
        """Which of a frame's views an example has: the first thing drawn for it."""
        views = self.cache.views if self.cache else 1
        return int(rng.integers(views)) if views > 1 else 0

    def _seen(
        self, frame: Frame, rng: np.random.Generator
    ) -> tuple[BevAugment, Boxes3D, FrameTargets]:
        """An augmentation, and boxes and targets in it: a stored view's, or canonical ones."""
        if self.cache is None:
            augment = self.run.bev_augment.draw(rng)
            return augment, augment.boxes3d(frame.boxes), FrameTargets()
        if self.cache.views > 1:
            row = self.cache.row(frame.token, self._view(rng))
            augment, carried = row.augment, BevAugment.identity()
        else:
            row = self.cache[frame.token]
            augment = carried = self.run.bev_augment.draw(rng)
        targets = frame_targets(row, self.needs, self.run.student.grid, carried)
        if self.past is not None:
            targets = replace(targets, past=self.past.targets(frame.token, row.view))
        if frame.unlabelled:
            return augment, carried.boxes3d(row.gt), targets
        self._check_truth(frame, row)
        return augment, augment.boxes3d(frame.boxes), targets

    @staticmethod
    def _check_truth(frame: Frame, row: CachedRow) -> None:
        own = row.augment.boxes3d(frame.boxes)
        same = torch.equal(row.gt.labels, own.labels) and torch.allclose(
            row.gt.values, own.values, atol=1e-4
        )
        if not same:
            raise DataError(
                f"frame {frame.token}: the cache was dumped with {len(row.gt)} ground-truth boxes, "
                f"the data set now gives {len(frame.boxes)} (or they moved): dump it again from "
                "these annotations"
            )

    @staticmethod
    def collate(examples: list[StudentExample]) -> StudentBatch:
        """One batch."""
        seen = [example.seen for example in examples]
        return StudentBatch(
            seen[0].stack(seen),
            BoxBatch.pad([example.boxes for example in examples]),
            pad_targets([example.targets for example in examples]),
            torch.tensor([example.supervised for example in examples]),
        )
