"""A KITTI tree small enough to work out by hand.

Two training frames and one for testing, images of 20 x 40 pixels. Both cameras look along the
Velodyne's x axis; the left one stands 0.05 m left of the rectified origin and the right one 0.45 m
right of it; focal length 20 pixels; the Velodyne stands 0.3 m behind the origin.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from frames.geometry import SE3
from frames.kitti.calibration import EGO_FROM_RECT, Calibration, write_calibration

SIZE = (20, 40)
FOCAL, CENTRE_U, CENTRE_V = 20.0, 18.0, 9.0
RIGHT_OF_ORIGIN = {0: 0.0, 1: 0.5, 2: -0.05, 3: 0.45}
LABELS = """\
Car 0.00 0 0.00 1.00 2.00 9.00 12.00 1.50 1.60 4.00 1.00 1.00 10.00 -1.57
DontCare -1 -1 -10 3.00 4.00 5.00 6.00 -1 -1 -1 -1000 -1000 -1000 -10
Van 0.97 1 0.00 1.00 2.00 9.00 12.00 2.00 2.00 5.00 2.00 1.00 20.00 0.00
Person_sitting 0.00 2 0.00 1.00 2.00 9.00 12.00 1.20 0.50 0.80 -2.00 1.00 8.00 0.00
Car 0.98 0 0.00 1.00 2.00 9.00 12.00 1.50 1.60 4.00 3.00 1.00 10.00 0.00
Cyclist 0.00 0 0.00 1.00 2.00 9.00 12.00 1.70 0.60 1.80 0.00 1.00 60.40 1.57
Cyclist 0.00 0 0.00 1.00 2.00 9.00 12.00 1.70 0.60 1.80 0.00 1.00 60.60 1.57
Tram 0.00 0 0.00 1.00 2.00 9.00 12.00 3.50 2.60 16.00 0.00 1.00 30.00 1.57
"""
# Velodyne x y z reflectance: in both images, left of them, behind the cameras.
POINTS = np.array([[9.7, 1, 0.5, 0.25], [4.7, 9, 0, 0.5], [-5, 0, 0, 1]], dtype=np.float32)


def calibration() -> Calibration:
    projections = []
    for right in RIGHT_OF_ORIGIN.values():
        projection = np.array([[FOCAL, 0, CENTRE_U, 0], [0, FOCAL, CENTRE_V, 0], [0, 0, 1, 0]])
        projection[0, 3] = -FOCAL * right
        projections.append(projection)
    rect_from_ego = EGO_FROM_RECT.inverse()
    return Calibration(
        image_from_rect=np.stack(projections),
        rect_from_cam=np.eye(3),
        cam_from_lidar=replace(rect_from_ego, translation=np.array([0, 0, -0.3])),
        lidar_from_imu=SE3.identity(),
    )


def write_tiny(root: Path) -> Path:
    """Write the tree and return its root."""
    for folder, tokens in (("training", ("000000", "000003")), ("testing", ("000000",))):
        for name in ("calib", "image_2", "image_3", "label_2", "velodyne"):
            (root / folder / name).mkdir(parents=True)
        for token in tokens:
            write_calibration(root / folder / "calib" / f"{token}.txt", calibration())
            POINTS.tofile(root / folder / "velodyne" / f"{token}.bin")
            for name, colour in (("image_2", (200, 30, 60)), ("image_3", (60, 30, 200))):
                image = Image.new("RGB", SIZE[::-1], colour)
                image.putpixel((0, 0), (255, 255, 255))
                image.save(root / folder / name / f"{token}.png")
    (root / "training/label_2/000000.txt").write_text("")
    (root / "training/label_2/000003.txt").write_text(LABELS)
    (root / "ImageSets").mkdir()
    for split, listed in (("train", "000003\n"), ("trainval", "000003\n000000\n")):
        (root / "ImageSets" / f"{split}.txt").write_text(listed)
    (root / "ImageSets/test.txt").write_text("000000\n")
    return root
