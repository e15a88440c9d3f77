"""Eight processes that read at once: python -m tests.store.crowd LOCATION PASSES [--growing].

Every value they get is held against what the row must be. Prints, as JSON, how many rows came and
which errors. This process only imports and forks. With --growing they read the committed parts of
a store that is still being written, until they have read all of it sealed; the first row of each
kind leaves a file LOCATION.growing-READER, LOCATION.sealed-READER.
"""

import json
import os
import random
import sys
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import numpy as np

import store.remote
from store.errors import CacheError
from store.reader import Cache, open_cache
from store.rows import CachedRow
from tests.store.building import usual_values
from tests.store.faulty_proxy import SILENCE

READERS = 8


def is_right(cache: Cache, row: CachedRow) -> bool:
    expected = usual_values(cache.fingerprint, int(row.token.removeprefix("token-")))
    return (
        row.gt.values.equal(expected.gt.values)
        and row.gt.labels.equal(expected.gt.labels)
        and row.arrays.keys() == expected.arrays.keys()
        and all(np.array_equal(row.arrays[key], expected.arrays[key]) for key in row.arrays)
    )


def noted(seen: Counter[str], error: CacheError) -> None:
    seen[type(error).__name__] += 1
    seen[f"message: {error}"] = 1


def read(location: str, passes: int, reader: int) -> Counter[str]:
    """Batches of a store at random, so many passes of it, whatever goes wrong meanwhile."""
    seen: Counter[str] = Counter()
    chance = random.Random(reader)
    cache: Cache | None = None
    for _ in range(2):
        try:
            cache = open_cache(location)
            break
        except CacheError as error:
            noted(seen, error)
    if cache is None:
        return seen
    for _ in range(passes):
        tokens = chance.sample(cache.tokens, len(cache))
        for first in range(0, len(tokens), 4):
            try:
                for row in cache.read_many(tokens[first : first + 4]):
                    seen["right" if is_right(cache, row) else "wrong"] += 1
            except CacheError as error:
                noted(seen, error)
    return seen


def read_growing(location: str, rows: int, reader: int) -> Counter[str]:
    """Whatever is there, again and again until all rows are there and sealed."""
    seen: Counter[str] = Counter()
    chance = random.Random(reader)
    sealed = False
    while not sealed:
        try:
            cache = open_cache(location, allow_incomplete=True)
            for token in chance.sample(cache.tokens, len(cache)):
                kind = "sealed" if cache.manifest_hash else "growing"
                seen[kind if is_right(cache, cache[token]) else "wrong"] += 1
                Path(f"{location}.{kind}-{reader}").touch()
            sealed = bool(cache.manifest_hash) and len(cache) == rows
        except CacheError as error:
            noted(seen, error)
        time.sleep(0.001)
    return seen


def forked(location: str, passes: int, reader: int, *, growing: bool) -> tuple[int, int]:
    """A child's id, and where it writes what it has seen."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    status = 1
    try:
        seen = (read_growing if growing else read)(location, passes, reader)
        os.write(writing, json.dumps(seen).encode())
        status = 0
    finally:
        os._exit(status)


def main(location: str, passes: int, *, growing: bool) -> None:
    # So that what never answers is given up within the test.
    store.remote.SILENCE_TIMEOUT = timedelta(seconds=SILENCE / 8)
    store.remote.RETRIES = 2
    store.remote.RETRY_TIMEOUT = timedelta(seconds=10)
    store.remote.LONGEST_PAUSE = timedelta(seconds=0.2)
    children = [forked(location, passes, reader, growing=growing) for reader in range(READERS)]
    total: Counter[str] = Counter()
    for child, reading in children:
        with os.fdopen(reading) as pipe:
            total.update(json.loads(pipe.read() or '{"died": 1}'))
        os.waitpid(child, 0)
    sys.stdout.write(json.dumps(total))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), growing="--growing" in sys.argv)
