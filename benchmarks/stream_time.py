"""What a training step costs with the cache on a disk, and on an S3 server that answers late.

    python -m benchmarks.stream_time CONFIG --foreground STORE --dense STORE [--data-root ROOT]

As ``step_time.py``: the arms take turns, loading is in the time. ``--foreground`` holds what
``xgd`` reads, ``--dense`` the whole maps that ``xgd+imitation`` reads. Both are copied to moto's S3
server, which runs in a process of its own on the same machine behind a proxy that holds back every
answer; a new mirror lies in a temporary folder. Prints the first steps, which fetch what they
wait for, and the steps after them.
"""

import logging
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated

import boto3
import typer
from moto.server import ThreadedMotoServer

import runs.sampler
from benchmarks.rounds import interleaved
from benchmarks.step_time import LoopTraining, Step, make_step, report
from commands.progress import console
from frames.dataset import read_frames
from runs.config import load_config
from runs.fit import seed_run
from store.copy import copy_store
from store.reader import Cache, open_cache
from student_train.config import StudentRun
from student_train.data import StudentDataset
from student_train.train import needs_of
from tests.store.faulty_proxy import faulty_proxy

BUCKET = "team"
COLD = 3


class TimedDataset(StudentDataset):
    """Counts the seconds in which files are fetched, ahead or not.

    Attributes:
        fetching: Seconds.
    """

    fetching = 0.0

    def fetch(self, rows: Iterable[tuple[int, int]]) -> None:
        """As every data set's."""
        began = time.perf_counter()
        super().fetch(rows)
        self.fetching += time.perf_counter() - began


def _serve(latency: float, pipe: Connection) -> None:
    logging.disable()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with faulty_proxy(f"http://{host}:{port}", share=0, latency=latency) as proxy:
        pipe.send((f"http://{host}:{port}", proxy.url))
        pipe.recv()
    server.stop()


@contextmanager
def slow_s3(latency: float) -> Iterator[tuple[str, str]]:
    """Two addresses of one S3 server in another process: at once, and after so many seconds."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(latency, theirs))
    process.start()
    direct, late = ours.recv()
    os.environ.update(
        {
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ENDPOINT_URL": direct,
        }
    )
    boto3.client("s3", endpoint_url=direct, region_name="us-east-1").create_bucket(Bucket=BUCKET)
    try:
        yield direct, late
    finally:
        ours.send("done")
        process.join()


def main(
    config: Annotated[Path, typer.Argument(help="A student's TOML.")],
    foreground: Annotated[Path, typer.Option(help="A cache for xgd.")],
    dense: Annotated[Path, typer.Option(help="A dense cache for xgd and imitation.")],
    data_root: Annotated[Path | None, typer.Option(help="Data set folder.")] = None,
    batches: Annotated[int, typer.Option(help="Counted steps of each arm.")] = 60,
    window: Annotated[int, typer.Option(help="Shards of a window.")] = runs.sampler.WINDOW,
) -> None:
    """Time the arms side by side."""
    runs.sampler.WINDOW = window
    base = load_config(config, StudentRun, data__root=data_root)
    with slow_s3(0.05) as (_, late), tempfile.TemporaryDirectory() as mirror:
        os.environ["BEVCACHE_MIRROR"] = mirror
        for name, store in (("foreground", foreground), ("dense", dense)):
            copy_store(store, f"s3://{BUCKET}/{name}")
        os.environ["AWS_ENDPOINT_URL"] = late
        caches: dict[str, tuple[str, Cache | None]] = {"none": ("none", None)}
        for name, method, store in (
            ("foreground", "xgd", foreground),
            ("dense", "xgd+imitation", dense),
        ):
            caches[f"{method}, {name}, disk"] = method, open_cache(store)
            began = time.perf_counter()
            caches[f"{method}, {name}, S3"] = method, open_cache(f"s3://{BUCKET}/{name}")
            console.print(f"opened s3://{BUCKET}/{name} in {time.perf_counter() - began:.2f} s")
        _compare(base, caches, batches)


def _compare(base: StudentRun, caches: dict[str, tuple[str, Cache | None]], batches: int) -> None:
    frames = read_frames(base.data)
    steps: dict[str, Step] = {}
    data: dict[str, TimedDataset] = {}
    for name, (method, cache) in caches.items():
        run = base.model_copy(update={"method": method})
        seed_run(run.fit.seed, run.fit.threads)
        data[name] = TimedDataset(frames, run, cache, needs_of(run))
        steps[name] = make_step(LoopTraining(run, cache), data[name])
    seconds = interleaved(steps, COLD + batches, warm_up=0)
    warm = {name: values[COLD:] for name, values in seconds.items()}
    console.print(report("one optimizer step, after the first", warm).rich())
    for name, values in seconds.items():
        first = ", ".join(f"{value:.2f}" for value in values[:COLD])
        console.print(f"{name}: first steps {first} s; fetched for {data[name].fetching:.1f} s")


if __name__ == "__main__":
    typer.run(main)
