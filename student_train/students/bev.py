"""UniDistill's detector as a student: the same network as its teachers, of any kind."""

from collections.abc import Mapping

from torch import Tensor

from frames.boxes import BoxBatch
from frames.detections import Detections
from frames.sensor_input import SensorInput
from nets.bev_detector import BEVDetector, BEVDetectorConfig, BEVMaps
from store.schema import Target
from student_train.methods.base import StudentMaps
from student_train.students.base import Student, StudentOutput


class BEVStudentConfig(BEVDetectorConfig):
    """The network, and what the methods must know of it."""

    @property
    def channels(self) -> Mapping[Target, int]:
        """Channels of the BEV maps that methods may read."""
        return {
            Target.BEV_LOW: self.backbone.in_channels,
            Target.BEV_HIGH: self.backbone.out_channels,
        }

    @property
    def anchors(self) -> None:
        """Its head has none."""


class BEVStudent(Student):
    """The detector under the trainer's interface."""

    def __init__(self, config: BEVStudentConfig) -> None:
        super().__init__()
        self.network = BEVDetector(config)

    def forward(self, seen: SensorInput) -> StudentOutput:
        """See :class:`Student`."""
        maps: BEVMaps = self.network(seen)
        features = {Target.BEV_LOW: maps.bev_low, Target.BEV_HIGH: maps.bev_high}
        return StudentOutput(StudentMaps(features, maps.head), maps.depth_logit)

    def detection_terms(self, output: StudentOutput, boxes: BoxBatch) -> dict[str, Tensor]:
        """See :class:`Student`."""
        return self.network.detection_terms(output.maps.center, boxes)

    def auxiliary_terms(
        self, output: StudentOutput, seen: SensorInput, _boxes: BoxBatch
    ) -> dict[str, Tensor]:
        """See :class:`Student`."""
        return self.network.depth_terms(output.depth_logit, seen)

    def detections(self, output: StudentOutput) -> list[Detections]:
        """See :class:`Student`."""
        return self.network.detections(output.maps.center)
