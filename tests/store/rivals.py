"""Processes that write the same parts at once: python -m tests.store.rivals FOLDER.

In each round, rivals write every part of a store FOLDER/ROUND, each in an order and with scores of
its own, as GPUs have whose sums never come out quite the same; one rival is killed at some moment.
Then the store is finished and sealed. This process only imports and forks.
"""

import os
import random
import signal
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from store.rows import RowValues
from store.writer import StoreWriter
from tests.store.building import fingerprint, identities, usual_values
from tests.store.forking import forked, waited

ROUNDS = 6
ROWS = 37
RIVALS = 4


def values_of(writer: StoreWriter, row: int, rival: int) -> RowValues:
    values = usual_values(writer.fingerprint, row)
    arrays = values.arrays | {
        "boxes/score": np.full_like(values.arrays["boxes/score"], rival),
        "bev_high": np.full_like(values.arrays["bev_high"], rival),
    }
    return replace(values, arrays=arrays)


def write_all(folder: Path, plan_hash: str, rival: int) -> None:
    writer = StoreWriter.join(folder, plan_hash)
    prepared = {part: [values_of(writer, row, rival) for row in part] for part in writer.parts}
    for part in random.Random(rival).sample(writer.parts, len(writer.parts)):
        writer.write_part(part, prepared[part])


def one_round(folder: Path, seed: int) -> None:
    rows = identities(ROWS)
    writer = StoreWriter.open(folder, fingerprint(rows), rows)
    children = [
        forked(partial(write_all, folder, writer.plan_hash, rival)) for rival in range(RIVALS)
    ]
    time.sleep(random.Random(seed).uniform(0.05, 0.4))
    os.kill(children[0], signal.SIGKILL)
    ends = [waited(child) for child in children]
    assert ends[1:] == [0] * (RIVALS - 1), ends
    assert writer.pending_parts == []
    writer.finalise()


if __name__ == "__main__":
    for number in range(ROUNDS):
        one_round(Path(sys.argv[1]) / str(number), number)
