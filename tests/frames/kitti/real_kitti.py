"""The real KITTI samples, where they are."""

from collections.abc import Callable
from pathlib import Path

import pytest

DATA = Path(__file__).parents[4] / "shared" / "data"
# Three frames with images (000107 with both), and 32 with cut LiDAR files and no image.
KITTI, KITTI_LIDAR = DATA / "kitti_object", DATA / "kitti_lidar32"


def real(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that needs the real samples; skip it where they are absent."""
    here = KITTI.is_dir() and KITTI_LIDAR.is_dir()
    absent = pytest.mark.skipif(not here, reason=f"no real KITTI samples in {DATA}")
    marked: Callable[..., None] = pytest.mark.real(absent(test))
    return marked


def real_files(folder: str) -> list[Path]:
    """Every text file of this folder (calib or label_2) of both samples."""
    return [path for root in (KITTI, KITTI_LIDAR) for path in root.glob(f"training/{folder}/*.txt")]
