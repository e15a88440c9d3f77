"""Files that survive a loss of power, and those that cannot be read."""

from pathlib import Path

import pytest

import store.files as store_files
from store.files import publish, sync_folder


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
