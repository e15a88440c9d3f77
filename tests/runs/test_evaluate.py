"""Detections of many frames, and their pictures."""

from tests.tiny import GRID, student_run  # noqa: F401
