"""The store against what a user would write otherwise, on the same tensors, in one run.

    python -m benchmarks.store [--quick] [--report FILE]

Run it from the repository's root; `pip install -e '.[bench]'` brings the other formats, those that
are not installed are said to be so. Rounds are interleaved: in each one every format reads the same
frames, in another order of formats, so that the machine's moods hit all alike; ratios are taken
round by round. Files are in the page cache. The report's tables are replaced, its notes stay.
"""

if __name__ == "store":
    raise ImportError("benchmarks/ hides the package `store`: run `python -m benchmarks.NAME`")

import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch.utils.data import DataLoader

from benchmarks.machine import machine
from benchmarks.rounds import Report, interleaved, ratios, seconds_of, spread
from benchmarks.store_formats import FORMATS, Format, FrameDataset, Reader, joined
from benchmarks.store_tensors import (
    FOREGROUND,
    Row,
    Tensors,
    a_world,
    dense_tensors,
    foreground_tensors,
    real_teacher,
)
from commands.progress import console
from frames.augment import BevAugment
from frames.boxes import BoxBatch
from frames.frame import Frame
from store.choices import Coverage
from store.rows import CachedRow, rows_of_frames
from store.writer import StoreWriter
from teacher_dump.dump import DumpOptions, code_revision, dump, plan_dump

OURS = FORMATS[0].name
LIMITS = ("memcpy (limit)", "pread (limit)")
NOTES = "## Notes"


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


def dumping(folder: Path, effort: Effort) -> Report:
    """Dumps against the bare teacher on the same frames, 4 at a time; random weights.

    The demo's CenterPoint takes 30 ms a frame here, so that the dump's own work shows; the one at
    the papers' size two seconds, and its maps are 28 times as large.
    """
    frames = a_world(folder)
    rounds = max(3, effort.rounds // 5)
    demo = _dumping(folder, "demo", frames[: effort.frames(240)], rounds, warm_up=1)
    papers = _dumping(folder, "nuscenes", frames[: effort.frames(32)], 2, warm_up=0)
    return Report("Dump, sealing included", ("", "frames/s", "throughput ÷ bare"), demo + papers)


def _dumping(
    folder: Path, config: str, frames: Sequence[Frame], rounds: int, *, warm_up: int
) -> list[Sequence[str]]:
    teacher, data = real_teacher(folder, config)
    as_is = [BevAugment.identity()] * 4
    plans = {
        cover: plan_dump(teacher, frames, data, FOREGROUND, DumpOptions(coverage=cover))
        for cover in Coverage
    }

    def bare(_turn: int) -> float:
        def run() -> None:
            for start, stop in pairwise([*range(0, len(frames), 4), len(frames)]):
                own = frames[start:stop]
                with torch.inference_mode():
                    teacher(own, BoxBatch.pad([frame.boxes for frame in own]), as_is[: len(own)])

        return seconds_of(run)

    def dumped(cover: Coverage, _turn: int) -> float:
        place = folder / "dump"
        shutil.rmtree(place, ignore_errors=True)
        writer = StoreWriter.open(place, plans[cover].fingerprint, rows_of_frames(frames))
        return seconds_of(lambda: dump(teacher, frames, writer))

    tasks: dict[str, Callable[[int], float]] = {"bare": bare}
    for cover in plans:
        tasks[f"dump, {cover}"] = partial(dumped, cover)
    seconds = interleaved(tasks, rounds, warm_up=warm_up)
    return [
        [
            f"{config} teacher, {name}",
            f"{len(frames) / statistics.median(taken):.2f}",
            spread(ratios(seconds["bare"], taken), 3),
        ]
        for name, taken in seconds.items()
    ]


def small_frames(frames: int) -> Tensors:
    """About 5 kB a frame."""
    return foreground_tensors(frames, channels=8, boxes=25, cells=45)


def large_frames(frames: int) -> Tensors:
    """About 165 kB a frame: what UniDistill's losses read at paper scale."""
    return foreground_tensors(frames, channels=256, boxes=30, cells=300)


def measure(folder: Path, effort: Effort) -> list[Report]:
    """All tables; each set of frames is removed before the next comes."""
    sets: dict[str, tuple[Callable[[int], Tensors], int, int]] = {
        "Foreground, 165 kB a frame": (large_frames, 256, 32),
        "Foreground, 5 kB a frame": (small_frames, 256, 32),
        "Dense, 128 x 128 x 128": (lambda n: dense_tensors(n, (128, 128, 128)), 32, 8),
        "Dense, 512 x 180 x 180": (lambda n: dense_tensors(n, (512, 180, 180)), 8, 2),
    }
    reports: list[Report] = []
    for title, (make, full, batch) in sets.items():
        tensors = make(effort.frames(full))
        place = folder / "set"
        _show(reports, compare(title, tensors, place, effort, batch))
        if title.startswith("Foreground"):
            workers = f"{title}: DataLoader, two forkserver workers"
            _show(reports, loaders(workers, place, len(tensors), effort))
        shutil.rmtree(place)
    _show(reports, growth([100, 1000, effort.frames(28_130)], folder, effort))
    _show(reports, dumping(folder, effort))
    return reports


def _show(reports: list[Report], report: Report) -> None:
    console.print(report.rich())
    reports.append(report)


def main(
    report: Annotated[Path | None, typer.Option(help="Markdown whose tables to replace.")] = None,
    *,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the frames.")] = False,
) -> None:
    """Measure, print, and write the report."""
    effort = Effort(rounds=5, writes=2, scale=0.1) if quick else Effort(16, 2, 1.0)
    report = report or Path(f"benchmarks/{date.today()}-store.md")
    load, began = os.getloadavg()[0], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bevcache-bench-") as folder:
        tables = measure(Path(folder), effort)
    minutes = (time.monotonic() - began) / 60
    notes = report.read_text().partition(NOTES)[2] if report.exists() else "\n"
    head = [
        f"# The store's speed, {date.today()}\n",
        f"```bash\npython -m benchmarks.store{' --quick' if quick else ''}\n```\n",
        f"{machine()}; code {code_revision()}; {minutes:.1f} minutes, other load at the start "
        f"{load:.1f}. Medians (quartiles) of {effort.rounds} interleaved rounds, ratios round by "
        "round, warm page cache. bevcache syncs what it writes, reads it back, and holds every "
        "read against a digest; the others do none of that.\n",
    ]
    report.write_text("\n".join([*head, *(table.markdown() for table in tables), NOTES + notes]))
    console.print(f"written: {report}, {minutes:.1f} minutes")


if __name__ == "__main__":
    typer.run(main)
