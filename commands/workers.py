"""Dumping on workers, with what the console says of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from commands.progress import console
from frames.frame import Frame
from store.writer import StoreWriter
from teacher_dump.part_task import DumpJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """Who runs the teacher instead of this process, and how they come by it.

    Attributes:
        local: So many processes of this machine; None for those of ``scheduler``.
        scheduler: Address of a running Dask cluster.
        factory: ``package.module:factory`` of the teacher.
        checkpoint: Its weights.
        device: ``auto``, ``cpu`` or ``cuda``, as each worker finds it.
        label_encoder: Whose maps to write too.
    """

    local: int | None
    scheduler: str
    factory: str
    checkpoint: Path | None
    device: str
    label_encoder: Path | None = None


def dump_on(
    workers: Workers,
    frames: list[Frame],
    writer: StoreWriter,
    batch_size: int,
    on_rows: Callable[[int], None],
) -> None:
    """Have workers write the parts that are not committed yet, and seal the store.

    Args:
        workers: Who.
        frames: In the order of the plan.
        writer: A store opened for these frames.
        batch_size: Rows the teacher sees at once.
        on_rows: Told how many more rows are done.

    Raises:
        ScaleOutError: No scheduler answers, or no worker is left.
        CacheError, DataError, TeacherError: A worker's own.
    """
    # Here, so that dask is loaded by those who ask for workers.
    from teacher_dump.scale_out import dump_on_workers
    from teacher_dump.workforce import local_workforce, remote_workforce

    job = DumpJob(
        store=writer.path.absolute(),
        plan_hash=writer.plan_hash,
        factory=workers.factory,
        checkpoint=workers.checkpoint and workers.checkpoint.absolute(),
        device=workers.device,
        batch_size=batch_size,
        label_encoder=workers.label_encoder and workers.label_encoder.absolute(),
    )
    start = (
        remote_workforce(workers.scheduler)
        if workers.local is None
        else local_workforce(workers.local, workers.device)
    )
    with start as workforce:
        dump_on_workers(workforce, job, frames, writer, on_rows, _tell_of_lost)


def _tell_of_lost(lost: int, seen: int) -> None:
    console.print(f"lost so far: {lost} of {seen} workers; the part each was at will be done again")
