import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from frames.detection_classes import DETECTION_CLASSES
from frames.detections import Detections
from frames.errors import DataError
from frames.frame import Frame
from frames.nuscenes import NuScenesConfig, read_frames
from frames.scoring import RESULTS_FILE, Scores, score_nuscenes
from tests.frames.real_data import real, real_config
from tests.frames.tiny_nuscenes import VERSION, write_tiny


def score(*arguments: Any) -> Scores:
    return score_nuscenes(*arguments, inputs=["lidar"])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


def config_of(root: Path, split: str = "scene-0061", version: str = VERSION) -> NuScenesConfig:
    return NuScenesConfig(root=root, version=version, split=split)


def truth(frames: list[Frame], shift: float = 0.0) -> dict[str, Detections]:
    """Ground truth as detections, moved forward by so many metres."""
    moved = torch.tensor([shift] + [0.0] * 8)
    return {
        frame.token: Detections(
            frame.boxes.values + moved,
            frame.boxes.labels,
            torch.linspace(0.9, 0.5, len(frame.boxes)),
        )
        for frame in frames
    }


@pytest.mark.parametrize(
    ("version", "split"),
    [("v1.0-mini", "mini_train"), (VERSION, "tiny_train"), (VERSION, "scene-0061")],
)
def test_the_truth_scores_full_marks_on_every_kind_of_split(
    tmp_path: Path, version: str, split: str, capfd: pytest.CaptureFixture[str]
):
    config = config_of(write_tiny(tmp_path / "tree", version), split, version)
    frames = read_frames(config)
    scores = score(config, frames, truth(frames), tmp_path / "scores")
    assert scores.mean_ap == pytest.approx(1)
    assert scores.nds == pytest.approx(1, abs=1e-4)
    assert set(scores.class_ap) == set(DETECTION_CLASSES)
    assert math.isnan(scores.class_errors["traffic_cone"]["vel_err"])
    summary = json.loads((tmp_path / "scores" / "metrics_summary.json").read_text())
    assert summary["nd_score"] == scores.nds
    assert capfd.readouterr() == ("", "")


def test_a_shift_of_one_and_a_half_metres_costs_what_it_should(tiny: Path, tmp_path: Path):
    """Matched at 2 and 4 m only: mAP 0.5, mATE 1.5 -> NDS (5 * 0.5 + 0 + 1 + 1 + 1 + 1) / 10."""
    frames = read_frames(config_of(tiny))
    scores = score(config_of(tiny), frames, truth(frames, 1.5), tmp_path)
    assert scores.mean_ap == pytest.approx(0.5)
    assert scores.mate == pytest.approx(1.5, abs=1e-4)
    assert (scores.mase, scores.maoe, scores.mave, scores.maae) == pytest.approx(
        (0, 0, 0, 0), abs=1e-4
    )
    assert scores.nds == pytest.approx(0.65, abs=1e-4)


def test_near_and_far_boxes_are_scored_by_themselves(tiny: Path, tmp_path: Path):
    frames, config = read_frames(config_of(tiny)), config_of(tiny)
    metres = torch.cat([frame.boxes.values[:, :2].norm(dim=1) for frame in frames])
    border = 13.0
    # Right near the car, 1.5 m off beyond the border: matched at two of four distances.
    found = truth(frames)
    for frame in frames:
        boxes = found[frame.token].boxes
        distance = boxes[:, :2].norm(dim=1, keepdim=True)
        sideways = boxes[:, [1, 0]] * torch.tensor([-1.0, 1.0]) / distance
        boxes[:, :2] += 1.5 * sideways * (distance >= border)
    scores = score_nuscenes(
        config, frames, found, tmp_path, inputs=["lidar"], distances=(0, border, 1000)
    )
    near, far_away = scores.by_distance.values()
    assert list(scores.by_distance) == [f"0-{border:g}", f"{border:g}-1000"]
    # A class without ground truth in a part counts as 0 there.
    best = [
        len({DETECTION_CLASSES[label] for label in own.tolist()}) / len(DETECTION_CLASSES)
        for own in (_labels(frames, metres < border), _labels(frames, metres >= border))
    ]
    assert near.mean_ap == pytest.approx(best[0])
    assert far_away.mean_ap == pytest.approx(best[1] / 2)
    assert far_away.mate > near.mate
    assert not near.by_distance
    summary = json.loads((tmp_path / "metrics_summary.json").read_text())
    assert summary["mean_ap"] == scores.mean_ap


def _labels(frames: list[Frame], chosen: torch.Tensor) -> torch.Tensor:
    return torch.cat([frame.boxes.labels for frame in frames])[chosen]


def test_the_results_file_is_global_with_w_l_h_and_attributes(tiny: Path, tmp_path: Path):
    frames = read_frames(config_of(tiny))
    detections = truth(frames)
    still = detections["a0"].boxes.clone()
    still[:, 7:] = torch.tensor([0.0, 0.19])
    detections["a0"] = replace(detections["a0"], boxes=still)
    score(config_of(tiny), frames, detections, tmp_path)
    results = json.loads((tmp_path / RESULTS_FILE).read_text())["results"]
    car = results["a1"][0]
    assert car["translation"] == pytest.approx([86.5, 61, 1], abs=1e-4)
    assert car["size"] == pytest.approx([2, 4, 1.5])
    assert car["rotation"] == pytest.approx([0.5**0.5, 0, 0, 0.5**0.5], abs=1e-6)
    assert car["velocity"] == pytest.approx([0, 2], abs=1e-4)
    attributes = {
        token: {box["detection_name"]: box["attribute_name"] for box in boxes}
        for token, boxes in results.items()
    }
    assert attributes["a1"]["car"] == "vehicle.moving"
    assert attributes["a1"]["bicycle"] == "cycle.with_rider"
    assert attributes["a0"]["car"] == "vehicle.parked"
    assert attributes["a0"]["bus"] == "vehicle.stopped"
    assert attributes["a0"]["pedestrian"] == "pedestrian.standing"
    assert attributes["a0"]["bicycle"] == "cycle.without_rider"
    assert attributes["a0"]["barrier"] == ""


def test_a_part_of_the_split_is_scored_on_its_own_ground_truth(tiny: Path, tmp_path: Path):
    first, second = read_frames(config_of(tiny))
    detections = truth([first])
    scores = score(config_of(tiny), [first], detections, tmp_path / "part")
    assert scores.mean_ap == pytest.approx(1)
    silent = detections | {second.token: Detections.empty()}
    both = score(config_of(tiny), [first, second], silent, tmp_path / "both")
    # Half the objects found, all right: precision 1 at recall 0.11..0.5, of 0.11..1.
    assert both.mean_ap == pytest.approx(40 / 90, abs=0.02)


def test_only_the_best_five_hundred_boxes_count(tiny: Path, tmp_path: Path):
    frames = read_frames(config_of(tiny))
    detections = truth(frames)
    right = detections["a0"]
    junk = right.boxes[:1].repeat(600, 1) + 30
    crowd = Detections(
        torch.cat([junk, right.boxes]),
        torch.cat([torch.zeros(600, dtype=torch.int64), right.labels]),
        torch.cat([torch.full((600,), 0.1), right.scores]),
    )
    scores = score(config_of(tiny), frames, detections | {"a0": crowd}, tmp_path)
    results = json.loads((tmp_path / RESULTS_FILE).read_text())["results"]
    assert len(results["a0"]) == 500
    assert scores.mean_ap == pytest.approx(1)


def test_nothing_found_scores_nothing(tiny: Path, tmp_path: Path):
    frames = read_frames(config_of(tiny))
    nothing = {frame.token: Detections.empty() for frame in frames}
    scores = score(config_of(tiny), frames, nothing, tmp_path)
    assert (scores.nds, scores.mean_ap, scores.mate) == (0, 0, 1)


def test_frames_and_detections_must_belong_together(tiny: Path, tmp_path: Path):
    config, frames = config_of(tiny), read_frames(config_of(tiny))
    with pytest.raises(DataError, match=r"1 of 2 frames have no detections \(\['a1'\]\)"):
        score(config, frames, truth(frames[:1]), tmp_path)
    with pytest.raises(DataError, match=r"2 of 2 frames to score are not of the split"):
        score(config_of(tiny, "scene-0103"), frames, truth(frames), tmp_path)
    with pytest.raises(DataError, match="no ground truth in these 0 frames"):
        score(config, [], {}, tmp_path)


def test_detections_that_are_not_finite_are_refused(tiny: Path, tmp_path: Path):
    frames = read_frames(config_of(tiny))
    with pytest.raises(ValueError, match="frame a0: detections are not finite"):
        score(config_of(tiny), frames, truth(frames, math.nan), tmp_path)


@real
def test_real_truth_scores_full_marks_where_there_is_truth(tmp_path: Path):
    """The subset has no velocities and attributes (NaN), and not every class in range."""
    config = real_config("scene-0061")
    frames = read_frames(config)
    scores = score(config, frames, truth(frames), tmp_path / "true")
    present = {"car", "truck", "pedestrian", "traffic_cone", "barrier"}
    assert {name for name, ap in scores.class_ap.items() if ap > 0.999} == present
    assert scores.mean_ap == pytest.approx(0.5)
    assert (scores.mave, scores.maae) == (1, 1)
    far = score(config, frames, truth(frames, 3.0), tmp_path / "far")
    assert far.mean_ap < 0.15


def test_the_results_file_declares_what_the_detector_looked_at(tmp_path: Path):
    tiny = write_tiny(tmp_path / "tree", VERSION)
    config = config_of(tiny)
    frames = read_frames(config)
    score_nuscenes(config, frames, truth(frames), tmp_path, inputs=["camera"])
    meta = json.loads((tmp_path / RESULTS_FILE).read_text())["meta"]
    assert [name for name, used in meta.items() if used] == ["use_camera"]
