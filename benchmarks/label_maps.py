"""What label maps cost a student: read from a cache, or computed in the step from ground truth.

    python -m benchmarks.label_maps STORE --label-encoder ENCODER [--config TOML] [--batches 30]

STORE is one of ``dump-teacher --label-encoder``. Of each batch the arrays are read as a student
reads them, then the frozen encoder runs on the same boxes; the two take turns. With a TOML an
untrained encoder of its size runs on them too: weights do not change what it costs.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table

from commands.progress import console, progress_bar
from frames.boxes import BoxBatch
from nets.label_encoder import LabelEncoder, frozen_label_encoder
from runs.checkpoint import load_checkpoint
from runs.config import load_config
from store.reader import Cache, open_cache
from store.rows import CachedRow
from store.schema import Places, Target
from teacher_dump.label_config import LabelEncoderRun

WARM_UP = 3
# What a cache holds for the sake of label maps alone; the cells are those of other targets too.
LABEL_ARRAYS = (f"{Places.CELLS}/{Target.LABEL_0}", f"{Places.COARSE_CELLS}/{Target.LABEL_1}")


def main(
    store: Annotated[Path, typer.Argument(help="A cache with label maps.")],
    label_encoder: Annotated[Path, typer.Option(help="The label_encoder.pt it was dumped with.")],
    config: Annotated[Path | None, typer.Option(help="An encoder's TOML, of another size.")] = None,
    batches: Annotated[int, typer.Option(help="Counted batches of each arm.")] = 30,
    batch_size: Annotated[int, typer.Option(help="Frames a batch.")] = 8,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
) -> None:
    """Print bytes a frame and seconds a batch."""
    torch.set_num_threads(threads)
    cache = open_cache(store).only(LABEL_ARRAYS)
    checkpoint = load_checkpoint(label_encoder, "label_encoder")
    encoders: dict[str, LabelEncoder] = {
        "computed": frozen_label_encoder(checkpoint.config, checkpoint.load_into)
    }
    if config is not None:
        sized = LabelEncoder(load_config(config, LabelEncoderRun).encoder)
        encoders[f"computed, {config.stem}"] = sized.eval().requires_grad_(requires_grad=False)
    seconds = _measure(cache, encoders, WARM_UP + batches, batch_size)
    table = Table(title=f"label maps of {batch_size} frames")
    for column in ("arm", "bytes a frame in the cache", "median s a batch", "quartiles"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for arm, values in seconds.items():
        low, middle, high = statistics.quantiles(values[WARM_UP:], n=4)
        size = f"{_bytes_a_frame(cache):,.0f}" if arm == "read" else "0"
        table.add_row(arm, size, f"{middle:.4f}", f"{low:.4f} .. {high:.4f}")
    console.print(table)


def _measure(
    cache: Cache, encoders: dict[str, LabelEncoder], rounds: int, batch_size: int
) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in ("read", *encoders)}
    with progress_bar("batches", rounds) as advance:
        for start in range(rounds):
            tokens = [
                cache.tokens[(start * batch_size + k) % len(cache)] for k in range(batch_size)
            ]
            boxes = BoxBatch.pad([cache[token].gt for token in tokens])
            seconds["read"].append(_timed(partial(_read, cache, tokens)))
            for name, encoder in encoders.items():
                seconds[name].append(_timed(partial(encoder, boxes)))
            advance(1)
    return seconds


def _read(cache: Cache, tokens: list[str]) -> list[CachedRow]:
    return [cache[token] for token in tokens]


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _bytes_a_frame(cache: Cache) -> float:
    """Of the label arrays, as they lie on the disk: values at places are not compressed."""
    rows = [cache[token].arrays for token in cache.tokens]
    return sum(row[name].nbytes for row in rows for name in LABEL_ARRAYS) / len(cache)


if __name__ == "__main__":
    typer.run(main)
