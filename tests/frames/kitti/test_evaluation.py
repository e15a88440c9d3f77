"""Frames and files are scored alike, by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from frames.detection_classes import KITTI_CLASSES
from frames.detections import Detections
from frames.errors import DataError
from frames.kitti.config import KittiConfig
from frames.kitti.difficulty import Difficulty
from frames.kitti.evaluation import by_name, frames_to_score, score_files, score_frames
from frames.kitti.reader import KittiFrame, read_frames
from frames.kitti.scoring import KittiScores, Metric, Overlap, Setting
from tests.frames.kitti.real_kitti import KITTI, real
from tests.frames.kitti.street_kitti import R11, R40, detect, street, write_street
from tests.frames.kitti.tiny_kitti import write_tiny

CAR = Setting("Car", Metric.AP_3D, "moderate", Overlap.STRICT)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_street(tmp_path_factory.mktemp("street"))


def found_in(frames: list[KittiFrame]) -> dict[str, Detections]:
    return {f.token: d for f, d in zip(frames, detect(frames), strict=True)}


def score(
    frames: list[KittiFrame], out: Path, classes: tuple[str, ...] = KITTI_CLASSES
) -> KittiScores:
    scores = score_frames(frames, found_in(frames), classes, out)
    assert scores is not None
    return scores


def test_two_cars_in_three_are_found(root: Path, tmp_path: Path):
    scores = score(street(root), tmp_path)
    assert len(scores) == 3 * 4 * 3 * 2
    for setting, curve in scores.items():
        expected = (R40, R11) if setting.kind == "Car" else (0, 0)
        assert (curve.r40, curve.r11) == pytest.approx(expected), setting


def test_the_files_say_what_was_scored(root: Path, tmp_path: Path):
    """To the last digit, with boxes that six decimals do not hold."""
    frames = street(root)
    torch.manual_seed(0)
    found = {
        token: replace(one, boxes=one.boxes + 0.2 * torch.rand(len(one.boxes), 9))
        for token, one in found_in(frames).items()
    }
    scores = score_frames(frames, found, KITTI_CLASSES, tmp_path)
    assert scores is not None
    assert 0 < scores[CAR].r40 < R40
    results, labels = tmp_path / "kitti_results", root / "training" / "label_2"
    again = score_files(labels, results, frames_to_score(labels, results))
    assert by_name(again) == by_name(scores) == json.loads((tmp_path / "metrics.json").read_text())


def test_names_of_scores_stay(root: Path, tmp_path: Path):
    names = list(by_name(score(street(root), tmp_path)))
    assert len(set(names)) == len(names) == 144
    assert names[:2] == ["Car/2d/easy/strict/r40", "Car/2d/easy/strict/r11"]
    assert {"Cyclist/3d/moderate/loose/r40", "Pedestrian/aos/hard/strict/r11"} <= set(names)


def test_only_what_the_detector_knows_has_a_score(root: Path, tmp_path: Path):
    assert {setting.kind for setting in score(street(root), tmp_path, ("Car",))} == {"Car"}


def test_all_labels_take_part_not_only_the_ground_truth(root: Path, tmp_path: Path):
    """Out of the training range, the cars are no ground truth; they are asked for nevertheless."""
    near = KittiConfig(
        root=root, split="training", cameras=(), image_size=(376, 1242), box_range=(0,) * 6
    )
    frames = read_frames(near)
    assert not any(len(frame.boxes) for frame in frames)
    assert score(frames, tmp_path)[CAR].r40 == pytest.approx(R40)


def test_other_difficulties(root: Path, tmp_path: Path):
    far = Difficulty(name="far", height=100, occlusion=0, truncation=0)
    frames = street(root)
    scores = score_frames(frames, found_in(frames), KITTI_CLASSES, tmp_path, [far])
    assert scores is not None
    assert {setting.difficulty for setting in scores} == {"far"}
    assert scores[CAR._replace(difficulty="far")].r40 == 0


def test_frames_without_labels_get_result_files_only(root: Path, tmp_path: Path):
    score(street(root), tmp_path)
    stale = tmp_path / "kitti_results" / "999999.txt"
    stale.touch()
    frames = street(root, "testing")
    assert score_frames(frames, found_in(frames), KITTI_CLASSES, tmp_path) is None
    assert not (tmp_path / "metrics.json").exists()
    written = sorted((tmp_path / "kitti_results").iterdir())
    assert [path.stem for path in written] == [frame.token for frame in frames]
    assert [len(path.read_text().splitlines()) for path in written] == [0, 5, 5] * 4


def test_an_empty_label_file_is_a_labelled_frame(tmp_path: Path):
    frames = read_frames(KittiConfig(root=write_tiny(tmp_path / "t"), split="000000"))
    assert frames[0].objects == ()
    nothing = {"000000": Detections.empty()}
    assert score_frames(frames, nothing, KITTI_CLASSES, tmp_path / "out") is not None


@pytest.mark.parametrize("part", ["boxes", "scores"])
def test_a_diverged_detector_is_refused(root: Path, tmp_path: Path, part: str):
    frames = street(root)
    found = found_in(frames)
    broken = {part: getattr(found["000001"], part) * torch.nan}
    found["000001"] = replace(found["000001"], **broken)
    with pytest.raises(ValueError, match="not finite; the detector diverged"):
        score_frames(frames, found, KITTI_CLASSES, tmp_path)


def test_a_list_says_which_frames_are_scored(root: Path, tmp_path: Path):
    score(street(root), tmp_path)
    labels, results = root / "training" / "label_2", tmp_path / "kitti_results"
    listed = tmp_path / "val.txt"
    listed.write_text("000004\n000002 \n\n")
    tokens = frames_to_score(labels, results, listed)
    assert tokens == ["000004", "000002"]
    # Ten cars, all found: the recalls of ten labels end at 10/40.
    assert score_files(labels, results, tokens)[CAR].r40 == pytest.approx(100 * 9 / 40)
    assert len(frames_to_score(labels, results)) == 12


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (
            "000001\n000077\n000078\n",
            r"2 of 3 frames have no result file in .*\(000077, 000078\)",
        ),
        ("000001\n000012\n", r"have no label file in .*label_2 \(000012\); give KITTI's label_2"),
        (
            "000004\n000001\n000004\n",
            r"list.txt names frames more than once \(1: 000004\); name each frame once",
        ),
        ("\n", r"list.txt has no frames to score: expected"),
        (None, r"cannot read .*list.txt \(.*; give a list of frames, a token a line"),
    ],
)
def test_frames_that_cannot_be_scored_are_named(
    root: Path, tmp_path: Path, listed: str | None, message: str
):
    score(street(root), tmp_path)
    (tmp_path / "kitti_results" / "000012.txt").touch()
    if listed is not None:
        (tmp_path / "list.txt").write_text(listed)
    labels = root / "training" / "label_2"
    with pytest.raises(DataError, match=message):
        frames_to_score(labels, tmp_path / "kitti_results", tmp_path / "list.txt")


def test_a_folder_without_result_files(root: Path, tmp_path: Path):
    with pytest.raises(DataError, match="give the folder that holds the files itself"):
        frames_to_score(root / "training" / "label_2", tmp_path)


def test_labels_are_no_results(root: Path):
    labels = root / "training" / "label_2"
    with pytest.raises(DataError, match=r"000003.txt: 6 of 6 detections have no score"):
        score_files(labels, labels, ["000003"])


@real
def test_real_frames_with_their_own_boxes(tmp_path: Path):
    """Four moderate cars are found; the three vans, found as cars, are no false positives."""
    frames = read_frames(KittiConfig(root=KITTI, split="training", cameras=("image_2",)))
    found = {
        f.token: Detections(f.boxes.values, f.boxes.labels, torch.ones(len(f.boxes)))
        for f in frames
    }
    scores = score_frames(frames, found, KITTI_CLASSES, tmp_path)
    assert scores is not None
    for metric in (Metric.AP_3D, Metric.AP_BEV):
        assert scores[CAR._replace(metric=metric)].values.tolist() == [1.0] * 4 + [0.0] * 37
