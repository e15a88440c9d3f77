"""A worker's part of a dump, in this process: what it refuses, and what it leaves alone."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from frames.dataset import read_frames
from frames.frame import Frame
from store.errors import FingerprintError, RowValueError
from store.rows import rows_of_frames
from store.schema import Need, Places, Target
from store.writer import StoreWriter
from teacher_dump.centerpoint_teacher import CenterPointTeacher
from teacher_dump.defaults import OWN_TEACHER
from teacher_dump.dump import DumpOptions, plan_dump
from teacher_dump.errors import ScaleOutError
from teacher_dump.part_task import DumpJob, forget_teacher, write_part
from tests.store.building import tree
from tests.teacher_dump.untrained import write_untrained_teacher
from tests.tiny import teacher_run

WHOLE = range(3)


@pytest.fixture
def writer(
    teacher: CenterPointTeacher, frames: list[Frame], world: Path, tmp_path: Path
) -> StoreWriter:
    data = teacher_run(tmp_path, world).data
    needs = [Need(Target.BOXES, Places.BOXES)]
    plan = plan_dump(teacher, frames, data, needs, DumpOptions())
    return StoreWriter.open(tmp_path / "store", plan.fingerprint, rows_of_frames(frames))


@pytest.fixture
def job(writer: StoreWriter, checkpoint: Path) -> DumpJob:
    forget_teacher()
    return DumpJob(
        store=writer.path,
        plan_hash=writer.plan_hash,
        factory=OWN_TEACHER,
        checkpoint=checkpoint,
        device="cpu",
        batch_size=2,
    )


def test_a_part_is_written_once(job: DumpJob, writer: StoreWriter, frames: list[Frame]):
    write_part(job, WHOLE, frames)
    assert writer.pending_parts == []
    before = tree(writer.path)
    # Frames without files: a committed part does not ask the teacher again.
    write_part(job, WHOLE, [replace(frame, sweeps=()) for frame in frames])
    assert tree(writer.path) == before


def test_another_checkpoint_is_refused(
    job: DumpJob, frames: list[Frame], world: Path, tmp_path: Path
):
    (tmp_path / "other").mkdir()
    other = write_untrained_teacher(tmp_path / "other", world, seed=1)
    with pytest.raises(FingerprintError, match=r"teacher\.checkpoint_sha256: found") as caught:
        write_part(replace(job, checkpoint=other), WHOLE, frames)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.mismatches) == (str(caught.value), caught.value.mismatches)


def test_other_code_is_refused(job: DumpJob, frames: list[Frame], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("teacher_dump.part_task.code_revision", lambda: "0.0")
    with pytest.raises(FingerprintError, match=r"code_revision: found '0\.0', expected"):
        write_part(job, WHOLE, frames)


def test_another_dump_in_the_folder_is_refused(job: DumpJob, frames: list[Frame]):
    with pytest.raises(FingerprintError, match="Another dump has begun there"):
        write_part(replace(job, plan_hash="0" * 64), WHOLE, frames)


def test_a_gpu_that_is_not_there_is_told(
    job: DumpJob, frames: list[Frame], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ScaleOutError, match="on a worker: --device cuda: torch finds no"):
        write_part(replace(job, device="cuda"), WHOLE, frames)


def test_frames_of_other_rows_are_refused(job: DumpJob, world: Path, tmp_path: Path):
    val = teacher_run(tmp_path, world).data.model_copy(update={"split": "world_val"})
    with pytest.raises(RowValueError, match="found the values of"):
        write_part(job, WHOLE, read_frames(val))
