import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from frames.image_augment import ImageAugment, ImageAugmentConfig

BEVDEPTH = ImageAugmentConfig(out_size=(256, 704), resize=(0.386, 0.55), flip=0.5, rotation=5.4)


def dot(size: tuple[int, int], u: int, v: int) -> Image.Image:
    """A bright blob whose centroid is (u, v)."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    value = 255 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * 2.0**2))
    return Image.fromarray(value.astype(np.uint8)).convert("RGB")


def centroid(image: torch.Tensor) -> tuple[float, float]:
    weight = image[0].double()
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in weight.shape), indexing="ij")
    return float((weight * columns).sum() / weight.sum()), float(
        (weight * rows).sum() / weight.sum()
    )


def test_identity_changes_nothing():
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    augment = ImageAugment.identity((12, 20))
    assert torch.equal(augment.matrix, torch.eye(3))
    assert np.array_equal(augment.apply(Image.fromarray(pixels)).permute(1, 2, 0), pixels)


def test_testing_fills_the_width_and_keeps_the_bottom():
    """BEVDepth's 1600 x 900 -> 704 x 256: factor 0.44, 396 rows, of them the upper 140 cut."""
    augment = BEVDEPTH.draw(np.random.default_rng(0), (900, 1600), training=False)
    assert augment == ImageAugment(
        size=(900, 1600), resized=(396, 704), crop=(140, 0), out_size=(256, 704)
    )
    bottom_right = augment.matrix @ torch.tensor([1599.5, 899.5, 1.0])
    torch.testing.assert_close(bottom_right, torch.tensor([703.5, 255.5, 1.0]))


def test_testing_a_wide_image_cuts_both_sides_alike():
    config = ImageAugmentConfig(out_size=(100, 100), resize=(1.0, 1.0))
    augment = config.draw(np.random.default_rng(0), (100, 300), training=False)
    assert augment.crop == (0, 100)


def test_a_flip_is_exact():
    augment = ImageAugment(size=(2, 5), resized=(2, 5), crop=(0, 0), out_size=(2, 5), flip=True)
    pixels = np.arange(30, dtype=np.uint8).reshape(2, 5, 3)
    assert np.array_equal(augment.apply(Image.fromarray(pixels)).permute(1, 2, 0), pixels[:, ::-1])
    assert (augment.matrix @ torch.tensor([0.0, 1.0, 1.0])).tolist() == [4, 1, 1]


def test_a_quarter_turn_is_counter_clockwise_as_seen():
    augment = ImageAugment(size=(9, 9), resized=(9, 9), crop=(0, 0), out_size=(9, 9), rotation=90.0)
    pixels = np.zeros((9, 9, 3), dtype=np.uint8)
    pixels[4, 8] = 255
    assert augment.apply(Image.fromarray(pixels))[0].nonzero().tolist() == [[0, 4]]
    landed = augment.matrix @ torch.tensor([8.0, 4.0, 1.0])
    torch.testing.assert_close(landed, torch.tensor([4.0, 0.0, 1.0]))


def test_beyond_the_image_the_crop_is_black():
    augment = ImageAugment(size=(4, 4), resized=(4, 4), crop=(-2, -1), out_size=(6, 6))
    image = augment.apply(Image.new("RGB", (4, 4), (9, 9, 9)))
    assert image[:, :2].sum() == 0
    assert image[0, 2:, 1:5].eq(9).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 36), st.floats(0, 6.28))
def test_the_matrix_says_where_a_dot_lands(seed: int, radius: float, angle: float):
    config = ImageAugmentConfig(out_size=(96, 200), resize=(0.7, 1.1), flip=0.5, rotation=20.0)
    augment = config.draw(np.random.default_rng(seed), (180, 300), training=True)
    # Aim near the result's middle, so that the crop does not cut the dot.
    aim = np.array([100 + radius * np.cos(angle), 48 + radius * np.sin(angle), 1.0])
    u, v, _ = np.linalg.solve(augment.matrix.double().numpy(), aim).round().astype(int).tolist()
    landed = augment.matrix @ torch.tensor([float(u), float(v), 1.0])
    seen = torch.tensor(centroid(augment.apply(dot((180, 300), u, v))))
    assert torch.dist(seen, landed[:2]) < 0.1


@given(st.integers(0, 2**32 - 1))
def test_training_stays_within_the_config_and_follows_the_seed(seed: int):
    drawn = BEVDEPTH.draw(np.random.default_rng(seed), (900, 1600), training=True)
    assert drawn == BEVDEPTH.draw(np.random.default_rng(seed), (900, 1600), training=True)
    assert 0.386 - 1e-3 <= drawn.resized[1] / 1600 <= 0.55 + 1e-3
    assert drawn.crop[0] == drawn.resized[0] - 256
    assert 0 <= drawn.crop[1] <= max(0, drawn.resized[1] - 704)
    assert abs(drawn.rotation) <= 5.4


def test_both_sides_of_chance_occur():
    drawn = [BEVDEPTH.draw(np.random.default_rng(i), (900, 1600), training=True) for i in range(40)]
    assert {augment.flip for augment in drawn} == {True, False}
    assert len({augment.resized for augment in drawn}) > 20


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match="image is 8 x 10, this augmentation is for 4 x 4"):
        ImageAugment.identity((4, 4)).apply(Image.new("RGB", (10, 8)))


def test_resize_factors_must_be_in_order():
    with pytest.raises(ValidationError, match="smallest, largest"):
        ImageAugmentConfig(out_size=(4, 4), resize=(1.0, 0.5))
