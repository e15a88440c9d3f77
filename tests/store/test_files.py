"""Files that survive a loss of power, and those that cannot be read."""

from pathlib import Path

import pytest

import store.files as store_files
from store.errors import DamagedStoreError
from store.files import publish, read_bounded, sync_folder
from store.location import LocalFolder
from store.part import PartRecord


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
    with pytest.raises(DamagedStoreError, match="speed cannot be read: Invalid argument"):
        read_bounded(Path("/sys/class/net/lo/speed"))
