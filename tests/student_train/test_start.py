"""A student that begins with a trained one's weights."""

from pathlib import Path

import pytest
import torch

from runs.checkpoint import Checkpoint, load_checkpoint
from runs.errors import ConfigError
from student_train.config import StudentRun
from student_train.start import start_from
from student_train.students.kinds import build_student
from student_train.train import StudentTraining, train_student
from tests.command import command, succeed
from tests.teacher_dump.untrained import write_untrained_teacher
from tests.tiny import student_run, write_student_toml

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def start(world: Path, tmp_path: Path) -> Checkpoint:
    run = student_run(tmp_path, world)
    path = train_student(run, None, tmp_path / "start", resume=False, device="cpu")
    return load_checkpoint(path, "student")


def with_fit(run: StudentRun, **changes: float) -> StudentRun:
    return run.model_copy(update={"fit": run.fit.model_copy(update=changes)})


def test_it_begins_where_the_start_ended(world: Path, tmp_path: Path, start: Checkpoint):
    run = with_fit(student_run(tmp_path, world), seed=7, learning_rate=1e-12, weight_decay=0.0)
    path = train_student(run, None, tmp_path / "out", resume=False, device="cpu", start=start)
    trained = load_checkpoint(path, "student")
    assert trained.notes["start"] == start.sha256
    for name, value in trained.weights.items():
        if "running" not in name and "tracked" not in name:
            assert torch.allclose(value, start.weights[name], atol=1e-6), name


def test_a_finished_run_is_of_its_start(world: Path, tmp_path: Path, start: Checkpoint):
    """The same config without it, or begun from another, is another run."""
    run, out = student_run(tmp_path, world, steps=1), tmp_path / "out"
    path = train_student(run, None, out, resume=False, device="cpu", start=start)
    made = path.stat().st_mtime_ns
    train_student(run, None, out, resume=True, device="cpu", start=start)
    assert path.stat().st_mtime_ns == made
    with pytest.raises(
        ConfigError, match=f"begun with the start of sha256 {start.sha256}, found None"
    ):
        train_student(run, None, out, resume=True, device="cpu")


@pytest.mark.parametrize(
    ("changes", "differing"),
    [
        ({"grid": {"cell_size": 9.6}}, r"student\.grid\.cell_size: found 4\.8, expected 9\.6"),
        (
            {"depth": {"context_channels": 5}, "backbone": {"in_channels": 5}},
            r"student\.backbone\.in_channels: found 6, expected 5",
        ),
    ],
)
def test_another_network_is_refused(
    world: Path,
    tmp_path: Path,
    start: Checkpoint,
    changes: dict[str, dict[str, float]],
    differing: str,
):
    """Also one whose weights have the same shapes."""
    document = student_run(tmp_path, world).model_dump(mode="json")
    for table, values in changes.items():
        document["student"][table] |= values
    run = StudentRun.model_validate(document)
    network = build_student(run.student)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(ConfigError, match=differing):
        start_from(network, run, start)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_loss_and_decoding_may_differ(world: Path, tmp_path: Path, start: Checkpoint):
    document = student_run(tmp_path, world).model_dump(mode="json")
    document["student"] |= {"depth_loss_weight": 2.0}
    document["student"]["decode"] |= {"score_threshold": 0.3}
    run = StudentRun.model_validate(document)
    network = build_student(run.student)
    start_from(network, run, start)
    assert all(torch.equal(v, start.weights[k]) for k, v in network.state_dict().items())


def test_no_pretrained_weights_are_fetched_to_be_overwritten(
    world: Path, tmp_path: Path, start: Checkpoint, monkeypatch: pytest.MonkeyPatch
):
    built: list[StudentRun] = []

    def noted(run: StudentRun, cache: None) -> StudentTraining:
        built.append(run)
        return StudentTraining(run, cache)

    monkeypatch.setattr("student_train.train.StudentTraining", noted)
    document = student_run(tmp_path, world).model_dump(mode="json")
    document["student"]["image"]["pretrained"] = True
    run = StudentRun.model_validate(document)
    train_student(run, None, tmp_path / "out", resume=False, device="cpu", start=start)
    assert [own.student.image.pretrained for own in built] == [False]  # type: ignore[union-attr]


def test_the_command_begins_with_a_student_alone(world: Path, tmp_path: Path, start: Checkpoint):
    toml = write_student_toml(tmp_path, world)
    call = ("train-student", toml, "--out", tmp_path / "out", "--device", "cpu", "--start")
    teacher = write_untrained_teacher(tmp_path, world)
    code, text = command(*call, teacher)
    assert (code, "holds a teacher, expected a student" in text) == (1, True)
    assert not (tmp_path / "out").exists()
    succeed(*call, tmp_path / "start" / "student.pt")
    found = load_checkpoint(tmp_path / "out" / "student.pt")
    assert found.notes["start"] == start.sha256
