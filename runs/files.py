"""Files that are written whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write beside ``path``, whose place it takes when the block ends without an error.

    What kills the process leaves the older ``path`` as it was.
    """
    partial = path.with_name(path.name + ".partial")
    yield partial
    partial.replace(path)
