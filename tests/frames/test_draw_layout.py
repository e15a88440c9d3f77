"""Where a picture's parts stand: one image, a pair, more; a plane that reaches forward only."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from frames.draw import INK, Layer, draw_frame
from frames.grid import BEVGrid
from frames.kitti.config import KittiCamera, KittiConfig
from frames.kitti.reader import KittiFrame, read_frames
from tests.frames.kitti.tiny_kitti import write_tiny

# From 2 m before the car to 59.6 m, 30.4 m to each side: the plane shows 61.6 m x 60.8 m.
AHEAD = BEVGrid(x_min=2.0, y_min=-30.4, cell_size=1.6, shape=(38, 36))
GREEN, RED = "#00ff00", "#ff0000"
BOX = torch.tensor([[20.0, 10, 0, 4, 2, 2, 0, 0, 0]])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("kitti"))


def frame(root: Path, *cameras: KittiCamera) -> KittiFrame:
    return read_frames(KittiConfig(root=root, split="000003", cameras=cameras))[0]


def picture(frame: KittiFrame, path: Path, name: str = "") -> np.ndarray:
    """Colours of a picture of one box in two layers."""
    names = (name,) if name else ()
    layers = [Layer(name="x", colour=colour, boxes=BOX, names=names) for colour in (GREEN, RED)]
    draw_frame(frame, path, points=torch.zeros(0, 5), layers=layers, grid=AHEAD)
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def centre(shown: np.ndarray, colour: str, right_of: float = 0) -> tuple[float, float]:
    """Mean (row, column) of a colour right of a column, all as shares of the picture."""
    match = (np.abs(shown - ImageColor.getrgb(colour)[:3]) < 25).all(-1)
    match[:, : int(right_of * shown.shape[1])] = False
    rows, columns = np.nonzero(match)
    return float(rows.mean() / shown.shape[0]), float(columns.mean() / shown.shape[1])


def test_a_pair_is_stacked_beside_the_plane(root: Path, tmp_path: Path):
    """Images of 30 square inches, 2 : 1, are 7.746 x 3.873; the sheet is 15.63 x 8.45."""
    shown = picture(frame(root, "image_2", "image_3"), tmp_path / "pair.png")
    assert shown.shape[:2] == pytest.approx((8.446 * 120, 15.63 * 120), abs=2)
    assert centre(shown, "#c81e3c") == pytest.approx((0.267, 0.252), abs=0.02)
    assert centre(shown, "#3c1ec8") == pytest.approx((0.733, 0.252), abs=0.02)


def test_the_plane_shows_the_car_and_what_is_ahead(root: Path, tmp_path: Path):
    """The car's mark reaches from -1 m to 3.2 m, so its middle is at 0.4 m; the box is left."""
    shown = picture(frame(root, "image_2", "image_3"), tmp_path / "pair.png")
    inch = 7.806 / 61.6
    row = (0.32 + 7.806 - (2 + 0.4) * inch) / 8.446
    assert centre(shown, INK, 0.52) == pytest.approx((row, 0.75), abs=0.005)
    row = (0.32 + 7.806 - (2 + 20) * inch) / 8.446
    column = (7.866 + 7.705 / 2 - 10 * inch) / 15.63
    assert centre(shown, RED, 0.52) == pytest.approx((row, column), abs=0.01)


def test_one_image_is_above_the_plane(root: Path, tmp_path: Path):
    shown = picture(frame(root, "image_2"), tmp_path / "one.png")
    assert shown.shape[:2] == pytest.approx((12.42 * 120, 7.866 * 120), abs=2)
    assert centre(shown, "#c81e3c") == pytest.approx((0.182, 0.5), abs=0.02)


def test_few_images_leave_names_to_the_plane(root: Path, tmp_path: Path):
    """The first layer's stands left of the box, the last one's right."""
    pair = frame(root, "image_2", "image_3")
    bare = picture(pair, tmp_path / "bare.png")
    named = picture(pair, tmp_path / "named.png", "Pedestrian")
    changed = (named != bare).any(-1)
    half = changed.shape[1] // 2
    assert not changed[:, :half].any()
    box = centre(bare, RED, 0.52)[1] * changed.shape[1]
    for channel, side in ((1, -1), (0, 1)):
        bright = changed & (named[..., channel] > 150)
        columns = np.nonzero(bright)[1]
        assert len(columns) > 40
        assert (side * (columns - box) > 10).all()


def test_many_images_name_boxes_themselves(root: Path, tmp_path: Path):
    three = replace(one := frame(root, "image_2"), cameras=one.cameras * 3)
    bare = picture(three, tmp_path / "bare.png")
    named = picture(three, tmp_path / "named.png", "Car")
    changed = np.nonzero((named != bare).any(-1))[1] / named.shape[1]
    # Three images 5.1 inches wide beside a plane of 5.1.
    assert len(changed) > 40
    assert (changed < 0.75).all()
