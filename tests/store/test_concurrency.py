"""Many readers at once: beside a writer, through a bad network, in one small mirror."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from store.choices import Coverage
from store.copy import copy_store
from store.errors import (
    CacheError,
    DamagedStoreError,
    RemoteError,
    UnsafeStoreError,
)
from store.verify import verify
from store.writer import StoreWriter
from tests.store.building import build, fingerprint, identities, tree, usual_values
from tests.store.faulty_proxy import FAULTS, Fault, faulty_proxy, stalled, unavailable

REPOSITORY = Path(__file__).parents[2]
ROWS = 40
READERS = 8


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed store of three parts with maps."""
    return build(tmp_path_factory.mktemp("concurrent") / "store", ROWS, Coverage.DENSE)


def crowd(location: Path | str, passes: int, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.store.crowd", str(location), str(passes), *options],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def told(readers: subprocess.Popen[str], seconds: float = 240) -> dict[str, int]:
    """What the readers have seen; one that hangs is an error."""
    try:
        out, errors = readers.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(readers.pid, signal.SIGKILL)
        readers.communicate()
        pytest.fail(f"readers still run after {seconds} s")
    assert readers.returncode == 0, errors
    seen: dict[str, int] = json.loads(out)
    assert "died" not in seen, errors
    return seen


def wait_for(reached: Callable[[], bool], seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_readers_beside_a_writer_see_right_rows_only(tmp_path: Path):
    rows = identities(ROWS)
    made_for = fingerprint(rows, Coverage.DENSE)
    readers = crowd(tmp_path / "store", ROWS, "--growing")
    writer = StoreWriter.open(tmp_path / "store", made_for, rows)
    for part in writer.pending_parts:
        writer.write_part(part, [usual_values(made_for, row) for row in part])
        # From the first part on all of them are at it.
        wait_for(lambda: len(list(tmp_path.glob("store.growing-*"))) == READERS)
    writer.finalise()
    seen = told(readers)
    assert "wrong" not in seen
    # Not there yet, or a part's record has gone into the sealed arrays since the store was opened.
    errors = {name for name in seen if name.endswith("Error")}
    assert errors <= {"NotACacheError", "DamagedStoreError", "DamagedRowError"}, seen
    assert seen["growing"] >= READERS
    assert seen["sealed"] >= READERS * ROWS


def test_readers_of_a_sealed_store_do_not_notice_the_next_version(store: Path, tmp_path: Path):
    before = tree(store)
    readers = crowd(store, 3)
    copy_store(store, tmp_path / "copy")
    build(tmp_path / "next", ROWS + 1, Coverage.DENSE)
    assert told(readers) == {"right": READERS * ROWS * 3}
    assert tree(store) == before


def test_readers_through_a_bad_network_get_right_rows_or_a_clear_error(
    store: Path, bucket: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
):
    copy_store(store, f"{bucket}/store")
    # Less than a store: they also evict each other's files.
    size = sum(len(data) for data in tree(store).values())
    monkeypatch.setenv("BEVCACHE_MIRROR_BYTES", str(size // 3))
    with faulty_proxy(endpoint, 0.2) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        seen = told(crowd(f"{bucket}/store", 1))
    assert proxy.drawn > 2 * len(FAULTS)
    assert "wrong" not in seen
    assert seen["right"] > READERS * ROWS * 0.9, seen
    errors = {name for name in seen if name.endswith("Error")}
    # Each file is asked for three times: that all three go wrong is rare, not impossible.
    assert errors <= {
        "RemoteError",
        "DamagedStoreError",
        "AlteredFileError",
        "UnsafeStoreError",
    }, seen


@pytest.mark.parametrize("fault", [unavailable, pytest.param(stalled, marks=pytest.mark.slow)])
def test_a_service_that_never_answers_is_given_up(
    store: Path, bucket: str, endpoint: str, monkeypatch: pytest.MonkeyPatch, fault: Fault
):
    copy_store(store, f"{bucket}/store")
    with faulty_proxy(endpoint, 1.0, [fault]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        seen = told(crowd(f"{bucket}/store", 1))
    assert seen["RemoteError"] == READERS * 2
    assert "right" not in seen
    assert any("cannot read s3://" in name for name in seen)


def test_a_copy_through_a_bad_network_goes_on_until_it_is_whole(
    store: Path, bucket: str, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    failures: list[CacheError] = []

    def copied(source: Path | str, destination: Path | str) -> None:
        for _ in range(10):
            try:
                copy_store(source, destination)
            except CacheError as error:
                failures.append(error)
            else:
                return
        pytest.fail(f"still not whole: {failures}")

    with faulty_proxy(endpoint, 0.3) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        copied(store, f"{bucket}/store")
        copied(f"{bucket}/store", tmp_path / "back")
    assert proxy.drawn > 2 * len(FAULTS)
    assert all(isinstance(e, RemoteError | DamagedStoreError | UnsafeStoreError) for e in failures)
    assert tree(tmp_path / "back") == tree(store)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    assert verify(f"{bucket}/store") == []
