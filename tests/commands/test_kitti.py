"""KITTI's scores through the commands."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from commands import steps
from commands.kitti import full_tables, leaderboard_table
from frames.detection_classes import KITTI_CLASSES
from frames.detections import Detections
from frames.frame import Frame
from frames.grid import BEVGrid
from frames.kitti.config import KittiConfig
from frames.kitti.evaluation import frames_to_score, score_files, score_frames
from frames.kitti.labels import read_objects
from frames.kitti.scoring import KittiScores, Metric, Overlap, Setting
from tests.command import command, succeed
from tests.frames.kitti.real_kitti import KITTI, real
from tests.frames.kitti.street_kitti import R40, config, detect, street, write_street

GRID = BEVGrid(x_min=2.0, y_min=-30.4, cell_size=1.6, shape=(38, 36))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of cars, and an evaluation of it in ``out``."""
    root = write_street(tmp_path_factory.mktemp("street"))
    frames = street(root)
    found = {f.token: d for f, d in zip(frames, detect(frames), strict=True)}
    score_frames(frames, found, KITTI_CLASSES, root / "out")
    return root


@pytest.fixture(scope="module")
def scores(root: Path) -> KittiScores:
    return score_files(*folders(root), frames_to_score(*folders(root)))


def folders(root: Path) -> tuple[Path, Path]:
    """Labels and results."""
    return root / "training" / "label_2", root / "out" / "kitti_results"


def rows_of(*tables: object) -> list[list[str]]:
    """Words of each row on a console of 80 columns."""
    console = Console(width=80, file=io.StringIO())
    console.print(*tables)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    return [line.replace("│", " ").split() for line in lines if line.startswith("│")]


def test_the_table_fits_a_console_and_has_a_row_a_class(scores: KittiScores):
    cars, *others = rows_of(leaderboard_table(scores))
    assert cars == ["Car", *[f"{R40:.2f}"] * 9]
    assert others == [[name, *["0.00"] * 9] for name in KITTI_CLASSES[1:]]


def test_the_full_tables_have_every_metric(scores: KittiScores):
    rows = rows_of(*full_tables(scores))
    assert len(rows) == 2 * 3 * 4
    assert rows[0] == ["Car", "AP_3D", *[f"{R40:.2f}"] * 6]
    assert rows[15] == ["Car", "AOS", *["63.64"] * 6]


def test_a_cell_without_a_score_is_empty(scores: KittiScores):
    """No detection has an alpha: no AOS."""
    blind = {setting: curve for setting, curve in scores.items() if setting.metric != Metric.AOS}
    assert ["Car", "AOS"] in rows_of(*full_tables(blind))


def test_anyones_files_are_scored(root: Path, tmp_path: Path):
    text = succeed("score-kitti", *folders(root))
    assert "12 of 12 labelled frames" in text
    assert "AP_3D" in text
    assert "67.50 67.50 67.50" in text
    assert "AOS" not in text
    assert "AOS" in succeed("score-kitti", *folders(root), "--all")
    listed = tmp_path / "val.txt"
    listed.write_text("000001\n000002\n")
    text = succeed("score-kitti", *folders(root), "--split-file", listed)
    assert "2 of 12 labelled frames" in text
    assert "22.50" in text
    facts = json.loads(succeed("score-kitti", *folders(root), "--json"))
    written = json.loads((root / "out" / "metrics.json").read_text())
    assert facts == written
    assert facts["Car/3d/moderate/strict/r40"] == pytest.approx(R40)


def test_a_listed_frame_without_a_result_file_is_named(root: Path, tmp_path: Path):
    listed = tmp_path / "val.txt"
    listed.write_text("000001\n000099\n")
    code, text = command("score-kitti", *folders(root), "--split-file", listed)
    assert code == 1
    assert "1 of 2 frames have no result file" in text
    assert "(000099); write an empty one where nothing was found" in text


def ready(frames: Sequence[Frame]) -> None:
    assert frames


def oracle(root: Path, split: str = "training") -> steps.Detector:
    return steps.Detector("teacher", ("lidar",), ready, detect, config(root, split), GRID)


def test_evaluate_scores_as_the_data_set_does(root: Path, tmp_path: Path):
    detector = oracle(root)
    result = steps.evaluate(detector, detector.data, tmp_path, pictures=1)
    assert isinstance(result.scores, dict)
    assert {round(c.r40, 6) for s, c in result.scores.items() if s.kind == "Car"} == {R40}
    assert result.frames == 12
    assert [path.name for path in result.pictures] == ["000006.png"]
    found = read_objects(tmp_path / "kitti_results" / "000001.txt")
    assert [thing.kind for thing in found] == ["Car"] * 5


@pytest.mark.parametrize(("split", "says"), [("training", "67.50"), ("testing", "nothing to")])
def test_the_command_evaluate(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str, says: str
):
    """A frame of testing has no labels: its result files are all there is."""
    # In place of a checkpoint: the cars themselves.
    monkeypatch.setattr("runs.checkpoint.load_checkpoint", lambda path: path)
    monkeypatch.setattr(steps, "load_detectors", lambda *_: (oracle(root), None))
    arguments = ("evaluate", "x.pt", "--split", split, "--out", tmp_path, "--pictures", 0)
    assert says in succeed(*arguments)
    assert (tmp_path / "metrics.json").is_file() == (split == "training")
    assert len(list((tmp_path / "kitti_results").iterdir())) == 12
    code, text = command(*arguments, "--version", "v1.0-mini")
    assert (code, "kitti has no versions" in text) == (2, True)


def moved(frames: Sequence[Frame]) -> list[Detections]:
    """The true boxes, a little farther away."""
    return [
        Detections(
            f.boxes.values + torch.tensor([0.1, *[0.0] * 8]),
            f.boxes.labels,
            torch.linspace(1, 0.5, len(f.boxes)),
        )
        for f in frames
    ]


@real
def test_a_real_stereo_frame(tmp_path: Path):
    data = KittiConfig(root=KITTI, split="000107")
    detector = steps.Detector("student", ("camera",), ready, moved, data, GRID)
    result = steps.evaluate(detector, data, tmp_path, pictures=1)
    assert isinstance(result.scores, dict)
    # Seven cars, all found.
    hard = Setting("Car", Metric.AP_3D, "hard", Overlap.STRICT)
    assert result.scores[hard].r40 == pytest.approx(100 * 6 / 40)
    with Image.open(result.pictures[0]) as picture:
        assert picture.width > 2 * picture.height
    labels = KITTI / "training" / "label_2"
    text = succeed("score-kitti", labels, tmp_path / "kitti_results")
    assert "1 of 3 labelled frames" in text
    assert "15.00" in text
