from pathlib import Path

import numpy as np
import torch

from frames.depth_map import depth_targets
from frames.frame import Camera
from frames.geometry import AHEAD


def targets(
    points: list[list[float]],
    augment: torch.Tensor | None = None,
    size: tuple[int, int] = (8, 16),
) -> torch.Tensor:
    camera = Camera(
        name="CAM_FRONT",
        path=Path("unread.jpg"),
        size=size,
        image_from_cam=np.array([[10.0, 0, 7.5], [0, 10.0, 3.5], [0, 0, 1]]),
        ego_from_cam=AHEAD,
    )
    augment = torch.eye(3)[None] if augment is None else augment
    return depth_targets(torch.tensor(points), [camera], augment, image_size=(8, 16), stride=4)


def test_the_nearest_point_of_a_patch_wins():
    # Both project to u = 7.5, v = 3.5: between patches 1 and 2, which begin at -0.5 + 4 k.
    depth = targets([[10.0, 0.001, 0.001], [4.0, 0.001, 0.001]])
    assert depth[0, 0, 1] == 4.0
    assert (depth > 0).sum() == 1


def test_points_behind_or_beside_are_not_seen():
    assert targets([[-4.0, 0.0, 0.0], [4.0, 40.0, 0.0]]).sum() == 0


def test_the_image_augmentation_moves_the_patch():
    mirror = torch.tensor([[[-1.0, 0, 15.0], [0, 1, 0], [0, 0, 1]]])
    # u = 7.5 - 10 * (-2 / 4) = 12.5, mirrored to 2.5.
    assert targets([[4.0, -2.0, 0.001]])[0, 0, 3] == 4.0
    assert targets([[4.0, -2.0, 0.001]], mirror)[0, 0, 0] == 4.0


def test_beyond_the_cameras_own_image_there_is_no_depth():
    # u = 12.5 lies in an image 16 wide, not in one 12 wide, though the canvas is 16 either way.
    assert targets([[4.0, -2.0, 0.001]], size=(8, 16)).sum() == 4.0
    assert targets([[4.0, -2.0, 0.001]], size=(8, 12)).sum() == 0
