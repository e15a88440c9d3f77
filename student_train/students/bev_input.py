"""Reads what UniDistill's detector sees as a student: points, images or both."""

from collections.abc import Sequence

import numpy as np

from frames.augment import BevAugment
from frames.frame import Frame
from frames.sensor_input import SensorInput, SensorReader
from student_train.students.base import Reader


class BEVReader(Reader):
    """The reader that teachers have, under the trainer's interface."""

    def __init__(self, sensors: SensorReader) -> None:
        self.sensors = sensors

    def check(self, frames: Sequence[Frame], *, training: bool) -> None:
        """See :class:`Reader`."""
        self.sensors.check(frames, training=training)

    def read(
        self, frame: Frame, augment: BevAugment, rng: np.random.Generator | None
    ) -> SensorInput:
        """See :class:`Reader`."""
        return self.sensors.read(frame, augment, rng)
