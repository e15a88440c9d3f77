from pathlib import Path

import numpy as np
import torch

from frames.camera_view import (
    image_bboxes,
    image_from_ego,
    project_by,
    project_ego,
    projected_bboxes,
    sees,
    truncations,
)
from frames.frame import Camera
from frames.geometry import SE3

# Looks along ego x from 1 m up and 2 m left; image of 10 x 21 pixels, focal length 10.
CAMERA = Camera(
    name="image",
    path=Path("none.png"),
    size=(10, 21),
    image_from_cam=np.array([[10.0, 0.0, 10.0], [0.0, 10.0, 4.0], [0.0, 0.0, 1.0]]),
    ego_from_cam=SE3(
        np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]), np.array([0.0, 2.0, 1.0])
    ),
)


def test_a_point_by_hand():
    pixels, depth = project_ego(CAMERA, torch.tensor([[5.0, 1.0, 0.5]]))
    torch.testing.assert_close(pixels, torch.tensor([[12.0, 5.0]]))
    torch.testing.assert_close(depth, torch.tensor([5.0]))


def test_the_matrix_projects_the_same():
    points = torch.tensor([[5.0, 1.0, 0.5], [20.0, -3.0, 2.0]], dtype=torch.float64)
    row = np.concatenate([points.numpy(), np.ones((2, 1))], axis=1) @ image_from_ego(CAMERA).T
    pixels, depth = project_ego(CAMERA, points)
    np.testing.assert_allclose(row[:, :2] / row[:, 2:], pixels.numpy())
    np.testing.assert_allclose(row[:, 2], depth.numpy())


def test_an_image_known_by_its_matrix_shows_the_same():
    boxes = torch.cat([box(6.0, 2.0, 1.0, 2.0), box(0.0, 4.0, 1.0, 10.0), box(-6.0, 2.0, 1.0, 2.0)])
    matrix, size = torch.from_numpy(image_from_ego(CAMERA)), torch.tensor(CAMERA.size)
    wanted, visible = image_bboxes(CAMERA, boxes.double())
    found, also_visible = projected_bboxes(matrix, size, boxes.double())
    assert visible.tolist() == also_visible.tolist() == [True, True, False]
    torch.testing.assert_close(found[visible], wanted[visible])
    points = boxes[:, :3].double()
    for one, other in zip(project_by(matrix, points), project_ego(CAMERA, points), strict=True):
        torch.testing.assert_close(one[:1], other[:1])


def test_points_are_seen_between_the_outermost_pixel_centres():
    depth = 10.0
    inside = [(0.1, 0.1), (19.9, 8.9)]
    outside = [(-0.1, 4.0), (20.1, 4.0), (10.0, -0.1), (10.0, 9.1)]
    pixels = torch.tensor(inside + outside)
    in_cam = (pixels - torch.tensor([10.0, 4.0])) / 10 * depth
    points = torch.stack([torch.full((6,), depth), 2 - in_cam[:, 0], 1 - in_cam[:, 1]], dim=1)
    assert sees(CAMERA, points).tolist() == [True] * 2 + [False] * 4
    # Behind the camera; its numerators, hardly above 0, would be pixel (10, 5) at depth 1e-6.
    behind = torch.tensor([[-10.0, 2 - 10.000001, 1 - 4.0000005]], dtype=torch.float64)
    torch.testing.assert_close(
        project_ego(CAMERA, behind)[0], torch.tensor([[10.0, 5.0]]).double(), atol=1e-3, rtol=0
    )
    assert not sees(CAMERA, behind).any()


def box(x: float, y: float, z: float, length: float) -> torch.Tensor:
    return torch.tensor([[x, y, z, length, 1.0, 1.0, 0.0, 0.0, 0.0]])


def test_the_2d_box_by_hand():
    """The near face, 1 m x 1 m at 5 m, spans 2 pixels each way about the principal point."""
    bboxes, visible = image_bboxes(CAMERA, box(6.0, 2.0, 1.0, 2.0))
    torch.testing.assert_close(bboxes, torch.tensor([[9.0, 3.0, 11.0, 5.0]]))
    assert visible.tolist() == [True]


def test_the_2d_box_is_cut_at_the_image():
    bboxes, _ = image_bboxes(CAMERA, box(1.0, 3.0, 1.0, 1.0))
    torch.testing.assert_close(bboxes, torch.tensor([[0.0, 0.0, 20 / 3, 9.0]]))


def test_a_box_beside_the_camera_keeps_its_part_before_it():
    """From 5 m behind to 5 m before the camera: points behind it do not count."""
    boxes = torch.cat([box(0.0, 4.0, 1.0, 10.0), box(0.0, 0.0, 1.0, 10.0)])
    bboxes, visible = image_bboxes(CAMERA, boxes)
    assert visible.tolist() == [True, True]
    # The far inner edges, 1.5 m to the left and to the right at 5 m.
    torch.testing.assert_close(bboxes[:, 0::2], torch.tensor([[0.0, 7.0], [13.0, 20.0]]))


def test_boxes_out_of_view_are_not_visible():
    boxes = torch.cat([box(-6.0, 2.0, 1.0, 2.0), box(6.0, 40.0, 1.0, 2.0)])
    assert image_bboxes(CAMERA, boxes)[1].tolist() == [False, False]
    assert image_bboxes(CAMERA, torch.zeros(0, 9))[0].shape == (0, 4)


def test_truncation_by_hand():
    # At 5 m a face of 1 m is 2 x 2 pixels: about (10, 4); (20, 4), the last column; (20, 9), the
    # corner; and beyond the image.
    faces = [box(5.0, y, z, 0.0) for y, z in ((2.0, 1.0), (-3.0, 1.0), (-3.0, -1.5), (-9.0, 1.0))]
    behind = box(-6.0, 2.0, 1.0, 2.0)
    found = truncations(CAMERA, torch.cat([*faces, behind]))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.5, 0.75, 1.0, 1.0]))
