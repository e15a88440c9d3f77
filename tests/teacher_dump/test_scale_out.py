"""Dumps by workers, held against the dump of one process; real schedulers, processes and deaths."""

import logging
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
from distributed import Client, Scheduler, SpecCluster, Worker

from frames.dataset import read_frames
from teacher_dump import part_task
from teacher_dump.scale_out import able_workers, workers_there
from teacher_dump.workforce import GPU, Workforce, local_workforce
from tests.command import command, succeed
from tests.store.building import tree
from tests.tiny import student_run, write_student_toml

MORTAL = "tests.teacher_dump.mortal_teacher:factory"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="session")
def longer_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of 20 frames: three parts of a store."""
    from frames.world.config import WorldConfig
    from frames.world.nuscenes_tree import write_world

    root = tmp_path_factory.mktemp("longer_world")
    config = WorldConfig(
        train_scenes=2,
        val_scenes=0,
        frames_per_scene=20,
        image_size=(16, 44),
        beams=8,
        azimuth_steps=90,
        objects_per_frame=(8, 10),
    )
    write_world(config, root, workers=1)
    return root


@pytest.fixture
def cluster() -> Iterator[str]:
    """The address of a running cluster: two workers as threads of this process, one with a GPU."""
    options = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    worker = options | {"nthreads": 1, "memory_limit": 0}
    with SpecCluster(
        scheduler={"cls": Scheduler, "options": options},
        workers={
            "plain": {"cls": Worker, "options": worker},
            "strong": {"cls": Worker, "options": worker | {"resources": {GPU: 1}}},
        },
        silence_logs=logging.CRITICAL,
    ) as running:
        yield running.scheduler_address


def teachers_are_gone(seconds: float = 30) -> bool:
    """Whether the workers of ``cluster``, threads of this process, let go of their teacher."""
    give_up = time.monotonic() + seconds
    while part_task._at_work.cache_info().currsize and time.monotonic() < give_up:
        time.sleep(0.01)
    return part_task._at_work.cache_info().currsize == 0


def write_mortals_toml(folder: Path, world: Path) -> Path:
    """A student on the mortal teacher's grid."""
    toml = write_student_toml(folder, world)
    own = "cell_size = 1.2\nshape = [64, 64]\n"
    toml.write_text(toml.read_text().replace("cell_size = 4.8\nshape = [16, 16]\n", own))
    return toml


def mortal(folder: Path, deaths: int) -> tuple[object, ...]:
    folder.mkdir()
    (folder / "deaths").write_text(str(deaths))
    return ("--teacher", MORTAL, "--checkpoint", folder, "--methods", "xgd,imitation")


def test_two_processes_write_what_one_writes(
    checkpoint: Path, longer_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    toml = write_student_toml(tmp_path, longer_world)
    common = (
        *("dump-teacher", toml, "--checkpoint", checkpoint, "--coverage", "dense"),
        *("--views", 2, "--device", "cpu", "--out"),
    )
    succeed(*common, tmp_path / "alone")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    text = succeed(*common, tmp_path / "together", "--workers", 2)
    assert "80/80" in text
    assert "lost" not in text
    assert tree(tmp_path / "together") == tree(tmp_path / "alone")
    assert not list((tmp_path / "here").iterdir())
    assert not multiprocessing.active_children()


def test_a_worker_that_is_silent_for_long_is_not_lost():
    """As on a machine with too much to do."""
    with (
        dask.config.set({"distributed.scheduler.worker-ttl": "1s"}),
        local_workforce(1, "cpu") as workforce,
    ):
        workforce.client.wait_for_workers(1)
        (process,) = multiprocessing.active_children()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
        # Dask waits for ten heartbeats of half a second at least, and looks every second.
        time.sleep(8)
        os.kill(process.pid, signal.SIGCONT)
        assert len(workers_there(workforce)) == 1
        assert workforce.client.submit(sum, [1, 2]).result(timeout=60) == 3


def test_a_killed_workers_part_is_written_by_another(longer_world: Path, tmp_path: Path):
    toml = write_mortals_toml(tmp_path, longer_world)
    common = ("dump-teacher", toml, "--device", "cpu", "--out")
    succeed(*common, tmp_path / "alone", *mortal(tmp_path / "immortal", 0))
    text = succeed(*common, tmp_path / "store", *mortal(tmp_path / "m", 1), "--workers", 2)
    assert len(list((tmp_path / "m").glob("dead-*"))) == 1
    assert text.count("lost so far") == 1
    # On a busy machine the other may not have come yet.
    lost = r"lost so far: 1 of [12] workers; the part each was at will be done again"
    assert re.search(lost, text)
    assert "40/40" in text
    assert tree(tmp_path / "store") == tree(tmp_path / "alone")


def test_when_all_workers_die_the_committed_parts_stay(longer_world: Path, tmp_path: Path):
    toml = write_mortals_toml(tmp_path, longer_world)
    common = ("dump-teacher", toml, "--device", "cpu", "--out", tmp_path / "store")
    code, text = command(*common, *mortal(tmp_path / "m", 2), "--workers", 2)
    assert (code, "error: all 2 workers died (killed by 9, killed by 9)" in text) == (1, True)
    assert len(list((tmp_path / "store/parts").glob("*.part"))) == 2
    text = succeed(*common, *mortal(tmp_path / "immortal", 0), "--resume")
    alone = ("dump-teacher", toml, "--device", "cpu", "--out", tmp_path / "alone")
    succeed(*alone, *mortal(tmp_path / "never", 0))
    assert tree(tmp_path / "store") == tree(tmp_path / "alone")


def test_a_running_cluster_writes_it_too(
    checkpoint: Path, long_world: Path, tmp_path: Path, cluster: str
):
    toml = write_student_toml(tmp_path, long_world)
    common = ("dump-teacher", toml, "--checkpoint", checkpoint, "--device", "cpu", "--out")
    succeed(*common, tmp_path / "alone")
    succeed(*common, tmp_path / "store", "--scheduler", cluster)
    assert teachers_are_gone()
    assert tree(tmp_path / "store") == tree(tmp_path / "alone")
    with Client(cluster, set_as_default=False) as client:
        workforce = Workforce(client=client, address=cluster, check=lambda _count: None)
        workers = workers_there(workforce)
    assert able_workers(workers, "cpu") == (2, None)
    assert able_workers(workers, "auto") == (1, {GPU: 1})


def test_a_damaged_file_ends_the_dump_and_may_be_mended(
    checkpoint: Path, long_world: Path, tmp_path: Path, cluster: str
):
    world = tmp_path / "world"
    shutil.copytree(long_world, world)
    toml = write_student_toml(tmp_path, world)
    common = ("dump-teacher", toml, "--checkpoint", checkpoint, "--device", "cpu", "--out")
    succeed(*common, tmp_path / "alone")
    last = read_frames(student_run(tmp_path, world).data)[-1].sweeps[0].path
    whole = last.read_bytes()
    last.write_bytes(whole[:-3])
    code, text = command(*common, tmp_path / "store", "--scheduler", cluster)
    assert (code, last.name in text, "Traceback" in text) == (1, True, False), text
    assert teachers_are_gone()
    last.write_bytes(whole)
    succeed(*common, tmp_path / "store", "--scheduler", cluster, "--resume")
    assert tree(tmp_path / "store") == tree(tmp_path / "alone")


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as in a terminal: a shell has what it starts in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_the_dump_and_the_committed_parts_stay(
    longer_world: Path, tmp_path: Path, cluster: str
):
    toml = write_mortals_toml(tmp_path, longer_world)
    common = ("dump-teacher", toml, "--device", "cpu", "--out", tmp_path / "store")

    def press() -> None:
        while not list((tmp_path / "store").glob("parts/*.part")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    teacher = mortal(tmp_path / "m", 0)
    # Else all is done before anyone can press.
    (tmp_path / "m/slow").touch()
    threading.Thread(target=press, daemon=True).start()
    code, text = command(*common, *teacher, "--scheduler", cluster)
    assert (code, "continue with --resume" in text) == (130, True), text
    assert teachers_are_gone()
    assert list((tmp_path / "store").glob("parts/*.part"))
    text = succeed(*common, *mortal(tmp_path / "again", 0), "--resume")
    assert "40/40" in text


def test_a_cluster_that_is_not_there_is_told(
    checkpoint: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("teacher_dump.workforce.CONNECT_SECONDS", 0.5)
    toml = write_student_toml(tmp_path, world)
    common = ("dump-teacher", toml, "--checkpoint", checkpoint, "--out", tmp_path / "store")
    code, text = command(*common, "--scheduler", "tcp://127.0.0.1:1")
    assert (code, "error: --scheduler tcp://127.0.0.1:1: no Dask scheduler" in text) == (1, True)
    code, text = command(*common, "--scheduler", "here")
    assert (code, "expected tcp://HOST:PORT" in text) == (2, True)
    code, text = command(*common, "--scheduler", "tcp://127.0.0.1:1", "--workers", 2)
    assert (code, "expected one of them" in text) == (2, True)


def test_dask_is_not_loaded_without_being_asked_for():
    code = "import commands.steps, sys; sys.exit('distributed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
