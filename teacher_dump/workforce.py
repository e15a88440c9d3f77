"""Workers for a scaled-out dump: processes of this machine, or those of a running cluster."""

import asyncio
import logging
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess

import dask
import torch
from distributed import Client, LocalCluster, Worker

from teacher_dump.errors import ScaleOutError
from teacher_dump.part_task import forget_teacher

GPU = "GPU"
# A batch system starts workers one after the other, and may start a lost one again.
NO_WORKER_SECONDS = 60.0
CONNECT_SECONDS = 10.0
# A silent worker of this machine is busy: when one dies its connection closes at once.
_BUSY = {
    "distributed.scheduler.worker-ttl": None,
    "distributed.comm.timeouts.connect": "5 minutes",
    "distributed.comm.timeouts.tcp": "5 minutes",
}
_LOCALHOST = "127.0.0.1"
_ANY_PORT = f"{_LOCALHOST}:0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workforce:
    """A connected scheduler, and who works for it.

    Attributes:
        client: Of the scheduler.
        address: Of the scheduler.
        check: Called every now and then with the number of workers there; raises
            :class:`ScaleOutError` where waiting for more is in vain.
    """

    client: Client
    address: str
    check: Callable[[int], None]


@contextmanager
def local_workforce(workers: int, device: str) -> Iterator[Workforce]:
    """So many fresh processes of this machine; they are gone afterwards, and their files too.

    A process that dies is not replaced: what killed it would kill the next one. With ``cuda`` each
    process sees one of the machine's GPUs, in turn, and offers it as the resource ``GPU``.
    """
    gpus = torch.cuda.device_count() if device != "cpu" else 0
    with (
        dask.config.set(_BUSY),
        tempfile.TemporaryDirectory(prefix="bevcache-workers-") as folder,
        _scheduler() as cluster,
    ):
        # Not forked: zarr's and torch's threads do not survive it.
        processes = [
            multiprocessing.get_context("spawn").Process(
                target=_work,
                args=(cluster.scheduler_address, str(name), folder, name % gpus if gpus else None),
            )
            for name in range(workers)
        ]
        try:
            for process in processes:
                process.start()
            with Client(cluster, set_as_default=False) as client:
                yield Workforce(
                    client=client,
                    address=cluster.scheduler_address,
                    check=lambda _count: _check_alive(processes),
                )
        finally:
            # A part is whole or absent whenever its writer dies, so nothing is waited for.
            for process in processes:
                if process.pid is not None:
                    process.kill()
                    process.join()


@contextmanager
def remote_workforce(address: str) -> Iterator[Workforce]:
    """The workers of a running cluster; afterwards, or after an error, they let go of the teacher.

    Args:
        address: Of its scheduler, for example ``tcp://10.0.0.1:8786``.

    Raises:
        ScaleOutError: No scheduler answers there.
    """
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ScaleOutError(
            f"--scheduler {address}: no Dask scheduler answers ({error}); start one with "
            "dask scheduler, and give the address that it prints"
        ) from error
    with client:
        try:
            yield Workforce(client=client, address=address, check=_Patience(address).check)
        finally:
            # Of a lost scheduler there is nothing more to say.
            if client.status == "running":
                with suppress(OSError):
                    client.run(_forget, wait=False, on_error="ignore")


async def _forget() -> None:
    """Let go of the teacher as soon as the part under way is done; the worker goes on meanwhile."""
    await asyncio.to_thread(forget_teacher)


def _scheduler() -> LocalCluster:
    """A scheduler in this process, for this machine alone, without a dashboard."""
    return LocalCluster(
        n_workers=0,
        threads_per_worker=1,
        host=_LOCALHOST,
        silence_logs=logging.CRITICAL,
        dashboard_address=None,
        scheduler_kwargs={"dashboard": False, "dashboard_address": _ANY_PORT},
    )


def _work(address: str, name: str, folder: str, gpu: int | None) -> None:
    """Be a worker until the scheduler goes."""
    dask.config.set(_BUSY)
    # Ctrl-C reaches the whole process group; the client answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    resources: dict[str, float] = {}
    if gpu is not None:
        # Of those that the client itself may use.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[gpu] if visible else str(gpu)
        resources = {GPU: 1.0}

    async def serve() -> None:
        worker = Worker(
            address,
            name=name,
            nthreads=1,
            host=_LOCALHOST,
            resources=resources,
            local_directory=folder,
            dashboard=False,
            dashboard_address=_ANY_PORT,
            memory_limit=0,
        )
        async with worker:
            await worker.finished()

    asyncio.run(serve())


def _check_alive(processes: list[SpawnProcess]) -> None:
    if not any(process.is_alive() for process in processes):
        ends = ", ".join(_end(process) for process in processes)
        raise ScaleOutError(
            f"all {len(processes)} workers died ({ends}); killed by 9 is mostly for lack of "
            "memory: try fewer --workers, or a smaller --batch-size, with --resume"
        )


def _end(process: SpawnProcess) -> str:
    code = process.exitcode or 0
    return f"killed by {-code}" if code < 0 else f"exit code {code}"


class _Patience:
    """Waits a while for workers to come."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.seen = time.monotonic()

    def check(self, count: int) -> None:
        now = time.monotonic()
        if count:
            self.seen = now
        elif now - self.seen > NO_WORKER_SECONDS:
            raise ScaleOutError(
                f"the scheduler {self.address} has had no worker for {NO_WORKER_SECONDS:.0f} s: "
                "start some with dask worker, then --resume"
            )
