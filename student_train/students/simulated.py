"""SimDistill's camera student, whose LiDAR branch is simulated."""

from collections.abc import Mapping

from torch import Tensor

from frames.boxes import BoxBatch
from frames.detections import Detections
from frames.sensor_input import SensorInput
from nets.bev_detector import BEVMaps
from nets.simulated_fusion import SimulatedFusion, SimulatedFusionConfig
from store.schema import Target
from student_train.methods.base import StudentMaps
from student_train.students.base import Student, StudentOutput


class SimulatedStudentConfig(SimulatedFusionConfig):
    """The network, and what the methods must know of it."""

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


class SimulatedStudent(Student):
    """The detector under the trainer's interface."""

    def __init__(self, config: SimulatedStudentConfig) -> None:
        super().__init__()
        self.network = SimulatedFusion(config)

    def forward(self, seen: SensorInput) -> StudentOutput:
        """See :class:`Student`."""
        maps: BEVMaps = self.network(seen)
        assert maps.bev_lidar is not None, "it has two branches"
        assert maps.bev_camera is not None, "it has two branches"
        features = {
            Target.BEV_LIDAR: maps.bev_lidar,
            Target.BEV_CAMERA: maps.bev_camera,
            Target.BEV_LOW: maps.bev_low,
            Target.BEV_HIGH: maps.bev_high,
        }
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
