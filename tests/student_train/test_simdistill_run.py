"""SimDistill through the normal commands: BEVFusion, its cache, a student that sees no points."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from frames.dataset import read_frames
from frames.loading import load_points
from runs.checkpoint import load_checkpoint
from runs.metrics import last_values
from store.reader import open_cache
from store.schema import Places
from student_train.detector import StudentDetector
from tests.command import command, succeed
from tests.tiny_simdistill import (
    TURNS,
    student_run,
    write_student_toml,
    write_teacher_toml,
    write_untrained_teacher,
)
from tests.tiny_unidistill import write_student_toml as write_unidistill_student
from tests.tiny_unidistill import write_teacher_toml as write_unidistill_teacher

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CPU = ("--device", "cpu")
TERMS = ("imd", "cmd", "mmd_f", "mmd_p")


@pytest.fixture(scope="module")
def checkpoint(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained_teacher(tmp_path_factory.mktemp("bevfusion"), world)


@pytest.fixture(scope="module")
def store(checkpoint: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simdistill")
    dump(write_student_toml(folder, world), checkpoint, folder / "store")
    return folder / "store"


def dump(toml: Path, checkpoint: Path, out: Path, *options: object) -> str:
    named = ("--methods", "simdistill", "--checkpoint", checkpoint, "--out", out)
    return succeed("dump-teacher", toml, *named, *options, *CPU)


def train(toml: Path, store: Path, out: Path) -> dict[str, float]:
    succeed("train-student", toml, "--store", store, "--out", out, *CPU)
    return last_values(out)


def test_the_whole_job(world: Path, tmp_path: Path):
    """Teacher trained and scored, its cache, a student trained and scored; depth taught in both."""
    teacher = tmp_path / "teacher"
    toml = write_teacher_toml(tmp_path, world, depth=1.0)
    succeed("train-teacher", toml, "--kind", "fusion", "--out", teacher, *CPU)
    assert {"loss/heatmap", "loss/box", "loss/depth"} <= last_values(teacher).keys()
    scored = ("--split", "world_val", "--pictures", 0, *CPU)
    succeed("evaluate", teacher / "teacher.pt", "--out", tmp_path / "teacher_eval", *scored)
    student = write_student_toml(tmp_path, world, depth=1.0)
    dump(student, teacher / "teacher.pt", tmp_path / "store")
    out = tmp_path / "student"
    logged = train(student, tmp_path / "store", out)
    for name in ("detection/depth", *(f"simdistill/{term}" for term in TERMS)):
        assert math.isfinite(logged[f"loss/{name}"])
        assert logged[f"loss/{name}"] > 0
    assert {"simdistill/mmd_p/class", "simdistill/mmd_p/box"} <= logged.keys()
    # The first two lie before the fused map, on which shares are measured.
    shares = {key: value for key, value in logged.items() if key.startswith("share/")}
    assert shares.keys() == {"share/simdistill/mmd_f", "share/simdistill/mmd_p"}
    assert all(share > 0 for share in shares.values())
    weights = load_checkpoint(out / "student.pt").weights
    assert not [name for name in weights if "adapt" in name]
    succeed("evaluate", out / "student.pt", "--out", out / "eval", *scored)
    carried = succeed(
        *("recheck", student, tmp_path / "store", "--checkpoint", teacher / "teacher.pt", *CPU),
        *("--rows", 2, "--carry-over", 1),
    )
    assert "bev_lidar" in carried


def test_what_is_stored(store: Path):
    held = {spec.name: spec.places for spec in open_cache(store).fingerprint.arrays}
    assert held == {
        **dict.fromkeys(("bev_camera", "bev_low", "heatmap_logit"), Places.MAP),
        **dict.fromkeys(("cells/bev_lidar", "cells/index"), Places.CELLS),
        "boxes/box_code": Places.BOXES,
    }


@pytest.mark.parametrize(
    ("table", "added"),
    [
        ('prediction = "released"', {"box_code"}),
        ('cmd_mask = "none"', {"bev_lidar"}),
        ('at = "foreground"', {"cells/bev_camera", "cells/bev_low", "cells/heatmap_logit"}),
        ("imd = { weight = 0 }\nmmd_p = { share = 0.1 }", set()),
    ],
)
def test_other_forms_have_dumps_of_their_own(
    checkpoint: Path, store: Path, world: Path, tmp_path: Path, table: str, added: set[str]
):
    toml = write_student_toml(tmp_path, world, method=table)
    if added & {"box_code", "bev_lidar"}:
        # Whole maps serve the foreground's cells, too, but not the other way round.
        out = ("--store", store, "--out", tmp_path / "refused", *CPU)
        code, said = command("train-student", toml, *out)
        assert code == 1
        assert "at map" in said
    dump(toml, checkpoint, tmp_path / "own")
    held = {spec.name for spec in open_cache(tmp_path / "own").fingerprint.arrays}
    assert added <= held
    train(toml, tmp_path / "own", tmp_path / "student")


def test_bfloat16_trains(store: Path, world: Path, tmp_path: Path):
    """Networks and adapters in it, losses in float32."""
    toml = write_student_toml(tmp_path, world, method='map_adapter = "conv1x1"')
    exact = train(toml, store, tmp_path / "exact")
    toml.write_text(toml.read_text() + 'precision = "bf16-mixed"\n')
    found = train(toml, store, tmp_path / "rounded")
    for name in (f"loss/simdistill/{term}" for term in TERMS):
        assert found[name] == pytest.approx(exact[name], rel=0.05), name
        assert found[name] != exact[name], name


def test_foreground_is_small_and_may_be_turned(
    checkpoint: Path, store: Path, world: Path, tmp_path: Path
):
    turned = write_student_toml(tmp_path, world, augment=TURNS, method='at = "foreground"')
    dump(turned, checkpoint, tmp_path / "foreground")
    sizes = [
        sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        for folder in (tmp_path / "foreground", store)
    ]
    assert sizes[0] < sizes[1]
    train(turned, tmp_path / "foreground", tmp_path / "student")


def test_whole_maps_are_not_turned(checkpoint: Path, store: Path, world: Path, tmp_path: Path):
    """Refused before a frame is read; stored views are replayed as they are."""
    toml = write_student_toml(tmp_path, world, augment=TURNS)
    code, said = command("train-student", toml, "--store", store, "--out", tmp_path / "no", *CPU)
    assert code == 1
    assert "bev_camera, bev_low, heatmap_logit: whole maps can be carried into mirrored" in said
    assert not (tmp_path / "no").exists()
    dump(toml, checkpoint, tmp_path / "views", "--views", 2)
    train(toml, tmp_path / "views", tmp_path / "student")


def test_a_student_without_branches_is_refused(store: Path, world: Path, tmp_path: Path):
    toml = write_unidistill_student(tmp_path, world, "camera")
    named = ("--method", "simdistill", "--store", store, "--out", tmp_path / "no", *CPU)
    code, said = command("train-student", toml, *named)
    assert code == 1
    assert "reads the student's bev_camera and bev_lidar, which unidistill does not have" in said


def test_a_dump_for_whatever_is_served(checkpoint: Path, world: Path, tmp_path: Path):
    """Whole maps where the student can read them; of the rest it says why they are left out."""
    toml = write_student_toml(tmp_path, world)
    out = ("--out", tmp_path / "store", *CPU)
    said = succeed("dump-teacher", toml, "--checkpoint", checkpoint, *out)
    assert "left out labeldistill" in said
    assert "left out simdistill" not in said
    held = {spec.name for spec in open_cache(tmp_path / "store").fingerprint.arrays}
    assert {"bev_camera", "bev_low", "boxes/centre", "boxes/relation", "bev_high"} & held == {
        *("bev_camera", "bev_low", "boxes/centre", "boxes/relation")
    }
    train(toml, tmp_path / "store", tmp_path / "student")


def test_a_fusion_teacher_of_another_student_dumps_no_maps(world: Path, tmp_path: Path):
    teacher = tmp_path / "teacher"
    toml = write_unidistill_teacher(tmp_path, world, "fusion")
    succeed("train-teacher", toml, "--out", teacher, *CPU)
    student = write_unidistill_student(tmp_path, world, "camera")
    out = ("--checkpoint", teacher / "teacher.pt", "--out", tmp_path / "store", *CPU)
    said = succeed("dump-teacher", student, *out)
    assert "left out simdistill: method simdistill reads the student's bev_camera" in said
    arrays = open_cache(tmp_path / "store").fingerprint.arrays
    assert not [spec.name for spec in arrays if spec.places is Places.MAP]


def without_lidar(world: Path, folder: Path) -> Path:
    """A copy of the world whose point files are gone."""
    root = folder / "blind"
    shutil.copytree(world, root)
    points = sorted(root.rglob("*.pcd.bin"))
    assert points
    for path in points:
        path.unlink()
    return root


def test_the_student_needs_no_lidar(store: Path, world: Path, tmp_path: Path):
    """Trained and scored where there is not one point file, it says the very same."""
    blind = without_lidar(world, tmp_path)
    out = tmp_path / "student"
    train(write_student_toml(tmp_path, blind), store, out)
    for root, name in ((world, "seeing"), (blind, "blind")):
        options = ("--data-root", root, "--split", "world_val", "--pictures", 0)
        succeed("evaluate", out / "student.pt", *options, "--out", tmp_path / name, *CPU)
    results = [
        json.loads((tmp_path / name / "results_nusc.json").read_text())
        for name in ("seeing", "blind")
    ]
    assert results[0]["results"] == results[1]["results"]
    assert results[0]["meta"]["use_lidar"] is False
    assert any(results[0]["results"].values())


def test_the_teacher_cannot_do_without(checkpoint: Path, world: Path, tmp_path: Path):
    blind = without_lidar(world, tmp_path)
    options = ("--data-root", blind, "--split", "world_val", "--out", tmp_path / "eval", *CPU)
    code, said = command("evaluate", checkpoint, *options)
    assert code == 1
    assert ".pcd.bin" in said


def test_inference_opens_no_point_file(
    store: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Also of a student that is taught depth in training."""
    toml = write_student_toml(tmp_path, world, depth=1.0)
    train(toml, store, tmp_path / "student")
    detector = StudentDetector(
        load_checkpoint(tmp_path / "student" / "student.pt"), torch.device("cpu")
    )
    frames = read_frames(student_run(tmp_path, world).data)
    opened: list[Path] = []
    read_bytes = Path.read_bytes

    def watched(path: Path) -> bytes:
        opened.append(path)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", watched)
    detector.check(frames)
    assert len(detector.detect(frames)) == len(frames)
    assert not [path for path in opened if path.suffix == ".bin"]
    load_points(frames[0])
    assert [path for path in opened if path.suffix == ".bin"]
