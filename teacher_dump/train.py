"""Train a LiDAR teacher on augmented points."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frames.boxes import BoxBatch, Boxes3D
from frames.dataset import read_frames
from frames.frame import Frame
from frames.loading import check_point_files, load_points
from nets.center_loss import center_loss
from runs.checkpoint import is_finished, save_checkpoint
from runs.fit import Training, fit, seed_run
from runs.folder import claim_folder
from runs.sampler import Example, TrainingData
from teacher_dump.centerpoint import CenterPoint
from teacher_dump.config import TeacherRun

CHECKPOINT_NAME = "teacher.pt"


@dataclass(frozen=True, slots=True)
class PointBatch:
    """Clouds, one tensor (n, 5) a frame, and their ground truth, in one augmented ego frame."""

    points: list[Tensor]
    boxes: BoxBatch


class PointDataset(TrainingData[tuple[Tensor, Boxes3D]]):
    """Frames as augmented clouds and boxes; the example's position seeds its augmentation."""

    def __init__(self, frames: Sequence[Frame], run: TeacherRun) -> None:
        self.frames, self.run = frames, run

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, example: Example) -> tuple[Tensor, Boxes3D]:
        index, position = example
        frame = self.frames[index]
        augment = self.run.augment.draw(np.random.default_rng([self.run.fit.seed, position]))
        return augment.points(load_points(frame)), augment.boxes3d(frame.boxes)

    @staticmethod
    def collate(examples: list[tuple[Tensor, Boxes3D]]) -> PointBatch:
        """One batch."""
        points, boxes = zip(*examples, strict=True)
        return PointBatch(list(points), BoxBatch.pad(list(boxes)))


class TeacherTraining(Training):
    """CenterPoint under its detection loss."""

    def __init__(self, run: TeacherRun) -> None:
        super().__init__(run.fit)
        self.network = CenterPoint(run.teacher)

    def loss_terms(self, batch: PointBatch) -> dict[str, Tensor]:
        """Heatmap and box terms."""
        config = self.network.config
        maps = self.network(batch.points)
        return center_loss(maps.head, batch.boxes, config.grid, config.loss)

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, _dataloader_idx: int
    ) -> Any:
        """Move clouds and boxes."""
        points = [cloud.to(device, non_blocking=True) for cloud in batch.points]
        return PointBatch(points, batch.boxes.to(device))


def train_teacher(run: TeacherRun, out_dir: Path, *, resume: bool, device: str) -> Path:
    """Train, and write ``teacher.pt``.

    Returns:
        The checkpoint's path.
    """
    path, config = out_dir / CHECKPOINT_NAME, run.model_dump(mode="json")
    if resume and is_finished(path, config):
        return path
    frames = read_frames(run.data)
    check_point_files(frames)
    claim_folder(out_dir, config, resume=resume)
    seed_run(run.fit.seed, run.fit.threads)
    training = TeacherTraining(run)
    data = PointDataset(frames, run)
    fit(training, data, out_dir, resume=resume, device=device, name=run.name)
    notes = {"frames": len(frames), "split": run.data.split}
    save_checkpoint(path, "teacher", config, training.network, notes)
    return path
