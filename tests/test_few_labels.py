"""Few labels, from the tree on disk to the losses: hidden annotations reach nothing."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from frames.dataset import read_frames
from frames.errors import DataError
from frames.frame import Frame
from frames.nuscenes import NuScenesConfig
from runs.checkpoint import load_checkpoint
from runs.config import load_config
from runs.errors import ConfigError
from runs.metrics import last_values
from store.errors import FingerprintError
from store.reader import Cache, open_cache
from student_train.config import StudentRun
from student_train.data import StudentBatch, StudentDataset
from student_train.train import StudentTraining, needs_of, train_student
from teacher_dump.config import TeacherRun
from teacher_dump.train import train_teacher
from tests.command import command, succeed
from tests.teacher_dump.untrained import write_untrained_teacher
from tests.tiny import student_run, teacher_run, write_student_toml
from tests.tiny_kitti_runs import write_liga_toml, write_second_toml

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
FRACTION, SCORE = 0.5, 0.05


def few(run: StudentRun, **changes: Any) -> StudentRun:
    """The run with few labels."""
    document = run.model_dump(mode="json") | changes
    return StudentRun.model_validate(document | {"data": document["data"] | hidden(run.data)})


def hidden(data: Any) -> dict[str, Any]:
    """A choice in which some frames are labelled, some are not."""
    for seed in range(50):
        chosen = {"labelled": FRACTION, "labelled_seed": seed, "teacher_score": SCORE}
        frames = read_frames(data.model_copy(update=chosen))
        if 0 < sum(frame.unlabelled for frame in frames) < len(frames):
            return chosen
    raise AssertionError("no seed hides some frames")


def write_toml(path: Path, chosen: dict[str, Any]) -> Path:
    lines = "".join(f"{key} = {value}\n" for key, value in chosen.items())
    path.write_text(path.read_text().replace("[data]\n", f"[data]\n{lines}", 1))
    return path


def destroy(root: Path, frames: list[Frame]) -> None:
    """Spoil all annotations of the hidden frames but the places in the plane of their tracks.

    A labelled box's velocity comes from where its track is in the frames beside it.
    """
    tokens = {frame.token for frame in frames if frame.unlabelled}
    table = root / "v1.0-world" / "sample_annotation.json"
    records = json.loads(table.read_text())
    spoilt = [record for record in records if record["sample_token"] in tokens]
    assert spoilt
    for record in spoilt:
        x, y, z = record["translation"]
        record |= {"translation": [x, y, z + 50], "size": [9.0, 9.0, 9.0]}
        record |= {"rotation": [1.0, 0.0, 0.0, 0.0], "num_lidar_pts": 0, "num_radar_pts": 0}
    table.write_text(json.dumps(records))


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def losses(folder: Path) -> dict[str, float]:
    return last_values(folder, "loss")


def test_hidden_annotations_reach_nothing(world: Path, tmp_path: Path):
    """Without them, or with nonsense for them: the same teacher, store bytes and losses."""
    chosen = hidden(student_run(tmp_path, world).data)
    (tmp_path / "spoilt").mkdir()
    roots = {"whole": world, "spoilt": tmp_path / "spoilt" / "world"}
    shutil.copytree(world, roots["spoilt"])
    data = student_run(tmp_path, world).data.model_copy(update=chosen)
    destroy(roots["spoilt"], read_frames(data))
    stores, teachers, trained = [], [], []
    checkpoint = write_untrained_teacher(tmp_path, world)
    for name, root in roots.items():
        out = tmp_path / name
        out.mkdir(exist_ok=True)
        toml = write_toml(write_student_toml(out, root, depth=1.0), chosen)
        succeed(
            *("dump-teacher", toml, "--out", out / "store", "--checkpoint", checkpoint),
            *("--methods", "imitation,xgd,unidistill", "--device", "cpu"),
        )
        succeed("recheck", toml, out / "store", "--checkpoint", checkpoint, "--device", "cpu")
        stores.append(files(out / "store"))
        for unlabelled in ("distil", "pseudo_labels", "leave_out"):
            run = few(student_run(out, root, depth=1.0), unlabelled=unlabelled, method="imitation")
            train_student(
                run, open_cache(out / "store"), out / unlabelled, resume=False, device="cpu"
            )
            trained.append(losses(out / unlabelled))
        teacher = teacher_run(out, root).model_dump(mode="json")
        teaching = TeacherRun.model_validate(teacher | {"data": teacher["data"] | chosen})
        path = train_teacher(teaching, out / "teacher", resume=False, device="cpu")
        notes = load_checkpoint(path).notes
        teachers.append((losses(out / "teacher"), notes["frames"]))
    assert stores[0] == stores[1]
    assert trained[:3] == trained[3:]
    assert teachers[0] == teachers[1]
    assert teachers[0][1] == sum(not frame.unlabelled for frame in read_frames(data))
    other = write_student_toml(tmp_path, world)
    code, text = command(
        *("recheck", other, tmp_path / "whole" / "store", "--checkpoint", checkpoint)
    )
    assert (code, "labelled: found 0.5, expected nothing" in text) == (1, True)


@pytest.fixture(scope="module")
def dumped(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[StudentRun, Cache]:
    folder = tmp_path_factory.mktemp("few")
    run = few(student_run(folder, world, depth=1.0), method="imitation")
    chosen = {key: getattr(run.data, key) for key in ("labelled", "labelled_seed", "teacher_score")}
    succeed(
        *("dump-teacher", write_toml(write_student_toml(folder, world), chosen)),
        *("--out", folder / "store", "--methods", "imitation", "--views", "2"),
        *("--checkpoint", write_untrained_teacher(folder, world), "--device", "cpu"),
    )
    return run, open_cache(folder / "store")


def batch_of(
    run: StudentRun, cache: Cache | None, frames: list[Frame], which: list[int]
) -> StudentBatch:
    data = StudentDataset(frames, run, cache, needs_of(run) if cache else ())
    return data.collate([data[index, 7] for index in which])


def terms_of(
    run: StudentRun, cache: Cache, batch: StudentBatch, *before: StudentBatch
) -> dict[str, torch.Tensor]:
    """Loss terms of a batch, perhaps after others."""
    torch.manual_seed(0)
    # In eval mode: no statistics of a batch.
    training = StudentTraining(run, cache).eval()
    training.log_dict = lambda *_args, **_keys: None  # type: ignore[method-assign]
    for earlier in before:
        training.loss_terms(earlier)
    return training.loss_terms(batch)


def test_pseudo_labels_are_the_teachers_and_labels_stay(dumped: tuple[StudentRun, Cache]):
    run, cache = dumped
    for frame in read_frames(run.data):
        for view in range(2):
            row = cache.row(frame.token, view)
            own = row.augment.boxes3d(frame.boxes)
            assert len(row.gt) > 0
            assert torch.equal(row.gt.values, own.values) == (not frame.unlabelled)


def test_detection_is_that_of_the_labelled_frames(dumped: tuple[StudentRun, Cache]):
    run, cache = dumped
    frames = read_frames(run.data)
    labelled = [k for k, frame in enumerate(frames) if not frame.unlabelled]
    others = [k for k, frame in enumerate(frames) if frame.unlabelled]
    mixed = terms_of(run, cache, batch_of(run, cache, frames, [*others, *labelled]))
    alone = terms_of(run, cache, batch_of(run, cache, frames, labelled))
    for name in ("detection/heatmap", "detection/box"):
        torch.testing.assert_close(mixed[name], alone[name])
        assert alone[name] > 0
    without = batch_of(run, cache, frames, others)
    # How hard a term pulls is not known before a batch with labels.
    assert terms_of(run, cache, without)["imitation/feature"] == 0
    none = terms_of(run, cache, without, batch_of(run, cache, frames, labelled))
    assert none["detection/heatmap"] == none["detection/box"] == 0
    assert none["imitation/feature"] > 0
    total = torch.stack(list(none.values())).sum()
    total.backward()
    assert torch.isfinite(total)
    pseudo = run.model_copy(update={"unlabelled": "pseudo_labels"})
    assert terms_of(pseudo, cache, batch_of(pseudo, cache, frames, others))["detection/box"] > 0


def test_frames_may_be_left_out(dumped: tuple[StudentRun, Cache]):
    run = dumped[0].model_copy(update={"unlabelled": "leave_out", "method": "none"})
    frames = read_frames(run.data)
    data = StudentDataset(frames, run, None, ())
    assert [frame.token for frame in data.frames] == [f.token for f in frames if not f.unlabelled]
    assert batch_of(run, None, frames, [0]).supervised.all()


def test_pseudo_labels_alone_train(dumped: tuple[StudentRun, Cache], tmp_path: Path):
    run = dumped[0].model_copy(update={"unlabelled": "pseudo_labels", "method": "none"})
    train_student(run, dumped[1], tmp_path / "out", resume=False, device="cpu")
    assert losses(tmp_path / "out")["loss/detection/heatmap"] > 0
    with pytest.raises(ConfigError, match="in the cache of a teacher; give --store"):
        train_student(run, None, tmp_path / "other", resume=False, device="cpu")


def test_a_cache_of_another_fraction_is_refused(dumped: tuple[StudentRun, Cache], tmp_path: Path):
    run, cache = dumped
    for value, expected in ((0.25, "0.25"), (1.0, "nothing")):
        other = run.model_copy(update={"data": run.data.model_copy(update={"labelled": value})})
        message = rf"ground_truth_filter\.labelled: found 0\.5, expected {expected}"
        with pytest.raises(FingerprintError, match=message):
            train_student(other, cache, tmp_path / "out", resume=False, device="cpu")
    assert not (tmp_path / "out").exists()


def test_what_cannot_work_is_refused(world: Path, kitti_world: Path, tmp_path: Path):
    run = student_run(tmp_path, world)
    with pytest.raises(ValueError, match=r"every frame is labelled: set data\.labelled"):
        StudentRun.model_validate(run.model_dump(mode="json") | {"unlabelled": "leave_out"})
    document = few(run).model_dump(mode="json")
    document["fit"]["class_balanced"] = True
    with pytest.raises(ValueError, match=r"would never be seen: set unlabelled"):
        StudentRun.model_validate(document)
    StudentRun.model_validate(document | {"unlabelled": "leave_out"})
    with pytest.raises(ConfigError, match='teach nothing; set unlabelled = "leave_out"'):
        train_student(few(run), None, tmp_path / "out", resume=False, device="cpu")
    for unlabelled in ("distil", "leave_out"):
        other = few(student_run(tmp_path, world, depth=1.0), unlabelled=unlabelled)
        none = other.model_copy(update={"data": other.data.model_copy(update={"labelled": 1e-9})})
        with pytest.raises(DataError, match="none of 3 frames is labelled"):
            train_student(none, None, tmp_path / "out", resume=False, device="cpu")
    assert not (tmp_path / "out").exists()
    liga = write_liga_toml(tmp_path, kitti_world)
    liga.write_text(liga.read_text().replace("[data]\n", "[data]\nlabelled = 0.5\n"))
    assert command("train-student", liga, "--out", tmp_path / "x", "--print-config")[0] == 0
    liga.write_text(liga.read_text().replace("[student]\n", "[student]\nimage_head = {}\n"))
    code, text = command("train-student", liga, "--out", tmp_path / "x", "--print-config")
    assert (code, "image_head is taught by labels" in text) == (1, True)


def test_a_checkpoint_is_scored_against_all_labels(world: Path, tmp_path: Path):
    run = few(student_run(tmp_path, world, depth=1.0), unlabelled="leave_out")
    path = train_student(run, None, tmp_path / "out", resume=False, device="cpu")
    out = ("--out", tmp_path / "eval", "--pictures", 0, "--device", "cpu")
    few_text = succeed("evaluate", path, *out)
    data = NuScenesConfig.model_validate(run.data.model_dump() | {"labelled": 1.0})
    assert f"{len(read_frames(data))} frames" in few_text


def test_anchors_and_a_stereo_student(kitti_world: Path, tmp_path: Path):
    """KITTI's hidden label files are never opened."""
    root = tmp_path / "world"
    shutil.copytree(kitti_world, root)
    second = write_second_toml(tmp_path, root)
    liga = write_liga_toml(tmp_path, root)
    data = load_config(liga, StudentRun).data
    chosen = hidden(data) | {"teacher_score": 0.001}
    for toml in (second, liga):
        write_toml(toml, chosen)
    for frame in read_frames(data.model_copy(update=chosen)):
        if frame.unlabelled:
            (root / "training" / "label_2" / f"{frame.token}.txt").write_text("not a label")
    out = tmp_path / "teacher"
    succeed("train-teacher", second, "--out", out, "--device", "cpu")
    succeed(
        *("dump-teacher", liga, "--checkpoint", out / "teacher.pt", "--out", tmp_path / "store"),
        *("--methods", "xgd,cld", "--device", "cpu"),
    )
    succeed(
        *("train-student", liga, "--method", "xgd+cld", "--store", tmp_path / "store"),
        *("--out", tmp_path / "student", "--device", "cpu"),
    )
    assert losses(tmp_path / "student")["loss"] > 0
