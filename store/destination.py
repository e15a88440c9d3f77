"""The folder of a dump: who may begin there, and what goes once the store is sealed."""

import shutil
from pathlib import Path

from store.dump_plan import Plan
from store.errors import FingerprintError, SealedStoreError, StoreExistsError
from store.files import TEMPORARY, make_folder, publish, sync_folder
from store.guard import refuse_links
from store.layout import MANIFEST, PARTS, PLAN, store_metadata

# Held by whoever begins or seals a store.
LOCK = "dump.lock"


def begin(path: Path, plan: Plan) -> None:
    """Write what comes before all parts, while holding ``LOCK``.

    Raises:
        FingerprintError: There is the plan of something else.
        UnsafeStoreError: A link in the folder may lead elsewhere.
        OSError: The disk refused.
    """
    refuse_links(path, [str(entry.relative_to(path)) for entry in path.rglob("*")])
    if (path / PLAN).exists():
        _check_same(path, plan)
    else:
        publish(path / PLAN, plan.encode())
    make_folder(path / PARTS)
    for key, data in store_metadata(plan.maps).items():
        publish(path / key, data)


def refuse_taken(path: Path, *, resume: bool) -> None:
    """Refuse a folder that is no place to begin, or with ``resume`` to go on with, a store.

    Raises:
        SealedStoreError: It is a finished store; what a dump killed right after sealing has left
            there is removed.
        StoreExistsError: It holds something else, or an unfinished store without ``resume``.
        UnsafeStoreError: Its lock is a link.
    """
    if (path / MANIFEST).exists() and resume:
        # The seal does not cover them.
        remove_scaffold(path)
    refuse_sealed(path)
    refuse_links(path, [LOCK])
    if (path / PLAN).exists():
        if not resume:
            raise StoreExistsError(
                f"{path} holds an unfinished store; go on with --resume, or choose another folder"
            )
    elif path.exists() and not path.is_dir():
        raise StoreExistsError(f"{path} is a file; expected a folder or nothing")
    elif path.exists() and _foreign(path):
        raise StoreExistsError(f"{path} holds something that is no store; choose an empty folder")


def refuse_sealed(path: Path) -> None:
    """Refuse to change a finished store.

    Raises:
        SealedStoreError: It is one.
    """
    if (path / MANIFEST).exists():
        raise SealedStoreError(
            f"{path} is a finished store and is never changed; choose another folder"
        )


def _foreign(path: Path) -> set[str]:
    """What lies in a folder without a plan, but for what a dump leaves that is killed at once."""
    return {entry.name for entry in path.iterdir()} - {LOCK, f"{PLAN}{TEMPORARY}"}


def _check_same(path: Path, plan: Plan) -> None:
    found = Plan.load(path)
    mismatches = found.fingerprint.mismatches(plan.fingerprint)
    if found.hash != plan.hash and not mismatches:
        mismatches = [
            "rows: found other scenes, times, poses or neighbours of the same tokens, or other "
            "augmentations"
        ]
    if mismatches:
        raise FingerprintError(
            path, mismatches, "Resume with the same data, teacher and configuration, or dump anew."
        )


def remove_scaffold(path: Path) -> None:
    """Remove what only an unfinished store needs."""
    shutil.rmtree(path / PARTS, ignore_errors=True)
    for name in (PLAN, LOCK):
        (path / name).unlink(missing_ok=True)
    sync_folder(path)
