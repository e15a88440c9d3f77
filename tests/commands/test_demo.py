"""The demo, start to end, on a world of a few frames."""

import json
from pathlib import Path

import pytest

from commands.demo import run_demo
from tests.command import command, succeed
from tests.tiny import write_student_toml, write_teacher_toml
from tests.tiny_kitti_runs import write_liga_toml, write_second_toml

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

WORLD = """train_scenes = 1
val_scenes = 1
frames_per_scene = 3
image_size = [48, 132]
beams = 16
azimuth_steps = 180
objects_per_frame = [20, 24]
"""


def test_the_demo_ends_in_a_table_and_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "demo_world.toml").write_text(WORLD)
    write_teacher_toml(configs, tmp_path).rename(configs / "demo_teacher.toml")
    write_student_toml(configs, tmp_path).rename(configs / "demo_student.toml")
    run_demo(configs, tmp_path / "out", "nuscenes")
    record = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert set(record["scores"]) == {"teacher (LiDAR)", "student none", "student xgd"}
    assert "heading" in record["kept"]["student xgd"]
    assert record["kept"]["student none"] == ""
    assert record["cache_bytes_per_frame"] > 0
    assert len(list((tmp_path / "out").rglob("pictures/*.png"))) == 4
    assert "mAVE" in capsys.readouterr().out
    # A second call finds everything done and only evaluates again.
    weights = (tmp_path / "out" / "student_xgd" / "student.pt").read_bytes()
    run_demo(configs, tmp_path / "out", "nuscenes")
    assert (tmp_path / "out" / "student_xgd" / "student.pt").read_bytes() == weights


KITTI_WORLD = """tree = "kitti"
train_scenes = 1
val_scenes = 1
frames_per_scene = 3
image_size = [32, 96]
beams = 12
azimuth_steps = 360
lidar_range = 40
objects_per_frame = [30, 40]
"""


def test_the_demo_on_kitti(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "demo_kitti_world.toml").write_text(KITTI_WORLD)
    write_second_toml(configs, tmp_path).rename(configs / "demo_kitti_teacher.toml")
    write_liga_toml(configs, tmp_path).rename(configs / "demo_kitti_student.toml")
    run_demo(configs, tmp_path / "out", "kitti", ["none", "xgd+liga"])
    record = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert "Car/3d/moderate/strict/r40" in record["scores"]["student xgd+liga"]
    assert "size" in record["kept"]["student xgd+liga"]
    assert "AP_3D, moderate" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("data", "folder"), [("nuscenes", "demo_out"), ("kitti", "demo_kitti_out")]
)
def test_each_data_set_has_its_own_folder(data: str, folder: str, monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr("commands.demo.run_demo", lambda *given: asked.append(given))
    succeed("demo", "--data", data, "--methods", "none, xgd")
    assert asked == [(Path("configs"), Path(folder), data, ["none", "xgd"])]
    code, text = command("demo", "--out", "s3://bucket/demo")
    assert code == 2
    assert "expected a folder" in text
