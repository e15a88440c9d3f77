"""What a multi-camera student of a test sees, with its type."""

from student_train.data import StudentBatch, StudentExample
from student_train.students.camera_input import CameraInput


def seen(of: StudentExample | StudentBatch) -> CameraInput:
    assert isinstance(of.seen, CameraInput)
    return of.seen
