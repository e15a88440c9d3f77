"""Dumps in processes that are killed: python -m tests.store.dump_process FOLDER COVERAGE POINTS.

For each of POINTS (comma-separated) a dump into FOLDER/POINT is killed with SIGKILL just before
that change to the disk, and a second process resumes it. This process only imports and forks, so
that a kill costs milliseconds and not another import of torch. Point 0 is never reached: its dump
prints how many changes a whole run makes.
"""

import os
import signal
import sys
from pathlib import Path

from store.errors import SealedStoreError
from store.schema import Coverage
from store.writer import StoreWriter
from tests.store.building import fingerprint, identities, write_pending

ROWS = 19
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}


class ChangeCounter:
    def __init__(self, folder: Path, kill_at: int) -> None:
        self.folder = str(folder)
        self.kill_at = kill_at
        self.count = 0
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[object, ...]) -> None:
        writes = event == "open" and arguments[1] == "wb"
        if (writes or event in CHANGES) and str(arguments[0]).startswith(self.folder):
            self.count += 1
            if self.count == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)


def dump(folder: Path, coverage: Coverage) -> None:
    rows = identities(ROWS)
    made_for = fingerprint(rows, coverage)
    try:
        writer = StoreWriter.open(folder, made_for, rows, resume=True)
    except SealedStoreError:
        return
    write_pending(writer, made_for)
    writer.finalise()


def in_a_process(folder: Path, coverage: Coverage, *, kill_at: int) -> int:
    """Exit status, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            counter = ChangeCounter(folder, kill_at)
            dump(folder, coverage)
            if kill_at == 0:
                os.write(1, f"{counter.count}\n".encode())
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: str, coverage: str, points: str) -> None:
    for point in map(int, points.split(",")):
        path = Path(folder) / str(point)
        status = in_a_process(path, Coverage(coverage), kill_at=point)
        expected = -signal.SIGKILL if point else 0
        assert status == expected, f"point {point} ended with {status}"
        if point:
            status = in_a_process(path, Coverage(coverage), kill_at=-1)
            assert status == 0, f"resuming after point {point} ended with {status}"


if __name__ == "__main__":
    main(*sys.argv[1:])
