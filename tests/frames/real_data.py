"""The real nuScenes samples, where they are."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from frames.nuscenes import NuScenesConfig

MINI = Path(__file__).parents[3] / "shared" / "data" / "nuscenes_mini"


def real(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that needs the real samples; skip it where they are absent."""
    absent = pytest.mark.skipif(not MINI.is_dir(), reason=f"no real nuScenes samples at {MINI}")
    marked: Callable[..., None] = pytest.mark.real(absent(test))
    return marked


def real_config(split: str, **changes: Any) -> NuScenesConfig:
    return NuScenesConfig(**{"root": MINI, "version": "v1.0-subset", "split": split} | changes)


def edited_copy(folder: Path, table: str, edit: Callable[[list[dict[str, Any]]], None]) -> Path:
    """The real tree with one table changed: everything else is linked. Returns its root."""
    version = folder / "v1.0-subset"
    version.mkdir()
    for name in ("samples", "sweeps", "maps"):
        (folder / name).symlink_to(MINI / name)
    for path in (MINI / "v1.0-subset").iterdir():
        if path.stem != table:
            (version / path.name).symlink_to(path)
    rows = json.loads((MINI / "v1.0-subset" / f"{table}.json").read_text())
    edit(rows)
    (version / f"{table}.json").write_text(json.dumps(rows))
    return folder
