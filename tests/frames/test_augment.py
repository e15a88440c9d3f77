import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from frames.augment import BevAugment, BevAugmentConfig
from frames.geometry import box_corners

AUGMENT = st.builds(
    lambda yaw, scale, flips, shift: BevAugment.compose(
        yaw=yaw, scale=scale, flip_x=flips[0], flip_y=flips[1], shift=shift
    ),
    st.floats(-math.pi, math.pi),
    st.floats(0.5, 2.0),
    st.tuples(st.booleans(), st.booleans()),
    st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
)
BOXES = torch.tensor(
    [
        [10, 5, 1, 4, 2, 1.5, 0.3, 3, -1],
        [-20, 7, -0.5, 8, 2.5, 3, -2.9, 0, 0],
        [0, -30, 0, 0.6, 0.7, 1.8, math.pi / 2, 0.5, 1],
    ]
)


@given(AUGMENT)
def test_augmented_boxes_have_the_augmented_corners(augment: BevAugment):
    """The same eight places; a mirror swaps left and right corners, so compare as sets."""
    moved = augment.points(box_corners(BOXES).reshape(-1, 3)).reshape(-1, 8, 3)
    corners = box_corners(augment.boxes(BOXES))
    assert torch.cdist(corners, moved).amin(-1).max() < 1e-3
    # The front face stays the front face.
    front = [0, 1, 4, 5]
    torch.testing.assert_close(
        corners[:, front].mean(1), moved[:, front].mean(1), atol=1e-3, rtol=0
    )


@given(AUGMENT)
def test_augmented_velocity_is_the_change_of_augmented_places(augment: BevAugment):
    later = BOXES.clone()
    later[:, :2] += BOXES[:, 7:]
    step = augment.boxes(later)[:, :2] - augment.boxes(BOXES)[:, :2]
    torch.testing.assert_close(augment.boxes(BOXES)[:, 7:], step, atol=1e-4, rtol=0)


@given(AUGMENT)
def test_the_homogeneous_matrix_says_the_same(augment: BevAugment):
    points = BOXES[:, :3]
    homogeneous = torch.cat([points, torch.ones(3, 1)], dim=1) @ augment.matrix4.T
    torch.testing.assert_close(homogeneous[:, :3], augment.points(points), atol=1e-4, rtol=0)


@given(st.floats(0.5, 2.0), st.floats(-3, 3))
def test_scale_is_read_back(scale: float, yaw: float):
    assert BevAugment.compose(yaw=yaw, scale=scale, flip_x=True).scale == pytest.approx(scale)


def test_identity_changes_nothing():
    torch.testing.assert_close(BevAugment.identity().boxes(BOXES), BOXES)


def test_flips_are_exact():
    flipped = BevAugment.compose(flip_y=True).boxes(BOXES)
    assert torch.equal(flipped[:, [0, 2, 3, 4, 5, 7]], BOXES[:, [0, 2, 3, 4, 5, 7]])
    assert torch.equal(flipped[:, [1, 8]], -BOXES[:, [1, 8]])
    torch.testing.assert_close(flipped[:, 6], -BOXES[:, 6])
    flipped = BevAugment.compose(flip_x=True).boxes(BOXES)
    assert torch.equal(flipped[:, [0, 7]], -BOXES[:, [0, 7]])
    torch.testing.assert_close(flipped[0, 6], torch.tensor(math.pi - 0.3))


def test_it_turns_first_then_scales_then_mirrors_then_shifts():
    """(1, 0) turned by 90 degrees is (0, 1), doubled (0, 2), mirrored in y (0, -2)."""
    augment = BevAugment.compose(yaw=math.pi / 2, scale=2.0, flip_y=True, shift=(3.0, 0.5))
    found = augment.xy(torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[3.0, -1.5]]), atol=1e-6, rtol=0)


def test_shifts_have_their_deviation_and_change_no_other_draw():
    rngs = [np.random.default_rng(seed) for seed in range(400)]
    shifted = [BevAugmentConfig(rotation=0.4, shift=0.5).draw(rng).matrix for rng in rngs]
    still = [
        BevAugmentConfig(rotation=0.4).draw(np.random.default_rng(seed)).matrix
        for seed in range(400)
    ]
    assert all(torch.equal(a[:, :2], b[:, :2]) for a, b in zip(shifted, still, strict=True))
    assert all(matrix[:, 2].eq(0).all() for matrix in still)
    shifts = torch.stack([matrix[:, 2] for matrix in shifted])
    assert shifts.std(0).tolist() == pytest.approx([0.5, 0.5], rel=0.1)
    assert shifts.mean(0).abs().max() < 0.1


def test_further_columns_of_points_stay():
    points = torch.tensor([[1.0, 2, 3, 200, 0.5]])
    moved = BevAugment.compose(scale=2.0).points(points)
    assert moved.tolist() == [[2, 4, 6, 200, 0.5]]


def test_boxes_in_a_padded_batch_are_moved_alike():
    augment = BevAugment.compose(yaw=0.4, scale=1.1, flip_x=True)
    batch = torch.stack([BOXES, BOXES + 1])
    torch.testing.assert_close(augment.boxes(batch)[0], augment.boxes(BOXES))


def test_draws_stay_within_the_config_and_follow_the_seed():
    config = BevAugmentConfig(rotation=0.4, scale=(0.95, 1.05), flip_x=0.5, flip_y=0.5)
    drawn = [config.draw(np.random.default_rng(seed)) for seed in range(60)]
    assert all(0.95 - 1e-6 <= augment.scale <= 1.05 + 1e-6 for augment in drawn)
    assert {bool(torch.linalg.det(augment.matrix[:, :2]) > 0) for augment in drawn} == {True, False}
    assert torch.equal(drawn[7].matrix, config.draw(np.random.default_rng(7)).matrix)


def test_the_default_config_draws_identity():
    drawn = BevAugmentConfig().draw(np.random.default_rng(0))
    assert torch.equal(drawn.matrix, torch.eye(2, 3))


def test_scale_factors_must_be_positive_and_in_order():
    with pytest.raises(ValidationError, match="greater than 0"):
        BevAugmentConfig(scale=(0.0, 1.0))
    with pytest.raises(ValidationError, match="smallest, largest"):
        BevAugmentConfig(scale=(1.1, 0.9))


def test_a_config_without_a_shift_is_written_as_before_there_was_one():
    """Manifests are known by their bytes."""
    assert set(BevAugmentConfig(rotation=0.1).model_dump(mode="json")) == {
        *("rotation", "scale", "flip_x", "flip_y")
    }
    shifted = BevAugmentConfig(shift=0.5)
    assert BevAugmentConfig.model_validate_json(shifted.model_dump_json()) == shifted
    with pytest.raises(ValidationError, match="finite"):
        BevAugmentConfig(shift=math.inf)
