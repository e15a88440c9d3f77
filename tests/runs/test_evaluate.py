"""Detections of many frames, and their pictures."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from frames.dataset import read_frames
from frames.detection_classes import DETECTION_CLASSES
from frames.detections import Detections
from frames.errors import DataError
from frames.frame import Frame
from frames.grid import BEVGrid
from runs.evaluate import COLOURS, detect_all, draw_pictures, spread_evenly
from tests.tiny import student_run

GRID = BEVGrid(x_min=-38.4, y_min=-38.4, cell_size=4.8, shape=(16, 16))


@pytest.fixture
def frames(world: Path, tmp_path: Path) -> list[Frame]:
    return read_frames(student_run(tmp_path, world).data)


def without_points(frame: Frame, folder: Path) -> Frame:
    sweeps = [replace(sweep, path=folder / sweep.path.name) for sweep in frame.sweeps]
    return replace(frame, sweeps=tuple(sweeps))


def one_box(score: float, x: float = 10.0) -> Detections:
    box = torch.tensor([[float(x), 0, 1, 8, 4, 2, 0, 0, 0]])
    return Detections(box, torch.tensor([1]), torch.tensor([score]))


def shows(picture: Path, colour: str) -> int:
    """Pixels of about this colour."""
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return int((np.abs(pixels - ImageColor.getrgb(colour)[:3]).max(axis=2) < 12).sum())


def test_every_frame_is_detected_once(frames: list[Frame]):
    batches: list[int] = []

    def detect(batch: Sequence[Frame]) -> list[Detections]:
        return [one_box(frames.index(frame) / 10) for frame in batch]

    found = detect_all(detect, frames, batch_size=2, on_frames=batches.append)
    assert batches == [2, 1]
    assert list(found) == [frame.token for frame in frames]
    assert [float(found[frame.token].scores) for frame in frames] == pytest.approx([0, 0.1, 0.2])


def test_a_detector_must_answer_for_every_frame(frames: list[Frame]):
    with pytest.raises(ValueError, match="shorter"):
        detect_all(lambda _: [one_box(1.0)], frames)


def test_frames_are_spread_evenly(frames: list[Frame]):
    """Of ten in three thirds, the middles: 10/6, 30/6 and 50/6."""
    ten = [replace(frames[0], token=str(k)) for k in range(10)]
    assert [frame.token for frame in spread_evenly(ten, 3)] == ["1", "5", "8"]
    assert spread_evenly(ten, 1) == [ten[5]]
    assert spread_evenly(ten, 20) == ten
    assert spread_evenly(ten, 0) == spread_evenly([], 3) == []


def test_pictures_show_every_detector_and_hide_what_is_unsure(frames: list[Frame], tmp_path: Path):
    frame = frames[0]
    seen = {}
    for score in (1.0, 0.1):
        found = {
            "teacher": {frame.token: one_box(score, x=10)},
            "student": {frame.token: one_box(score, x=-10)},
        }
        (path,) = draw_pictures([frame], found, GRID, tmp_path / str(score), DETECTION_CLASSES)
        assert path.name == f"{frame.token}.png"
        seen[score] = {name: shows(path, colour) for name, colour in COLOURS.items()}
    assert seen[1.0]["ground truth"] > 300
    for name in ("teacher", "student"):
        # Without a box its entry in the legend is left.
        assert seen[1.0][name] > seen[0.1][name] + 60 > 60, name


def test_pictures_need_no_lidar_file(frames: list[Frame], tmp_path: Path):
    frame = frames[1]
    blind = without_points(frame, tmp_path)
    found = {"student": {frame.token: one_box(0.9)}}
    (with_points,) = draw_pictures([frame], found, GRID, tmp_path / "with", DETECTION_CLASSES)
    (without,) = draw_pictures([blind], found, GRID, tmp_path / "without", DETECTION_CLASSES)
    with Image.open(with_points) as a, Image.open(without) as b:
        assert a.size == b.size
        difference = np.abs(np.asarray(a.convert("RGB")).astype(int) - np.asarray(b.convert("RGB")))
    # Points are on the plane at the right; the cameras at the left are the same.
    width = difference.shape[1]
    assert difference[:, : width // 2].max() == 0
    assert (difference[:, width // 2 :].max(axis=2) > 50).sum() > 200


def test_a_damaged_lidar_file_is_an_error_not_an_empty_picture(frames: list[Frame], tmp_path: Path):
    broken = without_points(frames[1], tmp_path)
    for sweep in broken.sweeps:
        sweep.path.write_bytes(b"123")
    with pytest.raises(DataError, match="3 bytes, not a positive multiple of 20"):
        draw_pictures([broken], {}, GRID, tmp_path / "pictures", DETECTION_CLASSES)
