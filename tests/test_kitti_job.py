"""The main job on a KITTI tree through the command line: SECOND, its cache, stereo students."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from runs.checkpoint import load_checkpoint
from runs.metrics import last_values
from store.reader import open_cache
from tests.command import command, succeed
from tests.frames.kitti.real_kitti import KITTI, real
from tests.tiny_kitti_runs import write_liga_toml, write_second_toml

IMAGE_TERMS = ("classes", "box", "centreness")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def done(kitti_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher and its cache for every method."""
    folder = tmp_path_factory.mktemp("kitti_job")
    second, liga = write_second_toml(folder, kitti_world), write_liga_toml(folder, kitti_world)
    succeed("train-teacher", second, "--out", folder / "teacher", "--device", "cpu")
    succeed(
        *("dump-teacher", liga, "--checkpoint", folder / "teacher" / "teacher.pt"),
        *("--out", folder / "store", "--device", "cpu"),
    )
    return folder


@pytest.mark.parametrize("method", ["none", "stereodistill", "liga+response", "xgd+cld+liga"])
def test_the_whole_job(done: Path, kitti_world: Path, tmp_path: Path, method: str):
    liga = write_liga_toml(tmp_path, kitti_world)
    store = [] if method == "none" else ["--store", done / "store"]
    succeed(
        *("train-student", liga, "--method", method, "--device", "cpu"),
        *(*store, "--out", tmp_path / "student"),
    )
    header = (tmp_path / "student" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {f"loss/detection/{term}" for term in ("classes", "box", "iou", "depth")} <= {*header}
    assert ("loss/xgd/box" in header) == ("xgd" in method or method == "stereodistill")
    assert ("loss/cld/logit" in header) == ("cld" in method or method == "stereodistill")
    assert ("loss/liga/volume" in header) == ("liga" in method)
    text = succeed(
        *("evaluate", tmp_path / "student" / "student.pt", "--split", "world_val"),
        *("--out", tmp_path / "eval", "--pictures", 1, "--device", "cpu"),
    )
    assert "AP_3D" in text
    assert len(list((tmp_path / "eval" / "kitti_results").glob("*.txt"))) == 3
    scores = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert "Car/3d/moderate/strict/r40" in scores
    (picture,) = (tmp_path / "eval" / "pictures").glob("*.png")
    with Image.open(picture) as image:
        assert image.width > 500


def test_a_student_taught_boxes_in_the_image_detects_without_that_head(
    kitti_world: Path, tmp_path: Path
):
    liga = write_liga_toml(tmp_path, kitti_world)
    with liga.open("a") as file:
        file.write("[student.image_head]\nchannels = 4\nlayers = 1\ngroups = 2\n")
    succeed("train-student", liga, "--out", tmp_path / "student", "--device", "cpu")
    logged = last_values(tmp_path / "student")
    assert all(logged[f"loss/detection/image_{term}"] > 0 for term in IMAGE_TERMS)
    text = succeed(
        *("evaluate", tmp_path / "student" / "student.pt", "--split", "world_val"),
        *("--out", tmp_path / "eval", "--pictures", 0, "--device", "cpu"),
    )
    assert "AP_3D" in text


def test_the_teacher_is_scored_and_known(done: Path, tmp_path: Path):
    text = succeed(
        *("evaluate", done / "teacher" / "teacher.pt", "--split", "world_val"),
        *("--out", tmp_path, "--pictures", 0, "--device", "cpu"),
    )
    assert "AP_BEV" in text
    assert "tiny-second" in succeed("info", done / "teacher" / "teacher.pt")
    cache = open_cache(done / "store")
    held = {spec.name for spec in cache.fingerprint.arrays}
    assert {"anchors/index", "anchors/box", "anchors/direction", "cells/anchor_logit"} <= held
    assert "cells/bev_low" in held


def test_a_student_reads_no_lidar_to_detect(kitti_world: Path, tmp_path: Path):
    blind = tmp_path / "world"
    shutil.copytree(kitti_world, blind)
    liga = write_liga_toml(tmp_path, blind)
    succeed("train-student", liga, "--out", tmp_path / "student", "--device", "cpu")
    shutil.rmtree(blind / "training" / "velodyne")
    succeed(
        *("evaluate", tmp_path / "student" / "student.pt", "--split", "world_val"),
        *("--out", tmp_path / "eval", "--pictures", 1, "--device", "cpu"),
    )
    # Depth supervision does.
    code, text = command("train-student", liga, "--out", tmp_path / "two", "--device", "cpu")
    assert (code, "velodyne" in text) == (1, True)


def test_the_store_is_what_the_teacher_says(done: Path, kitti_world: Path, tmp_path: Path):
    liga = write_liga_toml(tmp_path, kitti_world)
    teacher = done / "teacher" / "teacher.pt"
    given = (liga, done / "store", "--checkpoint", teacher, "--device", "cpu")
    assert "anchors/box" in succeed("recheck", *given)
    text = succeed("recheck", *given, "--carry-over", 2)
    for name in ("anchors/centre", "anchors/heading", "anchor_logit", "bev_high"):
        assert name in text


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("imitation", "method imitation does not read the anchor head of student liga"),
        ("nothing", "unknown method 'nothing'; known: none, cld"),
        ("stereodistill+xgd", "'stereodistill+xgd' repeats a method"),
    ],
)
def test_methods_that_do_not_fit(
    done: Path, kitti_world: Path, tmp_path: Path, method: str, message: str
):
    code, text = command(
        *("train-student", write_liga_toml(tmp_path, kitti_world), "--method", method),
        *("--store", done / "store", "--out", tmp_path / "out", "--device", "cpu"),
    )
    assert code in (1, 2)
    assert message in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("flip_y = 0.5", "flip_x = 0.5", "a stereo student is mirrored alone"),
        ("image_size = [32, 96]", "image_size = [32, 90]", "expected multiples of 16"),
        ("y_min = -16.0", "y_min = -15.0", "they must be the same"),
        ('dataset = "kitti"', 'dataset = "kiti"', "kiti"),
        ("[methods.liga]", "[methods.imitation]", "unknown key"),
    ],
)
def test_bad_configs(
    done: Path, kitti_world: Path, tmp_path: Path, old: str, new: str, message: str
):
    liga = write_liga_toml(tmp_path, kitti_world)
    assert old in liga.read_text()
    liga.write_text(liga.read_text().replace(old, new))
    code, text = command(
        *("dump-teacher", liga, "--checkpoint", done / "teacher" / "teacher.pt"),
        *("--out", tmp_path / "out", "--device", "cpu"),
    )
    assert code == 1
    assert message in text
    assert not (tmp_path / "out").exists()


def test_other_anchors_are_refused(done: Path, kitti_world: Path, tmp_path: Path):
    liga = write_liga_toml(tmp_path, kitti_world)
    anchors = "[student.bev.anchors]\nrotations = [0.0, 1.5]\n[student.bev.anchors.grid]"
    liga.write_text(liga.read_text().replace("[student.bev.anchors.grid]", anchors))
    code, text = command(
        *("dump-teacher", liga, "--checkpoint", done / "teacher" / "teacher.pt"),
        *("--out", tmp_path / "out", "--device", "cpu"),
    )
    assert code == 1
    assert "the teacher's anchors are not the student's (anchors.rotations" in text
    code, text = command(
        *("train-student", liga, "--method", "xgd", "--store", done / "store"),
        *("--out", tmp_path / "out", "--device", "cpu"),
    )
    assert code == 1
    assert "anchors.rotations: found [0.0, 1.57], expected [0.0, 1.5]" in text


@real
def test_real_frames(tmp_path: Path):
    """The stereo frame trains a student from a cache of it; the evaluator reads all labels."""
    second = write_second_toml(tmp_path, KITTI, "training")
    liga = write_liga_toml(tmp_path, KITTI, "000107")
    succeed("train-teacher", second, "--out", tmp_path / "teacher", "--device", "cpu")
    teacher = tmp_path / "teacher" / "teacher.pt"
    succeed(
        *("dump-teacher", liga, "--checkpoint", teacher, "--out", tmp_path / "store"),
        *("--device", "cpu"),
    )
    succeed(
        *("train-student", liga, "--method", "stereodistill", "--store", tmp_path / "store"),
        *("--out", tmp_path / "student", "--device", "cpu"),
    )
    for checkpoint in (teacher, tmp_path / "student" / "student.pt"):
        text = succeed("evaluate", checkpoint, "--out", tmp_path / "eval", "--device", "cpu")
        assert "Cyclist" in text
    assert load_checkpoint(tmp_path / "student" / "student.pt").kind == "student"
