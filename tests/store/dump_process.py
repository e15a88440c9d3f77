"""Dumps in processes that are killed: python -m tests.store.dump_process FOLDER JOB STRIDE.

JOB is a coverage, or merge:A,B of two stores. FOLDER/0 is a dump left alone. Every STRIDE-th change
that it makes to the disk is then a point: a dump into FOLDER/POINT is killed with SIGKILL just
before that change, and a second process resumes it. This process only imports and forks, so that a
kill costs no further import of torch.
"""

import os
import signal
import sys
from pathlib import Path

from store.choices import Coverage
from store.errors import SealedStoreError
from store.merge import plan_merge
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
        writes = event == "open" and arguments[1] == "xb"
        if (writes or event in CHANGES) and str(arguments[0]).startswith(self.folder):
            self.count += 1
            if self.count == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)


def dump(folder: Path, job: str) -> None:
    if job.startswith("merge:"):
        plan_merge(job.removeprefix("merge:").split(",")).write(folder)
        return
    rows = identities(ROWS)
    made_for = fingerprint(rows, Coverage(job))
    try:
        writer = StoreWriter.open(folder, made_for, rows, resume=True)
    except SealedStoreError:
        return
    write_pending(writer, made_for)
    writer.finalise()


def in_a_process(folder: Path, job: str, *, kill_at: int) -> tuple[int, int]:
    """Exit status, or minus the signal that ended it, and the number of changes to the disk."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            counter = ChangeCounter(folder, kill_at)
            dump(folder, job)
            os.write(writing, str(counter.count).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    changes = int(os.read(reading, 20) or 0)
    os.close(reading)
    return status, changes


def main(folder: str, job: str, stride: str) -> None:
    whole, changes = in_a_process(Path(folder) / "0", job, kill_at=0)
    assert whole == 0
    for point in range(1, changes + 1, int(stride)):
        path = Path(folder) / str(point)
        killed, _ = in_a_process(path, job, kill_at=point)
        assert killed == -signal.SIGKILL, f"point {point} ended with {killed}"
        resumed, _ = in_a_process(path, job, kill_at=0)
        assert resumed == 0, f"resuming after point {point} ended with {resumed}"


if __name__ == "__main__":
    main(*sys.argv[1:])
