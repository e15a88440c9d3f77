"""Train a teacher on augmented frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from frames.boxes import BoxBatch, Boxes3D
from frames.class_balance import class_balanced
from frames.dataset import read_frames
from frames.frame import Frame
from frames.labelled import labelled_frames
from frames.sensor_input import SensorInput
from nets.anchor_loss import detection_loss
from nets.bev_detector import BEVDetector, BEVDetectorConfig
from nets.bevfusion import BEVFusion, BEVFusionConfig
from nets.center_loss import center_loss
from nets.centerpoint import CenterPoint, CenterPointConfig
from nets.voxelize import voxelize
from runs.checkpoint import is_finished, save_checkpoint
from runs.fit import FitConfig, Training, fit, seed_run
from runs.folder import claim_folder
from runs.sampler import Example, TrainingData
from teacher_dump.bev_teacher import bev_network
from teacher_dump.config import TeacherRun
from teacher_dump.second_teacher_config import SecondTeacherConfig

CHECKPOINT_NAME = "teacher.pt"


@dataclass(frozen=True, slots=True)
class TeacherBatch:
    """What is seen and its ground truth, in one augmented ego frame."""

    seen: SensorInput
    boxes: BoxBatch

    def to(self, device: torch.device) -> "TeacherBatch":
        """The same batch on another device."""
        return TeacherBatch(self.seen.to(device), self.boxes.to(device))


class TeacherDataset(TrainingData[tuple[SensorInput, Boxes3D]]):
    """Augmented frames; the example's position seeds its augmentation."""

    def __init__(self, frames: Sequence[Frame], run: TeacherRun) -> None:
        self.frames = class_balanced(frames, run.fit.seed) if run.fit.class_balanced else frames
        self.run, self.reader = run, run.reader

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, example: Example) -> tuple[SensorInput, Boxes3D]:
        index, position = example
        frame = self.frames[index]
        rng = np.random.default_rng([self.run.fit.seed, position])
        augment = self.run.augment.draw(rng)
        return self.reader.read(frame, augment, rng), augment.boxes3d(frame.boxes)

    @staticmethod
    def collate(examples: list[tuple[SensorInput, Boxes3D]]) -> TeacherBatch:
        """One batch."""
        seen, boxes = zip(*examples, strict=True)
        return TeacherBatch(SensorInput.stack(seen), BoxBatch.pad(list(boxes)))


class TeacherTraining(Training):
    """A teacher under its detection loss."""

    network: nn.Module


class CenterPointTraining(TeacherTraining):
    """CenterPoint: heatmap and box terms."""

    def __init__(self, config: CenterPointConfig, fit_config: FitConfig) -> None:
        super().__init__(fit_config)
        self.config = config
        self.network = CenterPoint(config)

    def loss_terms(self, batch: TeacherBatch) -> dict[str, Tensor]:
        """See :class:`runs.fit.Training`."""
        maps = self.network(points_of(batch))
        return center_loss(maps.head, batch.boxes, self.config.grid, self.config.loss)


class SecondTraining(TeacherTraining):
    """SECOND: class, box, IoU and direction terms."""

    def __init__(self, config: SecondTeacherConfig, fit_config: FitConfig) -> None:
        super().__init__(fit_config)
        # Here, for spconv takes seconds to import and other teachers need none of it.
        from nets.second import Second

        self.config = config
        self.network = Second(config)

    def loss_terms(self, batch: TeacherBatch) -> dict[str, Tensor]:
        """See :class:`runs.fit.Training`."""
        points = [cloud[:, : self.config.in_channels] for cloud in points_of(batch)]
        maps = self.network(voxelize(points, self.config.voxels)).bev
        return detection_loss(
            maps.anchors, batch.boxes, self.config.bev.anchors, maps.table, self.config.loss
        )


class BEVTraining(TeacherTraining):
    """UniDistill's detector or BEVFusion: its head's terms and, where it is taught, depth."""

    network: BEVDetector | BEVFusion

    def __init__(self, config: BEVDetectorConfig | BEVFusionConfig, fit_config: FitConfig) -> None:
        super().__init__(fit_config)
        self.network = bev_network(config)

    def loss_terms(self, batch: TeacherBatch) -> dict[str, Tensor]:
        """See :class:`runs.fit.Training`."""
        maps = self.network(batch.seen)
        detection = self.network.detection_terms(maps.head, batch.boxes)
        return detection | self.network.depth_terms(maps.depth_logit, batch.seen)


def points_of(batch: TeacherBatch) -> list[Tensor]:
    """The clouds of a LiDAR teacher's batch."""
    assert batch.seen.points is not None, "its reader reads points"
    return list(batch.seen.points)


def teacher_training(run: TeacherRun) -> TeacherTraining:
    """The training of the run's network."""
    if isinstance(run.teacher, CenterPointConfig):
        return CenterPointTraining(run.teacher, run.fit)
    if isinstance(run.teacher, BEVDetectorConfig | BEVFusionConfig):
        return BEVTraining(run.teacher, run.fit)
    return SecondTraining(run.teacher, run.fit)


def train_teacher(run: TeacherRun, out_dir: Path, *, resume: bool, device: str) -> Path:
    """Train on the frames that are labelled, and write ``teacher.pt``.

    Returns:
        The checkpoint's path.
    """
    path, config = out_dir / CHECKPOINT_NAME, run.record()
    if resume and is_finished(path, run):
        return path
    frames = labelled_frames(read_frames(run.data))
    run.reader.check(frames, training=True)
    data = TeacherDataset(frames, run)
    seed_run(run.fit.seed, run.fit.threads)
    training = teacher_training(run)
    training.require_rates()
    claim_folder(out_dir, run, resume=resume)
    fit(training, data, out_dir, resume=resume, device=device, name=run.name)
    notes = {"frames": len(frames), "split": run.data.split}
    save_checkpoint(path, "teacher", config, training.network, notes)
    return path
