"""What a multi-camera student of a test sees, with its type."""

from frames.camera_input import CameraInput
from frames.sensor_input import SensorInput
from student_train.data import StudentBatch, StudentExample
from student_train.students.base import StudentInput


def images(of: StudentInput) -> CameraInput:
    assert isinstance(of, SensorInput)
    assert of.cameras is not None
    return of.cameras


def seen(of: StudentExample | StudentBatch) -> CameraInput:
    return images(of.seen)


def alone(cameras: CameraInput) -> SensorInput:
    """As a student without points sees it."""
    return SensorInput(points=None, cameras=cameras)
