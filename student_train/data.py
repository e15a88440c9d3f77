"""Frames as a multi-camera student reads them: images, geometry, ground truth, teacher targets."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from frames.augment import BevAugment
from frames.boxes import BoxBatch, Boxes3D
from frames.depth_map import depth_targets
from frames.errors import DataError
from frames.frame import Frame
from frames.loading import load_images, load_points
from nets.camera_geometry import CameraGeometry
from runs.sampler import Blocks, Example, TrainingData
from store.plan import arrays_read
from store.reader import Cache
from store.rows import CachedRow
from store.schema import Need
from student_train.config import StudentRun
from student_train.methods.base import TeacherTargets
from student_train.targets import FrameTargets, frame_targets, pad_targets


@dataclass(frozen=True, slots=True)
class CameraInput:
    """Images, augmented, RGB, and where they look."""

    images: UInt8[Tensor, "b v 3 h w"]
    geometry: CameraGeometry

    @classmethod
    def stack(cls, frames: Sequence["CameraInput"]) -> "CameraInput":
        """One batch of batches."""
        geometry = {
            name: torch.cat([getattr(frame.geometry, name) for frame in frames])
            for name in CameraGeometry.__dataclass_fields__
        }
        return cls(torch.cat([frame.images for frame in frames]), CameraGeometry(**geometry))

    def to(self, device: torch.device) -> "CameraInput":
        """The same on another device."""
        return CameraInput(self.images.to(device, non_blocking=True), self.geometry.to(device))


@dataclass(frozen=True, slots=True)
class StudentExample:
    """One training frame; everything in the same augmented ego frame."""

    cameras: CameraInput
    boxes: Boxes3D
    targets: FrameTargets
    depth: Float32[Tensor, "v h w"] | None


@dataclass(frozen=True, slots=True)
class StudentBatch:
    """Several training frames; depth in metres at the image features' stride, 0 = unknown."""

    cameras: CameraInput
    boxes: BoxBatch
    targets: TeacherTargets
    depth: Float32[Tensor, "b v h w"] | None

    def to(self, device: torch.device) -> "StudentBatch":
        """The same batch on another device."""
        depth = None if self.depth is None else self.depth.to(device)
        return StudentBatch(
            self.cameras.to(device), self.boxes.to(device), self.targets.to(device), depth
        )


class StudentDataset(TrainingData[StudentExample]):
    """Training frames; an example's position seeds its augmentation.

    LiDAR files are opened only if the student's config asks for depth supervision.

    Args:
        frames: All with the same cameras.
        run: Augmentation, image size, depth supervision.
        cache: Teacher targets; None without a method.
        needs: What the methods read of it.
    """

    def __init__(
        self, frames: Sequence[Frame], run: StudentRun, cache: Cache | None, needs: Collection[Need]
    ) -> None:
        self.frames, self.run, self.needs = frames, run, frozenset(needs)
        read = arrays_read(needs, cache.fingerprint.arrays) if cache else ()
        self.cache = cache.only(read) if cache else None

    @property
    def blocks(self) -> Blocks | None:
        """The shards of a dense cache behind a URL."""
        if self.cache is None:
            return None
        shards = self.cache.shards(frame.token for frame in self.frames)
        return None if shards is None else Blocks(shards, self._fetch_frames)

    def fetch(self, rows: Iterable[tuple[int, int]]) -> None:
        """Bring what the cache holds of these frames, by index and view, near."""
        if self.cache is not None:
            self.cache.fetch((self.frames[index].token, view) for index, view in rows)

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
        augment, targets = self._seen(frame, rng)
        cameras = camera_input(frame, self.run, augment, rng)
        return StudentExample(
            cameras, augment.boxes3d(frame.boxes), targets, self._depth(frame, cameras)
        )

    def _chance(self, position: int) -> np.random.Generator:
        return np.random.default_rng([self.run.fit.seed, position])

    def _view(self, rng: np.random.Generator) -> int:
        """Which of a frame's views an example has: the first thing drawn for it."""
        views = self.cache.views if self.cache else 1
        return int(rng.integers(views)) if views > 1 else 0

    def _seen(self, frame: Frame, rng: np.random.Generator) -> tuple[BevAugment, FrameTargets]:
        """An augmentation, and the targets in it: a stored view, or the canonical one carried."""
        if self.cache is None:
            return self.run.bev_augment.draw(rng), FrameTargets()
        if self.cache.views > 1:
            row = self.cache.row(frame.token, self._view(rng))
            augment, carried = row.augment, BevAugment.identity()
        else:
            row = self.cache[frame.token]
            augment = carried = self.run.bev_augment.draw(rng)
        self._check_truth(frame, row)
        return augment, frame_targets(row, self.needs, self.run.student.grid, carried)

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

    def _depth(self, frame: Frame, cameras: CameraInput) -> Tensor | None:
        if self.run.student.depth_loss_weight == 0:
            return None
        # As BEVDepth: the key sweep only; moving objects smear in older ones.
        key_sweep = replace(frame, sweeps=frame.sweeps[:1])
        return depth_targets(
            load_points(key_sweep)[:, :3],
            frame.cameras,
            cameras.geometry.augmented_from_image[0],
            image_size=self.run.image_augment.out_size,
            stride=self.run.student.depth.stride,
        )

    @staticmethod
    def collate(examples: list[StudentExample]) -> StudentBatch:
        """One batch."""
        depths = [example.depth for example in examples if example.depth is not None]
        return StudentBatch(
            CameraInput.stack([example.cameras for example in examples]),
            BoxBatch.pad([example.boxes for example in examples]),
            pad_targets([example.targets for example in examples]),
            torch.stack(depths) if depths else None,
        )


def camera_input(
    frame: Frame, run: StudentRun, augment: BevAugment, rng: np.random.Generator | None
) -> CameraInput:
    """One frame's images; augmented at random if a generator is given, else as in testing."""
    chance = rng or np.random.default_rng(0)
    draws = [
        run.image_augment.draw(chance, camera.size, training=rng is not None)
        for camera in frame.cameras
    ]
    images = [draw.apply(image) for draw, image in zip(draws, load_images(frame), strict=True)]
    poses = np.stack([camera.ego_from_cam.matrix for camera in frame.cameras])
    intrinsics = np.stack([camera.image_from_cam for camera in frame.cameras])
    geometry = CameraGeometry(
        image_from_cam=torch.from_numpy(intrinsics).float()[None],
        augmented_from_image=torch.stack([draw.matrix for draw in draws])[None],
        ego_from_cam=torch.from_numpy(poses).float()[None],
        augmented_from_ego=augment.matrix4[None],
    )
    return CameraInput(torch.stack(images)[None], geometry)


def check_cameras(frames: Sequence[Frame], names: Sequence[str]) -> None:
    """Refuse frames that lack a camera the student looks through.

    Raises:
        DataError: Naming the first such frame.
    """
    for frame in frames:
        missing = sorted(set(names) - {camera.name for camera in frame.cameras})
        if missing:
            lacking = sum(len(f.cameras) < len(names) for f in frames)
            raise DataError(
                f"frame {frame.token} lacks {', '.join(missing)} ({lacking} of {len(frames)} "
                "frames lack a camera): choose a split whose frames have them, or list in "
                "data.cameras the cameras to use"
            )
