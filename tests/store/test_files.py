"""Files that survive a loss of power, and those that cannot be read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import store.files as store_files
from store import layout
from store.errors import DamagedStoreError
from store.files import FileEntry, publish, read_bounded, sync_folder
from store.location import LocalFolder
from store.part import PartRecord
from store.reader import open_cache
from store.verify import _fault
from tests.store.building import build
from tests.web_server import served


def test_every_folder_that_is_made_is_synced_in_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    synced: list[Path] = []

    def noted(folder: Path) -> None:
        synced.append(folder)
        sync_folder(folder)

    monkeypatch.setattr(store_files, "sync_folder", noted)
    publish(tmp_path / "a/b/c", b"first")
    assert synced == [tmp_path / "a", tmp_path, tmp_path / "a/b"]
    publish(tmp_path / "a/b/d", b"second")
    assert synced[3:] == [tmp_path / "a/b"]


def test_a_file_that_opens_but_does_not_read_is_damaged():
    # What Linux has in place of a bad disk: EIO, and EINVAL of a network device without a speed.
    with pytest.raises(DamagedStoreError, match="mem cannot be read: Input/output error"):
        LocalFolder(Path("/proc/self")).entry("mem")
    with pytest.raises(DamagedStoreError, match="mem cannot be read: Input/output error"):
        PartRecord.load(Path("/proc/self/mem"))
    fault = _fault(LocalFolder(Path("/proc/self")), "mem", FileEntry.of(b""))
    assert fault == "is damaged: /proc/self/mem cannot be read: Input/output error"
    with pytest.raises(DamagedStoreError, match="speed cannot be read: Invalid argument"):
        read_bounded(Path("/sys/class/net/lo/speed"))


@pytest.fixture
def of_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sealed store with a chunk file for each row of each small target: 720."""
    monkeypatch.setattr(layout, "MIN_CHUNK_BYTES", 1)
    monkeypatch.setattr(layout, "ROWS_PER_CHUNK", 1)
    return build(tmp_path / "store", 60)


READ_ALL = """
import os, resource, sys
from store import layout
from store.reader import open_cache
layout.MIN_CHUNK_BYTES = layout.ROWS_PER_CHUNK = 1
cache = open_cache(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
assert len(cache.read_many(cache.tokens)) == 60
before = len(os.listdir("/proc/self/fd"))
assert len(cache.read_many(cache.tokens)) == 60
assert len(os.listdir("/proc/self/fd")) == before
"""


def test_a_store_of_more_files_than_a_process_may_open_is_read(of_many_files: Path):
    command = [sys.executable, "-c", READ_ALL, str(of_many_files)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_evicted_files_give_their_space_back(
    of_many_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BEVCACHE_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("BEVCACHE_MIRROR_BYTES", "2000")
    with served(of_many_files.parent) as url:
        cache = open_cache(f"{url}/{of_many_files.name}")
        cache.read_many(cache.tokens)
    opened = [os.path.realpath(each) for each in Path("/proc/self/fd").iterdir()]
    assert len([name for name in opened if name.startswith(f"{tmp_path}/mirror")]) <= 64
