"""What a multi-camera student of a test sees, with its type."""

from frames.camera_input import CameraInput
from student_train.data import StudentBatch, StudentExample


def seen(of: StudentExample | StudentBatch) -> CameraInput:
    assert isinstance(of.seen, CameraInput)
    return of.seen
