"""The main job through the command line, and what bad input does."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from frames.dataset import read_frames
from runs.checkpoint import load_checkpoint
from store.reader import open_cache
from tests.command import command, succeed
from tests.tiny import student_run, write_student_toml, write_teacher_toml

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def done(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher, its foreground and dense caches."""
    folder = tmp_path_factory.mktemp("job")
    teacher, student = write_teacher_toml(folder, world), write_student_toml(folder, world)

    succeed("train-teacher", teacher, "--out", folder / "teacher", "--device", "cpu")
    for coverage in ("foreground", "dense"):
        succeed(
            *("dump-teacher", student, "--checkpoint", folder / "teacher" / "teacher.pt"),
            *("--methods", "xgd,imitation", "--coverage", coverage),
            *("--out", folder / coverage, "--device", "cpu"),
        )
    return folder


def test_the_whole_job(done: Path, world: Path, tmp_path: Path):
    student = write_student_toml(tmp_path, world)
    succeed(
        *("train-student", student, "--method", "xgd+imitation", "--device", "cpu"),
        *("--store", done / "foreground", "--out", tmp_path / "student"),
    )
    notes = load_checkpoint(tmp_path / "student" / "student.pt", "student").notes
    assert notes["cache"] == open_cache(done / "foreground").manifest_hash
    logged = (tmp_path / "student" / "metrics.csv").read_text().splitlines()[0].split(",")
    for name in ("loss/xgd/box", "share/xgd/box", "share/imitation/feature", "xgd/kept/heading"):
        assert name in logged
    text = succeed(
        *("evaluate", tmp_path / "student" / "student.pt", "--split", "world_val"),
        *("--out", tmp_path / "eval", "--pictures", 1, "--device", "cpu"),
    )
    assert "mATE" in text
    (picture,) = (tmp_path / "eval" / "pictures").glob("*.png")
    with Image.open(picture) as image:
        assert image.width > 500
    results = json.loads((tmp_path / "eval" / "results_nusc.json").read_text())
    assert len(results["results"]) == 3


def test_a_student_needs_no_lidar_file(done: Path, world: Path, tmp_path: Path):
    blind = tmp_path / "world"
    shutil.copytree(world, blind)
    shutil.rmtree(blind / "samples" / "LIDAR_TOP")
    shutil.rmtree(blind / "sweeps")
    student = write_student_toml(tmp_path, blind)
    arguments = ("--method", "xgd", "--store", done / "foreground", "--device", "cpu")
    succeed("train-student", student, *arguments, "--out", tmp_path / "s")
    supervised = write_student_toml(tmp_path, blind, depth=1.0)
    code, text = command("train-student", supervised, *arguments, "--out", tmp_path / "d")
    assert code == 1
    assert "LIDAR_TOP" in text


def test_foreground_and_dense_caches_train_the_same_student(
    done: Path, world: Path, tmp_path: Path
):
    student = write_student_toml(tmp_path, world)
    losses = []
    for coverage in ("foreground", "dense"):
        succeed(
            *("train-student", student, "--method", "imitation", "--device", "cpu"),
            *("--store", done / coverage, "--out", tmp_path / coverage),
        )
        weights = load_checkpoint(tmp_path / coverage / "student.pt").weights
        losses.append({name: value.tolist() for name, value in weights.items()})
    assert losses[0] == losses[1]


def test_a_resumed_run_equals_an_uninterrupted_one(
    done: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from student_train.train import StudentTraining

    student = write_student_toml(tmp_path, world, steps=4)
    common = ("--method", "xgd", "--store", done / "foreground", "--device", "cpu")
    succeed("train-student", student, *common, "--out", tmp_path / "whole")
    steps = StudentTraining.loss_terms

    def interrupted(self: StudentTraining, batch: object) -> object:
        if self.global_step == 2:
            raise KeyboardInterrupt
        return steps(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(StudentTraining, "loss_terms", interrupted)
    code, text = command("train-student", student, *common, "--out", tmp_path / "cut")
    assert code != 0
    assert "--resume" in text
    monkeypatch.setattr(StudentTraining, "loss_terms", steps)
    succeed("train-student", student, *common, "--out", tmp_path / "cut", "--resume")
    whole = load_checkpoint(tmp_path / "whole" / "student.pt").weights
    cut = load_checkpoint(tmp_path / "cut" / "student.pt").weights
    assert {k: v.tolist() for k, v in whole.items()} == {k: v.tolist() for k, v in cut.items()}


def test_targets_dumped_one_after_the_other_are_merged_and_named(
    done: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    student = write_student_toml(tmp_path, world)
    for method in ("xgd", "imitation"):
        succeed(
            *("dump-teacher", student, "--checkpoint", done / "teacher" / "teacher.pt"),
            *("--methods", method, "--out", tmp_path / method, "--device", "cpu"),
        )
    succeed("merge", tmp_path / "xgd", tmp_path / "imitation", tmp_path / "both")
    merged, once = open_cache(tmp_path / "both"), open_cache(done / "foreground")
    assert merged.fingerprint.masks == once.fingerprint.masks
    assert {token: merged.digests(token) for token in merged.tokens} == {
        token: once.digests(token) for token in once.tokens
    }
    monkeypatch.setenv("BEVCACHE_CATALOGUE", str(tmp_path / "catalogue.json"))
    succeed(
        *("catalogue", "add", "both", tmp_path / "both"),
        *("--description", "what xgd and imitation read", "--licence", "a made-up world"),
    )
    succeed(
        *("train-student", student, "--method", "xgd+imitation", "--device", "cpu"),
        *("--store", "team:both", "--out", tmp_path / "student"),
    )
    notes = load_checkpoint(tmp_path / "student" / "student.pt", "student").notes
    assert notes["cache"] == merged.manifest_hash


def test_info_of_a_store_and_a_checkpoint(done: Path):
    text = succeed("info", done / "foreground", "--json")
    assert json.loads(text)["complete"] is True
    text = succeed("info", done / "teacher" / "teacher.pt")
    assert "tiny-teacher" in text


def test_a_dry_run_writes_nothing(done: Path, world: Path, tmp_path: Path):
    student = write_student_toml(tmp_path, world)
    text = succeed(
        *("dump-teacher", student, "--checkpoint", done / "teacher" / "teacher.pt"),
        *("--out", tmp_path / "store", "--dry-run", "--device", "cpu"),
    )
    assert "boxes/centre" in text
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("split =", "splt ="), "data.splt: unknown key; did you mean 'split'"),
        (('split = "world_train"', 'split = "train"'), "has no split 'train'"),
        (("steps = 2", "steps = 0"), "fit.steps"),
        (("cell_size = 4.8", "cell_size = 2.4"), "grid.cell_size: found 4.8, expected 2.4"),
        (("sweeps = 2", "min_points = 5"), "min_points: found 1, expected 5"),
    ],
)
def test_bad_configs(
    done: Path, world: Path, tmp_path: Path, change: tuple[str, str], message: str
):
    path = write_student_toml(tmp_path, world)
    path.write_text(path.read_text().replace(*change))
    code, text = command(
        *("train-student", path, "--method", "xgd", "--store", done / "foreground"),
        *("--out", tmp_path / "student", "--device", "cpu"),
    )
    assert code == 1
    assert "error" in text
    assert message in text
    assert not (tmp_path / "student" / "student.pt").exists()


def test_bad_places(done: Path, world: Path, tmp_path: Path):
    student = write_student_toml(tmp_path, world)
    out = ("--out", tmp_path / "x", "--device", "cpu")
    code, text = command("train-student", student, *out, "--data-root", tmp_path / "nowhere")
    assert (code, "no nuScenes folder at" in text) == (1, True)
    assert not (tmp_path / "x").exists()
    code, text = command("train-student", student, *out, "--store", tmp_path)
    assert (code, "a method reads a store, none reads none" in text) == (2, True)
    code, text = command("train-student", student, "--method", "xgd", "--store", tmp_path, *out)
    assert (code, "holds neither" in text) == (1, True)
    code, text = command("train-student", student, "--method", "xdg", *out)
    assert (code, "unknown method 'xdg'" in text) == (2, True)
    code, text = command("evaluate", tmp_path / "none.pt", *out)
    assert (code, "no checkpoint" in text) == (1, True)
    cut = tmp_path / "cut.pt"
    cut.write_bytes((done / "teacher" / "teacher.pt").read_bytes()[:5000])
    code, text = command("dump-teacher", student, "--checkpoint", cut, *out)
    assert (code, "truncated" in text) == (1, True)
    code, text = command("info", tmp_path / "nowhere")
    assert (code, "there is no" in text) == (1, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--out", "s3://team/store"), "expected a folder"),
        (("--out", "team:store"), "expected a folder"),
        (("--methods", "none"), "it reads nothing of a teacher"),
        (("--methods", "xgd", "--encoding", "uint8"), "encoding uint8 is of features"),
        (("--teacher", "json:loads"), "expected a function of a checkpoint's path and a device"),
    ],
)
def test_bad_dumps(done: Path, world: Path, tmp_path: Path, options: tuple[str, ...], message: str):
    code, text = command(
        *("dump-teacher", write_student_toml(tmp_path, world), "--out", tmp_path / "store"),
        *("--checkpoint", done / "teacher" / "teacher.pt", "--device", "cpu", *options),
    )
    assert code != 0
    assert message in text
    assert not (tmp_path / "store").exists()


def test_a_teacher_on_another_grid_is_refused_before_it_runs(
    done: Path, world: Path, tmp_path: Path
):
    path = write_student_toml(tmp_path, world)
    path.write_text(path.read_text().replace("cell_size = 4.8", "cell_size = 2.4"))
    code, text = command(
        *("dump-teacher", path, "--checkpoint", done / "teacher" / "teacher.pt"),
        *("--out", tmp_path / "store", "--device", "cpu"),
    )
    assert (code, "grid.cell_size: found 4.8, expected 2.4" in text) == (1, True)


def test_a_corrupted_store_is_noticed(done: Path, world: Path, tmp_path: Path):
    broken = tmp_path / "store"
    shutil.copytree(done / "dense", broken)
    shard = max(
        (p for p in broken.rglob("*") if "bev_high" in str(p)), key=lambda p: p.stat().st_size
    )
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    shard.write_bytes(data)
    code, text = command(
        *("train-student", write_student_toml(tmp_path, world), "--method", "imitation"),
        *("--store", broken, "--out", tmp_path / "s", "--device", "cpu"),
    )
    assert code == 1
    assert "bev_high" in text


def test_another_teachers_store_is_not_continued(done: Path, world: Path, tmp_path: Path):
    student = write_student_toml(tmp_path, world)
    teacher = write_teacher_toml(tmp_path, world, steps=1)
    succeed("train-teacher", teacher, "--out", tmp_path / "t", "--device", "cpu")
    code, text = command(
        *("dump-teacher", student, "--checkpoint", tmp_path / "t" / "teacher.pt", "--resume"),
        *("--out", done / "dense", "--device", "cpu"),
    )
    assert code == 1
    assert "error" in text


def test_copy_and_verify(done: Path, tmp_path: Path):
    text = succeed("copy", done / "foreground", tmp_path / "copy")
    assert "every file there was read and compared" in text
    code, text = command("verify", tmp_path / "copy")
    assert (code, "whole" in text) == (0, True), text
    (tmp_path / "copy" / "gt/values/c/0/0").write_bytes(b"short")
    code, text = command("verify", tmp_path / "copy")
    assert code == 1
    assert "damaged: gt/values/c/0/0 has 5 bytes" in text
    code, text = command("verify", tmp_path)
    assert code == 1
    assert "holds no store" in text


def test_frames_survive_the_journey(done: Path, world: Path, tmp_path: Path):
    """The store holds each frame's ground truth and the teacher's box for each of its boxes."""
    cache = open_cache(done / "foreground")
    for frame in read_frames(student_run(tmp_path, world).data):
        row = cache[frame.token]
        assert row.gt.values.equal(frame.boxes.values)
        assert len(row.arrays["boxes/centre"]) == len(frame.boxes)
