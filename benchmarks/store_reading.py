"""Reading, writing and opening: the store beside every format of ``store_formats.py``."""

import multiprocessing
import os
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader

from benchmarks.rounds import Report, interleaved, ratios, seconds_of, spread
from benchmarks.store_formats import FORMATS, Format, FrameDataset, Reader, joined
from benchmarks.store_tensors import Row, Tensors, small_frames
from store.rows import CachedRow

OURS = FORMATS[0].name
LIMITS = ("memcpy (limit)", "pread (limit)")


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: Interleaved rounds of reading.
        writes: Of writing.
        scale: Share of the full number of frames.
    """

    rounds: int
    writes: int
    scale: float

    def frames(self, full: int) -> int:
        """As many as this effort takes, at least half a part of a store."""
        return max(8, int(full * self.scale))


def compare(title: str, tensors: Tensors, folder: Path, effort: Effort, batch: int) -> Report:
    """Write the frames in every format, and read ``batch`` random ones a round.

    Args:
        title: Of the table.
        tensors: What to write.
        folder: Empty; the formats' files stay there.
        effort: How long.
        batch: Frames a round.
    """
    formats = [format_ for format_ in FORMATS if format_.installed]
    wrote = interleaved(
        {f.name: partial(_write, f, folder / f.name, tensors) for f in formats},
        effort.writes,
        warm_up=0,
    )
    readers = {f.name: f.open(folder / f.name) for f in formats} | _limits(tensors, folder)
    read = interleaved(
        {name: partial(_read, reader, len(tensors), batch) for name, reader in readers.items()},
        effort.rounds,
    )
    rows = []
    for name, seconds in read.items():
        cells = ["", ""]
        if name in wrote:
            speed = tensors.frame_bytes * len(tensors) / statistics.median(wrote[name]) / 1e6
            cells = [f"{speed:.0f}", f"{_stored(folder / name) / len(tensors) / 1e3:.1f}"]
        frame = [value / batch for value in seconds]
        rows.append(
            [
                name,
                *cells,
                spread([value * 1e6 for value in frame], 0),
                f"{1 / statistics.median(frame):.0f}",
                f"{tensors.frame_bytes / statistics.median(frame) / 1e6:.0f}",
                spread(ratios(seconds, read[OURS]), 2),
            ]
        )
    rows += [[f.name, *["not installed"] * 6] for f in FORMATS if not f.installed]
    columns = ("format", "write MB/s", "kB a frame", "read µs a frame", "frames/s", "read MB/s")
    return Report(title, (*columns, "time ÷ bevcache's"), rows)


def _write(format_: Format, folder: Path, tensors: Tensors, _turn: int = 0) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    return seconds_of(lambda: format_.write(folder, tensors))


def _read(reader: Reader, frames: int, batch: int, turn: int) -> float:
    # The same frames for every format of a round.
    chosen = np.random.default_rng(turn + 1).integers(0, frames, batch).tolist()
    return seconds_of(lambda: [reader(row) for row in chosen])


def _limits(tensors: Tensors, folder: Path) -> dict[str, Reader]:
    """What no format can beat: the copy alone, and the kernel's read of the same bytes."""
    count = len(tensors.pool)
    frames = [tensors.arrays(row) for row in range(count)]
    raw = folder / "raw"
    raw.mkdir()
    descriptors, sizes = [], []
    for row, frame in enumerate(frames):
        data = b"".join(array.tobytes() for array in frame.values())
        (raw / str(row)).write_bytes(data)
        descriptors.append(os.open(raw / str(row), os.O_RDONLY))
        sizes.append(len(data))

    def pread(row: int) -> dict[str, np.ndarray]:
        data = os.pread(descriptors[row % count], sizes[row % count], 0)
        return {"": np.frombuffer(data, np.uint8)}

    def copy(row: int) -> dict[str, np.ndarray]:
        return {key: array.copy() for key, array in frames[row % count].items()}

    return dict(zip(LIMITS, (copy, pread), strict=True))


def _stored(folder: Path) -> int:
    """Bytes on the disk; a map of LMDB is sparse."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def loaders(title: str, folder: Path, frames: int, effort: Effort) -> Report:
    """Epochs of random batches of 8 through a DataLoader with two forkserver workers."""
    # Else every worker imports torch anew.
    multiprocessing.set_forkserver_preload(["benchmarks.store_formats"])
    iterators = {}
    for format_ in FORMATS:
        if format_.installed and format_.random:
            loader = DataLoader(
                FrameDataset(format_, folder / format_.name, frames),
                batch_size=8,
                shuffle=True,
                num_workers=2,
                multiprocessing_context="forkserver",
                persistent_workers=True,
                collate_fn=joined,
            )
            iterators[format_.name] = loader
    seconds = interleaved(
        {name: partial(_epoch, loader) for name, loader in iterators.items()},
        max(3, effort.rounds // 4),
    )
    rows = [
        [name, f"{frames / statistics.median(taken):.0f}", spread(ratios(taken, seconds[OURS]), 2)]
        for name, taken in seconds.items()
    ]
    return Report(title, ("format", "frames/s", "time ÷ bevcache's"), rows)


def _epoch(loader: DataLoader[Row | CachedRow], _turn: int) -> float:
    return seconds_of(lambda: list(map(len, loader)))


def _open(format_: Format, folder: Path, _turn: int) -> float:
    return seconds_of(lambda: format_.open(folder))


def _first(format_: Format, folder: Path, frames: int, turn: int) -> float:
    """Seconds of the first frame after opening."""
    return _read(format_.open(folder), frames, 1, turn)


def _opened_and_read(format_: Format, folder: Path, rows: int, turn: int) -> float:
    """Seconds of 64 random frames; closed after, as LMDB lets no process open a store twice."""
    return _read(format_.open(folder), rows, 64, turn)


def growth(sizes: Sequence[int], folder: Path, effort: Effort) -> Report:
    """Opening, first frame and random frames of stores of these many rows, small frames."""
    formats = [f for f in FORMATS if f.name in (OURS, "LMDB, pickled") and f.installed]
    tasks: dict[str, Callable[[int], float]] = {}
    wrote: dict[str, float] = {}
    for size in sizes:
        tensors = small_frames(size)
        for format_ in formats:
            name = f"{format_.name}, {size:,} rows"
            place = folder / name
            wrote[name] = _write(format_, place, tensors)
            tasks[f"{name}/open"] = partial(_open, format_, place)
            tasks[f"{name}/first"] = partial(_first, format_, place, size)
            tasks[f"{name}/random"] = partial(_opened_and_read, format_, place, size)
    seconds = interleaved(tasks, effort.rounds)
    rows = [
        [
            name,
            f"{taken:.1f}",
            f"{_stored(folder / name) / 1e6:.1f}",
            spread([value * 1e3 for value in seconds[f"{name}/open"]], 1),
            spread([value * 1e3 for value in seconds[f"{name}/first"]], 2),
            spread([value / 64 * 1e6 for value in seconds[f"{name}/random"]], 0),
        ]
        for name, taken in wrote.items()
    ]
    columns = ("store", "written in s", "MB", "open ms", "first frame ms", "random frame µs")
    return Report("Growth, 5 kB frames", columns, rows)
