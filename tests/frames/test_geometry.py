import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from frames.geometry import (
    SE3,
    box_corners,
    footprint_corners,
    in_footprints,
    project,
    wrap_angle,
    yaw_rotations,
)

UNIT = st.floats(-1, 1)
METRES = st.floats(-1e4, 1e4)
QUATERNION = st.lists(UNIT, min_size=4, max_size=4).filter(lambda q: math.hypot(*q) > 0.1)
# Built inside the tests: beartype draws random items to check, which strategies must not do.
PLACE = st.lists(METRES, min_size=3, max_size=3)


@given(QUATERNION, PLACE)
def test_a_transform_and_its_inverse_cancel(wxyz: list[float], place: list[float]):
    pose = SE3.from_quaternion(wxyz, place)
    points = np.array([[0.0, 0, 0], [1, 2, 3], [-50, 20, 4]])
    np.testing.assert_allclose(pose.inverse().apply(pose.apply(points)), points, atol=1e-7)
    np.testing.assert_allclose((pose @ pose.inverse()).matrix, np.eye(4), atol=1e-7)


@given(QUATERNION, PLACE, QUATERNION, PLACE)
def test_composing_is_applying_one_after_the_other(
    wxyz: list[float], place: list[float], inner_wxyz: list[float], inner_place: list[float]
):
    a_from_b = SE3.from_quaternion(wxyz, place)
    b_from_c = SE3.from_quaternion(inner_wxyz, inner_place)
    points = np.array([[1.0, -2, 3]])
    expected = a_from_b.apply(b_from_c.apply(points))
    np.testing.assert_allclose((a_from_b @ b_from_c).apply(points), expected, atol=1e-7)
    homogeneous = a_from_b.matrix @ b_from_c.matrix @ [1, -2, 3, 1]
    np.testing.assert_allclose(homogeneous[:3], expected[0], atol=1e-7)


@given(QUATERNION)
def test_rotations_stay_rotations(wxyz: list[float]):
    pose = SE3.from_quaternion(wxyz, [0.0, 0.0, 0.0])
    np.testing.assert_allclose(pose.rotation @ pose.rotation.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(pose.rotation) == pytest.approx(1)


@given(QUATERNION)
def test_a_quaternion_comes_back_up_to_its_sign(wxyz: list[float]):
    expected = np.array(wxyz) / np.linalg.norm(wxyz)
    found = SE3.from_quaternion(wxyz, [0.0, 0.0, 0.0]).quaternion
    assert found[0] >= 0
    assert abs(np.dot(found, expected)) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_half_turns_have_quaternions_too(axis: int):
    wxyz = np.eye(4)[axis].tolist()
    assert np.abs(SE3.from_quaternion(wxyz, [0.0, 0.0, 0.0]).quaternion) == pytest.approx(wxyz)


def test_a_quarter_turn_about_each_axis():
    half = 0.5**0.5
    turns = {1: ([0, 1, 0], [0, 0, 1]), 2: ([0, 0, 1], [1, 0, 0]), 3: ([1, 0, 0], [0, 1, 0])}
    for axis, (before, after) in turns.items():
        wxyz = [half, 0.0, 0.0, 0.0]
        wxyz[axis] = half
        pose = SE3.from_quaternion(wxyz, [0.0, 0.0, 0.0])
        np.testing.assert_allclose(pose.rotation @ before, after, atol=1e-12)


@given(st.floats(-3.1, 3.1))
def test_a_yaw_comes_back(yaw: float):
    pose = SE3.from_yaw(yaw, [1.0, 2.0, 3.0])
    assert pose.yaw == pytest.approx(yaw)
    about_z = [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)]
    np.testing.assert_allclose(pose.quaternion, about_z, atol=1e-9)


def test_points_keep_their_dtype():
    points = np.ones((2, 3), dtype=np.float32)
    assert SE3.identity().apply(points).dtype == np.float32


@given(st.floats(-100, 100), st.sampled_from([math.pi, 2 * math.pi]))
def test_wrapped_angles_differ_by_whole_periods(angle: float, period: float):
    wrapped = float(wrap_angle(torch.tensor([angle], dtype=torch.float64), period))
    assert -period / 2 <= wrapped <= period / 2
    turns = (angle - wrapped) / period
    assert turns == pytest.approx(round(turns), abs=1e-9)


def test_angles_wrap_at_the_half_period():
    angles = torch.tensor([math.pi, -math.pi, 3 * math.pi / 2, 0.0], dtype=torch.float64)
    expected = torch.tensor([-math.pi, -math.pi, -math.pi / 2, 0.0], dtype=torch.float64)
    torch.testing.assert_close(wrap_angle(angles), expected)


def test_yaw_rotations_turn_counter_clockwise_in_any_batch_shape():
    turn = yaw_rotations(torch.full((2, 3), math.pi / 2))
    assert turn.shape == (2, 3, 2, 2)
    torch.testing.assert_close(turn[1, 2] @ torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    assert yaw_rotations(torch.zeros(0)).shape == (0, 2, 2)


def test_corners_of_a_car_that_looks_left():
    """At (10, 5, 1), 4 m long, 2 m wide, 1.5 m high, heading along +y."""
    box = torch.tensor([[10, 5, 1, 4, 2, 1.5, math.pi / 2, 0, 0]])
    front_left, front_right, rear_right, rear_left = [9.0, 7], [11, 7], [11, 3], [9, 3]
    footprint = torch.tensor([[front_left, front_right, rear_right, rear_left]])
    torch.testing.assert_close(footprint_corners(box), footprint)
    corners = box_corners(box)
    torch.testing.assert_close(corners[:, :4, :2], footprint)
    torch.testing.assert_close(corners[:, 4:, :2], footprint)
    assert corners[0, :, 2].tolist() == [0.25] * 4 + [1.75] * 4


def test_points_in_the_footprint_of_that_car():
    """It covers 9..11 m along x and 3..7 m along y, its edges included."""
    box = torch.tensor([[10, 5, 1, 4, 2, 1.5, math.pi / 2, 0, 0]])
    points = torch.tensor([[10.9, 6.9], [11.1, 5.0], [10.0, 7.4], [8.4, 5.0]])
    assert in_footprints(points, box)[:, 0].tolist() == [True, False, False, False]
    assert in_footprints(points, box, margin=0.5)[:, 0].tolist() == [True, True, True, False]
    assert in_footprints(points[None], torch.zeros(1, 0, 9)).shape == (1, 4, 0)


def test_no_boxes_have_no_corners():
    assert box_corners(torch.zeros(0, 9)).shape == (0, 8, 3)
    assert footprint_corners(torch.zeros(2, 0, 9)).shape == (2, 0, 4, 2)


def test_projection_by_hand():
    image_from_cam = torch.tensor([[100.0, 0, 50], [0, 200, 40], [0, 0, 1]])
    points = torch.tensor([[0.0, 0, 5], [1, -2, 10], [1, 1, -1]])
    pixels, depth = project(points, image_from_cam)
    assert pixels[:2].tolist() == [[50, 40], [60, 0]]
    assert depth.tolist() == [5, 10, -1]
    assert pixels.isfinite().all()
