"""What a worker of a scaled-out dump does: load the teacher once, then write part after part."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from frames.frame import Frame
from runs.device import find_device
from runs.errors import ConfigError
from store.errors import FingerprintError
from store.fingerprint import Fingerprint
from store.writer import StoreWriter
from teacher_dump.dump import code_revision, part_rows
from teacher_dump.errors import ScaleOutError
from teacher_dump.label_teacher import LabelTeacher
from teacher_dump.protocol import Teacher, TeacherInfo, load_teacher

# As many as the workers of a machine share its cores; also what makes their bytes the same.
THREADS = 1
# A worker with several threads still has one teacher, and torch's threads are the process's.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpJob:
    """All that a worker is told once; equal jobs share a loaded teacher.

    Attributes:
        store: Folder of the store, absolute: the worker sees the same file system.
        plan_hash: Of the client's writer.
        factory: ``package.module:factory`` of the teacher.
        checkpoint: What the factory gets, absolute.
        device: ``auto``, ``cpu`` or ``cuda``, as the worker finds it.
        batch_size: Rows the teacher sees at once.
        label_encoder: Whose maps to write too, absolute.
    """

    store: Path
    plan_hash: str
    factory: str
    checkpoint: Path | None
    device: str
    batch_size: int
    label_encoder: Path | None = None


def write_part(job: DumpJob, part: range, frames: Sequence[Frame]) -> None:
    """Write one part of the store; a part that is there already is left alone.

    Args:
        job: Whose part it is.
        part: Rows of the store.
        frames: Of these rows, one a row.

    Raises:
        ScaleOutError: This machine lacks the device.
        TeacherError: The teacher cannot be loaded.
        FingerprintError: The store, or this worker's teacher or code, is not the plan's.
        CacheError: The disk is full, or a value does not fit the plan.
        DataError: A frame's file is missing or damaged.
    """
    with _one_at_a_time:
        teacher, writer = _at_work(job)
        if not writer.is_committed(part):
            values = part_rows(teacher, frames, writer, part, batch_size=job.batch_size)
            writer.write_part(part, values)


def forget_teacher() -> None:
    """Give back the memory of the teacher that this worker has loaded."""
    with _one_at_a_time:
        _at_work.cache_clear()


@lru_cache(maxsize=1)
def _at_work(job: DumpJob) -> tuple[Teacher, StoreWriter]:
    """The teacher and the store, held against each other."""
    torch.set_num_threads(THREADS)
    writer = StoreWriter.join(job.store, job.plan_hash)
    try:
        device = find_device(job.device)
    except ConfigError as error:
        raise ScaleOutError(f"on a worker: {error}") from None
    teacher = load_teacher(job.factory, job.checkpoint, device)
    if job.label_encoder is not None:
        teacher = LabelTeacher(teacher, job.label_encoder, device)
    own = as_this_worker_has_it(writer.fingerprint, teacher.info)
    if mismatches := own.mismatches(writer.fingerprint):
        raise FingerprintError(
            job.store, mismatches, "Give this worker the client's code and checkpoint; restart it."
        )
    return teacher, writer


def as_this_worker_has_it(planned: Fingerprint, info: TeacherInfo) -> Fingerprint:
    """The fingerprint with all that depends on the worker taken from the worker."""
    return planned.model_copy(update=info.decides | {"code_revision": code_revision()})
