"""Dumps killed at random moments: python -m tests.store.killed_dumps FOLDER WRITERS KILLS SEED.

A dump is a group of processes: a leader that begins and seals the store, and WRITERS that write its
parts (with one writer the leader writes them itself). At a moment drawn by the seed the group, one
writer, or the leader alone is killed with SIGKILL; a writer that outlives its leader goes on beside
the next dump. After each kill a process of its own reads the store, and the next dump resumes it. A
store that is finished is held against one that was left alone, and another is begun.
"""

import os
import random
import signal
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from store.errors import NotACacheError, SealedStoreError, UnknownTokenError
from store.reader import open_cache
from store.writer import StoreWriter
from tests.store.building import build, fingerprint, identities, tree, usual_values, write_pending
from tests.store.forking import forked, waited
from tests.store.fuzz_suites import Values, values_of

ROWS = 52


def write(folder: Path, plan_hash: str, seed: int) -> None:
    """What one of several writers does: all parts, in an order of its own."""
    writer = StoreWriter.join(folder, plan_hash)
    for part in random.Random(seed).sample(writer.parts, len(writer.parts)):
        if not writer.is_committed(part):
            writer.write_part(part, [usual_values(writer.fingerprint, row) for row in part])


def dump(folder: Path, writers: int, told: Path) -> None:
    """What the leader does; it tells its writers' process ids."""
    os.setsid()
    rows = identities(ROWS)
    made_for = fingerprint(rows)
    with suppress(SealedStoreError):
        writer = StoreWriter.open(folder, made_for, rows, resume=True)
        plan_hash = writer.plan_hash
        children = [
            forked(partial(write, folder, plan_hash, seed))
            for seed in range(writers if writers > 1 else 0)
        ]
        told.write_text(" ".join(map(str, children)))
        for child in children:
            waited(child)
        write_pending(writer, made_for)
        writer.finalise()


def kill(leader: int, told: Path, rng: random.Random) -> None:
    """End some or all of a dump's processes, some of which may have ended by themselves."""
    writers = [int(each) for each in told.read_text().split()] if told.exists() else []
    with suppress(ProcessLookupError):
        match rng.choice(("group", "leader", "writer")):
            case "leader":
                os.kill(leader, signal.SIGKILL)
            case "writer" if writers:
                os.kill(rng.choice(writers), signal.SIGKILL)
            case _:
                os.killpg(leader, signal.SIGKILL)


def check(folder: Path, right: dict[str, Values]) -> None:
    """Every row that can be read is right, and every other raises."""
    try:
        cache = open_cache(folder, allow_incomplete=True)
    except NotACacheError:
        assert not (folder / "plan.json").exists()
        return
    for token, values in right.items():
        try:
            row = cache[token]
        except UnknownTokenError:
            assert token not in cache.tokens
            continue
        assert values_of(row) == values, token


def group_ended(leader: int, patience: float = 30.0) -> None:
    """Wait for the writers that have outlived a leader."""
    give_up = time.monotonic() + patience
    with suppress(ProcessLookupError):
        while time.monotonic() < give_up:
            os.killpg(leader, 0)
            time.sleep(0.005)
        raise TimeoutError(f"processes of {leader} go on for ever")


def one_store(folder: Path, writers: int, rng: random.Random, right: dict[str, Values]) -> int:
    """Kill and resume until the store is finished; gives how often a process was killed."""
    kills, leaders = 0, []
    told = folder.with_suffix(".told")
    while True:
        told.unlink(missing_ok=True)
        leader = forked(lambda: dump(folder, writers, told))
        leaders.append(leader)
        # Longer and longer, as a store is sealed in one go.
        time.sleep(rng.uniform(0.0, 0.1 * (kills + 3)))
        kill(leader, told, rng)
        ended = waited(leader)
        if ended == 0 and (folder / "manifest.json").exists():
            break
        assert ended == -signal.SIGKILL, f"{folder} ended with {ended}"
        kills += 1
        checked = waited(forked(lambda: check(folder, right)))
        assert checked == 0, f"{folder} was not right after kill {kills}"
    for leader in leaders:
        group_ended(leader)
    return kills


def main(folder: str, writers: str, kills: str, seed: str) -> None:
    """Kill dumps until as many have been killed."""
    root, rng, done = Path(folder), random.Random(int(seed)), 0
    assert waited(forked(partial(build, root / "alone", ROWS))) == 0
    alone = tree(root / "alone")
    cache = open_cache(root / "alone")
    right = {token: values_of(cache[token]) for token in cache.tokens}
    stores = 0
    while done < int(kills):
        stores += 1
        store = root / str(stores)
        done += one_store(store, int(writers), rng, right)
        found = tree(store)
        assert found.keys() == alone.keys(), sorted(found.keys() ^ alone.keys())
        assert found == alone, store
    sys.stdout.write(f"{done} kills of {stores} stores\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
