"""What a path holds, as plain facts."""

from pathlib import Path
from typing import Any

from runs.checkpoint import load_checkpoint
from store.summary import summary


def describe(path: Path) -> dict[str, Any]:
    """Facts about a cache (a folder) or a checkpoint (a file).

    Raises:
        CacheError: The folder holds no store, or a damaged one.
        CheckpointError: The file is no checkpoint.
    """
    if path.is_dir():
        return summary(path)
    checkpoint = load_checkpoint(path)
    return {
        "kind": checkpoint.kind,
        "sha256": checkpoint.sha256,
        "parameters": sum(value.numel() for value in checkpoint.weights.values()),
        "notes": checkpoint.notes,
        "config": checkpoint.config,
    }
