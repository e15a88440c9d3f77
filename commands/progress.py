"""One look for everything that takes long."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from commands.amounts import human_bytes

# Paths and names are no markup.
console = Console(markup=False)


def announce_room(out: Path, needed: int) -> None:
    """Print what is free where a store will be, and whether that may be too little.

    Args:
        out: Folder of the store; it need not exist.
        needed: Bytes of the store before compression.
    """
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    console.print(f"{human_bytes(free)} are free on the disk of {out}")
    if free < needed:
        console.print(
            f"WARNING: that is less than the {human_bytes(needed)} of the plan; unless compression "
            "makes up for it, the disk will be full before the end (what is committed stays)"
        )


@contextmanager
def progress_bar(title: str, total: int, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar on the console; the body calls what it gets with the number of further steps done."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=quiet) as progress:
        task = progress.add_task(title, total=total)
        yield lambda steps: progress.advance(task, steps)
