"""LabelDistill's first stage: train a label encoder against a frozen teacher's neck and head."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from frames.boxes import BoxBatch, Boxes3D
from frames.class_balance import class_balanced
from frames.dataset import read_frames
from frames.frame import Frame
from frames.labelled import labelled_frames
from nets.center_loss import CenterLossConfig, center_loss
from nets.label_encoder import LabelEncoder
from runs.checkpoint import TEACHER_SHA256, is_finished, load_checkpoint, save_checkpoint
from runs.fit import Training, fit, seed_run
from runs.folder import claim_folder
from runs.sampler import Example, TrainingData
from teacher_dump.label_config import LabelEncoderRun, require_fit
from teacher_dump.label_decoder import LabelDecoder

CHECKPOINT_NAME = "label_encoder.pt"


class LabelDataset(TrainingData[Boxes3D]):
    """Frames as augmented boxes; the example's position seeds its augmentation."""

    def __init__(self, frames: Sequence[Frame], run: LabelEncoderRun) -> None:
        self.frames = class_balanced(frames, run.fit.seed) if run.fit.class_balanced else frames
        self.run = run

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, example: Example) -> Boxes3D:
        index, position = example
        augment = self.run.augment.draw(np.random.default_rng([self.run.fit.seed, position]))
        return augment.boxes3d(self.frames[index].boxes)

    @staticmethod
    def collate(examples: list[Boxes3D]) -> BoxBatch:
        """One batch."""
        return BoxBatch.pad(examples)


class LabelTraining(Training):
    """The detection loss of what the teacher's head finds in the encoder's maps.

    There is no term that compares these maps with the teacher's (docs/label-encoder.md).
    """

    def __init__(self, run: LabelEncoderRun, decoder: LabelDecoder) -> None:
        super().__init__(run.fit)
        self.loss: CenterLossConfig = run.loss or decoder.config.loss
        self.network = LabelEncoder(run.encoder)
        self.decoder = decoder

    def loss_terms(self, batch: BoxBatch) -> dict[str, Tensor]:
        """See :class:`runs.fit.Training`."""
        maps = self.decoder(self.network(batch))
        return center_loss(maps, batch, self.decoder.config.grid, self.loss)


def train_label_encoder(
    run: LabelEncoderRun, teacher: Path, out_dir: Path, *, resume: bool, device: str
) -> Path:
    """Train, and write ``label_encoder.pt``, which carries the teacher's sha256.

    Args:
        run: What to train on.
        teacher: The ``teacher.pt`` of a CenterPoint.
        out_dir: Of the run.
        resume: Continue an interrupted one.
        device: ``cpu`` or ``cuda``.

    Returns:
        The checkpoint's path.

    Raises:
        ConfigError: The encoder does not fit the teacher, or the folder is another run's.
    """
    checkpoint = load_checkpoint(teacher, "teacher")
    made_for = {TEACHER_SHA256: checkpoint.sha256}
    path, config = out_dir / CHECKPOINT_NAME, run.record()
    if resume and is_finished(path, run, **made_for):
        return path
    decoder = LabelDecoder(checkpoint)
    require_fit(run.encoder, decoder.config)
    frames = labelled_frames(read_frames(run.data))
    data = LabelDataset(frames, run)
    seed_run(run.fit.seed, run.fit.threads)
    training = LabelTraining(run, decoder)
    training.require_rates()
    claim_folder(out_dir, run, resume=resume, notes=made_for)
    fit(training, data, out_dir, resume=resume, device=device, name=run.name)
    notes = {"frames": len(frames), "split": run.data.split, **made_for}
    save_checkpoint(path, "label_encoder", config, training.network, notes)
    return path
