"""What a path holds, as plain facts."""

from pathlib import Path
from typing import Any

from runs.checkpoint import load_checkpoint
from store.remote import is_url
from store.summary import summary


def describe(place: str) -> dict[str, Any]:
    """Facts about a cache (a folder or a URL) or a checkpoint (a file).

    Raises:
        CacheError: The folder holds no store, or a damaged one.
        CheckpointError: The file is no checkpoint.
    """
    if is_url(place) or Path(place).is_dir():
        return summary(place)
    checkpoint = load_checkpoint(Path(place))
    return {
        "kind": checkpoint.kind,
        "sha256": checkpoint.sha256,
        "parameters": sum(value.numel() for value in checkpoint.weights.values()),
        "notes": checkpoint.notes,
        "config": checkpoint.config,
    }
