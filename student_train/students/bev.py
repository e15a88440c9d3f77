"""Detectors that give all their BEV maps, as students: UniDistill's and SimDistill's."""

from collections.abc import Mapping

from torch import Tensor

from frames.boxes import BoxBatch
from frames.detections import Detections
from frames.sensor_input import SensorInput
from nets.bev_detector import BEVDetector, BEVDetectorConfig, BEVMaps
from nets.simulated_fusion import SimulatedFusion, SimulatedFusionConfig
from store.schema import Target
from student_train.methods.base import StudentMaps
from student_train.students.base import Student, StudentOutput


class BEVStudentConfig(BEVDetectorConfig):
    """UniDistill's network, that of its teachers, and what the methods must know of it."""

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


class SimulatedStudentConfig(SimulatedFusionConfig):
    """SimDistill's camera network, and what the methods must know of it."""

    @property
    def channels(self) -> Mapping[Target, int]:
        """Channels of the BEV maps that methods may read: of both branches, too."""
        return {
            Target.BEV_LIDAR: self.lift.out_channels,
            Target.BEV_CAMERA: self.lift.out_channels,
            Target.BEV_LOW: self.low_channels,
            Target.BEV_HIGH: self.high_channels,
        }

    @property
    def anchors(self) -> None:
        """Its head has none."""


class BEVStudent(Student):
    """Either detector under the trainer's interface."""

    def __init__(self, config: BEVStudentConfig | SimulatedStudentConfig) -> None:
        super().__init__()
        self.channels = config.channels
        self.network = (
            BEVDetector(config) if isinstance(config, BEVStudentConfig) else SimulatedFusion(config)
        )

    def forward(self, seen: SensorInput) -> StudentOutput:
        """See :class:`Student`."""
        maps: BEVMaps = self.network(seen)
        # The maps have their targets' names.
        features = {target: getattr(maps, target) for target in self.channels}
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
