"""What label maps cost a student: read from a cache, or computed in the step from ground truth.

    python -m benchmarks.label_maps STUDENT --store STORE --label-encoder ENCODER

STORE is one of ``dump-teacher --label-encoder``. Of each batch the arrays are read as a student
reads them, the frozen encoder runs on the same boxes, and the student of the TOML does one whole
step without a method, to compare with; the three take turns.
"""

import statistics
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table

from benchmarks.rounds import seconds_of
from benchmarks.step_time import WARM_UP, LoopTraining, Step, make_step
from commands.progress import console, progress_bar
from frames.boxes import BoxBatch
from frames.dataset import read_frames
from nets.label_encoder import LabelEncoder, frozen_label_encoder
from runs.checkpoint import load_checkpoint
from runs.config import load_config
from runs.fit import seed_run
from store.reader import Cache, open_cache
from store.rows import CachedRow
from store.schema import Places, Target
from student_train.config import StudentRun
from student_train.data import StudentDataset

READ, COMPUTED, STEP = "read", "computed", "the student's step"
# What a cache holds for the sake of label maps alone; the cells are those of other targets too.
LABEL_ARRAYS = (f"{Places.CELLS}/{Target.LABEL_0}", f"{Places.COARSE_CELLS}/{Target.LABEL_1}")


def main(
    student: Annotated[Path, typer.Argument(help="A student's TOML.")],
    store: Annotated[Path, typer.Option(help="A cache with label maps.")],
    label_encoder: Annotated[Path, typer.Option(help="The label_encoder.pt it was dumped with.")],
    data_root: Annotated[Path | None, typer.Option(help="Data set folder.")] = None,
    batches: Annotated[int, typer.Option(help="Counted batches of each arm.")] = 30,
) -> None:
    """Print bytes a frame and seconds a batch."""
    run = load_config(student, StudentRun, data__root=data_root)
    seed_run(run.fit.seed, run.fit.threads)
    cache = open_cache(store).only(LABEL_ARRAYS)
    checkpoint = load_checkpoint(label_encoder, "label_encoder")
    encoder = frozen_label_encoder(checkpoint.config, checkpoint.load_into, torch.device("cpu"))
    data = StudentDataset(read_frames(run.data), run, None, frozenset())
    step = make_step(LoopTraining(run, None), data)
    seconds = _measure(cache, encoder, step, WARM_UP + batches, run.fit.batch_size)
    table = Table(title=f"label maps of {run.fit.batch_size} frames")
    for column in ("arm", "bytes a frame in the cache", "median s a batch", "quartiles"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for arm, values in seconds.items():
        low, middle, high = statistics.quantiles(values[WARM_UP:], n=4)
        size = f"{_bytes_a_frame(cache):,.0f}" if arm == READ else ""
        table.add_row(arm, size, f"{middle:.4f}", f"{low:.4f} .. {high:.4f}")
    console.print(table)


def _measure(
    cache: Cache, encoder: LabelEncoder, step: Step, rounds: int, batch_size: int
) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {READ: [], COMPUTED: [], STEP: []}
    with progress_bar("batches", rounds) as advance:
        for start in range(rounds):
            tokens = [
                cache.tokens[(start * batch_size + k) % len(cache)] for k in range(batch_size)
            ]
            boxes = BoxBatch.pad([cache[token].gt for token in tokens])
            seconds[READ].append(seconds_of(partial(_read, cache, tokens)))
            seconds[COMPUTED].append(seconds_of(partial(encoder, boxes)))
            seconds[STEP].append(step(start))
            advance(1)
    return seconds


def _read(cache: Cache, tokens: list[str]) -> list[CachedRow]:
    return [cache[token] for token in tokens]


def _bytes_a_frame(cache: Cache) -> float:
    """Of the label arrays, as they lie on the disk: values at places are not compressed."""
    rows = [cache[token].arrays for token in cache.tokens]
    return sum(row[name].nbytes for row in rows for name in LABEL_ARRAYS) / len(cache)


if __name__ == "__main__":
    typer.run(main)
