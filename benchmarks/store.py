"""The store against what a user would write otherwise, on the same tensors, in one run.

    python -m benchmarks.store [--quick] [--report FILE]

Run it from the repository's root; `pip install -e '.[bench]'` brings the other formats, those that
are not installed are said to be so. Rounds are interleaved: in each one every format reads the same
frames, in another order of formats, so that the machine's moods hit all alike; ratios are taken
round by round. Files are in the page cache. The report's tables are replaced, its notes stay.
"""

if __name__ == "store":
    raise ImportError("benchmarks/ hides the package `store`: run `python -m benchmarks.NAME`")

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.machine import machine
from benchmarks.rounds import Report, interleaved, ratios, seconds_of, spread
from benchmarks.store_reading import Effort, compare, growth, loaders
from benchmarks.store_tensors import (
    FOREGROUND,
    Tensors,
    a_world,
    dense_tensors,
    large_frames,
    real_teacher,
    small_frames,
)
from commands.progress import console
from frames.augment import BevAugment
from frames.boxes import BoxBatch
from frames.frame import Frame
from store.choices import Coverage
from store.rows import rows_of_frames
from store.writer import StoreWriter
from teacher_dump.dump import DumpOptions, code_revision, dump, plan_dump

NOTES = "## Notes"


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
