"""Fuzzing in processes that may hang or die: python -m tests.store.fuzz_process SUITE SEED CASES.

This process only imports and forks. A worker spoils and reads a store of its own, one case after
the other, and tells each verdict; one that dies, or says nothing for ``PATIENCE``, has failed its
case, and another goes on after it. Prints how many cases had which verdict, and every fault, as
JSON. Case N alone: append ``N N+1``.
"""

import json
import os
import random
import resource
import select
import signal
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from tests.store.fuzz_suites import SUITES

PATIENCE = 20.0
# What a case may take beyond what reading the whole store takes.
MAX_BYTES = 512 << 20


def work(suite: Any, seed: int, cases: range, tell: int) -> None:
    """Run cases; two lines each: what is done to the store, and the verdict."""
    suite.prepare()
    suite.read(None, strict=True)
    suite.inspect(strict=True)
    suite.mend()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MAX_BYTES, resource.RLIM_INFINITY))
    for case in cases:
        (suite.folder / "told").write_text("")
        try:
            verdict = suite.run(random.Random(f"{seed}/{case}"))
        # Whatever is no CacheError is what is looked for.
        except BaseException as error:  # noqa: BLE001
            frames = "".join(traceback.format_tb(error.__traceback__)[-5:])
            verdict = f"{type(error).__name__}: {error!s:.300}\n{frames}"
        if suite.marker.exists():
            suite.marker.unlink()
            verdict = "code was executed"
        os.write(tell, (json.dumps([case, suite.told, verdict]) + "\n").encode())
        suite.mend()


def fork(suite: str, folder: Path, seed: int, cases: range) -> tuple[int, int]:
    """A worker's process id, and where it tells."""
    hear, tell = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(hear)
            work(SUITES[suite](folder), seed, cases, tell)
            status = 0
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(tell)
    return child, hear


def listen(hear: int) -> list[tuple[int, str, str]]:
    """What a worker tells until it ends or says nothing for too long."""
    heard = b""
    while select.select([hear], [], [], PATIENCE)[0] and (piece := os.read(hear, 1 << 16)):
        heard += piece
    return [tuple(json.loads(line)) for line in heard.splitlines()]


def main(suite: str, seed: str, stop: str, start: str = "0") -> None:
    """Run the cases from ``start`` to ``stop``."""
    verdicts: Counter[str] = Counter()
    faults = []
    todo = range(int(start), int(stop))
    while todo:
        with tempfile.TemporaryDirectory() as folder:
            child, hear = fork(suite, Path(folder), int(seed), todo)
            told = listen(hear)
            os.kill(child, signal.SIGKILL)
            ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            os.close(hear)
            last = (Path(folder) / "told").read_text()
        for case, done, verdict in told:
            known = verdict in ("same", "other", "refused")
            verdicts[verdict if known else "fault"] += 1
            if not known:
                faults.append(f"case {case} of seed {seed}: {done}\n{verdict}")
        todo = todo[len(told) :]
        if todo:
            faults.append(f"case {todo[0]} of seed {seed}: {last}\nits process ended with {ended}")
            verdicts["fault"] += 1
            todo = todo[1:]
    sys.stdout.write(json.dumps({"verdicts": verdicts, "faults": faults}))


if __name__ == "__main__":
    main(*sys.argv[1:])
