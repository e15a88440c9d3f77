"""Nothing is opened that format 1 did not write: links, metadata and bytes are checked first."""

import hashlib
import json
import stat
from collections.abc import Iterable
from pathlib import Path

from store.differences import differences
from store.errors import AlteredFileError, DamagedStoreError, UnsafeStoreError
from store.files import FileEntry, read_bounded
from store.layout import MAX_METADATA_BYTES, ArrayLayout, store_metadata


def refuse_links(root: Path, keys: Iterable[str]) -> None:
    """Refuse a store that points out of its own folder, or holds pipes or devices.

    Args:
        root: The store; it may itself be reached through a link.
        keys: Relative paths inside it, without ``..``.

    Raises:
        UnsafeStoreError: A file, or a folder on the way to it, is a symbolic link or no file.
    """
    folders = {str(parent) for key in keys for parent in Path(key).parents} - {"."}
    for key in sorted({*keys, *folders}):
        try:
            mode = (root / key).lstat().st_mode
        except OSError:
            # What is missing is found when it is read.
            continue
        if stat.S_ISLNK(mode):
            raise UnsafeStoreError(
                f"{root / key} is a symbolic link; a store holds plain files only: copy it with "
                "the links resolved if you trust it"
            )
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UnsafeStoreError(f"{root / key} is a pipe or a device; a store holds plain files")


def check_metadata(root: Path, layouts: list[ArrayLayout]) -> None:
    """Refuse arrays whose metadata is not, to the byte, what format 1 writes for them.

    This is the allow-list of codecs, number types and sizes: zarr never sees any other.

    Raises:
        UnsafeStoreError: Other metadata; says where it differs.
        DamagedStoreError: A metadata file is missing or no JSON.
    """
    for key, expected in store_metadata(layouts).items():
        found = read_bounded(root / key, MAX_METADATA_BYTES)
        if found == expected:
            continue
        try:
            lines = "; ".join(differences(json.loads(found), json.loads(expected)))
        except (ValueError, RecursionError) as error:
            raise DamagedStoreError(f"{root / key} is no JSON; fetch the store again") from error
        raise UnsafeStoreError(
            f"{root / key} is not what format 1 writes: {lines[:500] or 'spacing'}"
        )


def check_file(path: Path, entry: FileEntry) -> None:
    """Hold a file against what the manifest says of it.

    Raises:
        DamagedStoreError: It is missing or has another size.
        AlteredFileError: It has its size, but other bytes.
    """
    check_size(path, entry)
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
            raise AlteredFileError(f"{path} is not as it was written; fetch the store again")


def check_size(path: Path, entry: FileEntry) -> None:
    """The cheap half of ``check_file``.

    Raises:
        DamagedStoreError: The file is missing or has another size.
    """
    if not path.is_file():
        raise DamagedStoreError(f"{path} is missing; fetch the store again")
    if path.stat().st_size != entry.size:
        raise DamagedStoreError(
            f"{path} has {path.stat().st_size} bytes, expected {entry.size}; fetch the store again"
        )
