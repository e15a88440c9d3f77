import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frames.errors import DataError
from frames.kitti.labels import (
    LABEL_DECIMALS,
    KittiObject,
    box_of_label,
    label_of_box,
    observation_angle,
    read_objects,
    write_objects,
)
from tests.frames.kitti.real_kitti import real, real_files

CAR = "Car 0.50 1 -2.08 812.76 184.44 1241.00 374.00 1.46 1.56 4.11 2.54 1.55 4.31 -1.58"
DONT_CARE = "DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10"


def test_a_line_by_hand(tmp_path: Path):
    path = tmp_path / "label.txt"
    path.write_text(f"{CAR}\n\n{DONT_CARE}\n")
    car, region = read_objects(path)
    assert (car.kind, car.truncation, car.occlusion, car.alpha) == ("Car", 0.5, 1, -2.08)
    assert car.bbox == (812.76, 184.44, 1241.0, 374.0)
    # 1.55 m down to the bottom and half of 1.46 m up again; -(-1.58 + 1.5708) = 0.0092.
    assert car.box == pytest.approx((4.31, -2.54, -0.82, 4.11, 1.56, 1.46, 0.0092037), abs=1e-7)
    assert car.score is None
    assert (region.kind, region.truncation, region.occlusion) == ("DontCare", -1, -1)
    assert (region.alpha, region.box) == (-10, None)


def test_a_result_has_a_score_written_in_full(tmp_path: Path):
    path = tmp_path / "result.txt"
    path.write_text(f"{CAR} 0.1\n")
    (found,) = read_objects(path)
    write_objects(path, [found])
    assert path.read_text() == (
        "Car 0.500000 1 -2.080000 812.760000 184.440000 1241.000000 374.000000 1.460000 1.560000 "
        "4.110000 2.540000 1.550000 4.310000 -1.580000 0.1\n"
    )
    assert read_objects(path)[0].score == 0.1


def test_an_empty_file_has_no_objects(tmp_path: Path):
    write_objects(tmp_path / "none.txt", [])
    assert read_objects(tmp_path / "none.txt") == ()


metres = st.floats(-100, 100)


@given(
    size=st.tuples(*[st.floats(0.1, 20)] * 3),
    bottom=st.tuples(metres, metres, metres),
    rotation_y=st.floats(-3.14, 3.14),
)
def test_a_label_becomes_a_box_and_back(
    size: tuple[float, float, float], bottom: tuple[float, float, float], rotation_y: float
):
    box = box_of_label(size, bottom, rotation_y)
    assert -math.pi <= box[6] <= math.pi
    back_size, back_bottom, back_rotation = label_of_box(box)
    assert back_size == size
    assert back_bottom == pytest.approx(bottom, abs=1e-13)
    assert back_rotation == pytest.approx(rotation_y, abs=1e-14)


@pytest.mark.parametrize(
    ("bottom", "rotation_y", "alpha"),
    [
        # Straight ahead the two angles agree; at 45 degrees to the right they differ by pi / 4.
        ((0.0, 1.6, 10.0), -1.0, -1.0),
        ((10.0, 1.6, 10.0), 0.5, 0.5 - math.pi / 4),
        ((10.0, 1.6, 10.0), -3.0, -3.0 - math.pi / 4 + 2 * math.pi),
    ],
)
def test_alpha_by_hand(bottom: tuple[float, float, float], rotation_y: float, alpha: float):
    box = box_of_label((1.5, 1.6, 4.0), bottom, rotation_y)
    assert observation_angle(box) == pytest.approx(alpha)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CAR.rsplit(" ", 1)[0], "line 1: 14 fields; KITTI has 15, and 16 with a score"),
        (f"\n{CAR} 0.5 7", "line 2: 17 fields"),
        (CAR.replace("4.11", "four"), "line 1: could not convert string to float: 'four'"),
        (CAR.replace("4.11", "nan"), "line 1: a number is not finite"),
    ],
)
def test_a_line_that_is_not_kittis_is_named(tmp_path: Path, content: str, message: str):
    path = tmp_path / "000007.txt"
    path.write_text(content)
    with pytest.raises(DataError, match=rf"000007\.txt, {message}"):
        read_objects(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"cannot read .*000007\.txt .*unpack or write"):
        read_objects(tmp_path / "000007.txt")


@real
def test_real_labels_are_written_as_they_were(tmp_path: Path):
    for path in real_files("label_2"):
        write_objects(tmp_path / path.name, read_objects(path), LABEL_DECIMALS)
        assert (tmp_path / path.name).read_text() == path.read_text().replace("-0.00", "0.00")


@real
def test_real_alphas_follow_from_the_boxes():
    """To the labels' two decimals where an object is far; near by, KITTI's own differ somewhat."""
    gaps = [
        abs(math.remainder(observation_angle(thing.box) - thing.alpha, math.tau))
        for path in real_files("label_2")
        for thing in read_objects(path)
        if thing.box is not None
    ]
    assert len(gaps) > 150
    assert max(gaps) < 0.06
    assert sorted(gaps)[len(gaps) // 2] < 0.01


def test_a_detection_in_2d_only_keeps_its_form(tmp_path: Path):
    found = KittiObject(
        kind="Car",
        truncation=-1,
        occlusion=-1,
        alpha=-10,
        bbox=(1, 2, 3, 4),
        box=None,
        score=0.25,
    )
    write_objects(tmp_path / "r.txt", [found], LABEL_DECIMALS)
    assert (tmp_path / "r.txt").read_text() == (
        "Car -1 -1 -10 1.00 2.00 3.00 4.00 -1 -1 -1 -1000 -1000 -1000 -10 0.25\n"
    )
    assert read_objects(tmp_path / "r.txt") == (found,)
