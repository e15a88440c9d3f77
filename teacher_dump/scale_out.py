"""Dump on several processes or machines with Dask: the client hands out parts, workers write them.

A part is written by the worker itself, straight into the store;
through Dask go only the frames' metadata. A worker that dies costs the part it was at: the
scheduler gives that part to another one.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from distributed import Future
from distributed.scheduler import KilledWorker

from frames.frame import Frame
from store.writer import StoreWriter
from teacher_dump.dump import frames_of_rows
from teacher_dump.errors import ScaleOutError
from teacher_dump.part_task import DumpJob, write_part
from teacher_dump.workforce import GPU, Workforce

# A worker that finishes a part finds the next one there; more would only be held for the slow.
PARTS_AHEAD = 2
POLL_SECONDS = 0.5


def dump_on_workers(
    workforce: Workforce,
    job: DumpJob,
    frames: Sequence[Frame],
    writer: StoreWriter,
    on_rows: Callable[[int], None] = lambda _rows: None,
    on_lost: Callable[[int, int], None] = lambda _lost, _seen: None,
) -> None:
    """Have the parts of the cache that are not committed yet written, and seal it.

    Args:
        workforce: From :mod:`teacher_dump.workforce`.
        job: The writer's store.
        frames: In the order of the plan.
        writer: A store opened for these frames.
        on_rows: Told how many more rows are done.
        on_lost: Told when workers have died or left: how many so far, of how many seen.

    Raises:
        ScaleOutError: No worker is left.
        CacheError, DataError, TeacherError: A worker's own; see
            :func:`teacher_dump.part_task.write_part`.
    """
    pending = writer.pending_parts
    on_rows(len(writer.rows) - sum(len(part) for part in pending))
    views = writer.fingerprint.views
    work = deque((part, frames_of_rows(frames, part, views)) for part in pending)
    for part in _written(workforce, job, work, on_lost):
        on_rows(len(part))
    writer.finalise()


def _written(
    workforce: Workforce,
    job: DumpJob,
    waiting: deque[tuple[range, list[Frame]]],
    on_lost: Callable[[int, int], None],
) -> Iterator[range]:
    """Parts as they are committed."""
    client, roll_call = workforce.client, _RollCall(workforce, on_lost)
    flying: dict[Future, range] = {}
    landed: SimpleQueue[Future] = SimpleQueue()
    workers = roll_call.workers()
    try:
        while waiting or flying:
            count, resources = able_workers(workers, job.device)
            workforce.check(count)
            while waiting and len(flying) < PARTS_AHEAD * count:
                part, own = waiting.popleft()
                future = client.submit(write_part, job, part, own, pure=False, resources=resources)
                flying[future] = part
                future.add_done_callback(landed.put)
            with suppress(Empty):
                future = landed.get(timeout=POLL_SECONDS)
                part = flying.pop(future)
                _check(future, part, workforce)
                yield part
            workers = roll_call.workers()
    finally:
        client.cancel(list(flying))


def workers_there(workforce: Workforce) -> Mapping[str, Any]:
    """What the scheduler says of each worker, by its address.

    Raises:
        ScaleOutError: The scheduler is gone.
    """
    try:
        # Dask of 2025 and early 2026 lists five of them unless told otherwise.
        workers: Mapping[str, Any] = workforce.client.scheduler_info(n_workers=-1)["workers"]
    except OSError as error:
        raise _lost(workforce) from error
    return workers


def able_workers(workers: Mapping[str, Any], device: str) -> tuple[int, dict[str, float] | None]:
    """How many workers may write parts, and what a part asks of them.

    Where there are workers with the resource ``GPU`` and a GPU is of use, only these, a whole one.

    Args:
        workers: From :func:`workers_there`.
        device: ``auto``, ``cpu`` or ``cuda``.
    """
    with_gpu = sum(worker["resources"].get(GPU, 0) >= 1 for worker in workers.values())
    if with_gpu and device != "cpu":
        return with_gpu, {GPU: 1}
    return len(workers), None


class _RollCall:
    """Asks who is there, and tells of those who were and are no more."""

    def __init__(self, workforce: Workforce, on_lost: Callable[[int, int], None]) -> None:
        self.workforce = workforce
        self.on_lost = on_lost
        self.seen: set[str] = set()
        self.lost = 0

    def workers(self) -> Mapping[str, Any]:
        there = workers_there(self.workforce)
        self.seen.update(there)
        lost = len(self.seen.difference(there))
        if lost > self.lost:
            self.on_lost(lost, len(self.seen))
        self.lost = lost
        return there


def _lost(workforce: Workforce) -> ScaleOutError:
    return ScaleOutError(f"the scheduler {workforce.address} is gone; continue with --resume")


def _check(future: Future, part: range, workforce: Workforce) -> None:
    """Raise what went wrong with a part, as the worker raised it."""
    # A good result is nothing, and not asked for: a worker may die as soon as it has committed.
    if future.status == "cancelled":
        raise _lost(workforce)
    if future.status == "error":
        try:
            future.result()
        except KilledWorker as error:
            raise ScaleOutError(
                f"rows {part.start} to {part.stop - 1} ended {error.allowed_failures + 1} workers "
                "one after the other; out of memory? Look at the workers' logs, then --resume"
            ) from None
