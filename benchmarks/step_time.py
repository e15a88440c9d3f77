"""What a training step costs: without a method, from the cache, with the teacher in the loop.

    python -m benchmarks.step_time CONFIG --store STORE --checkpoint TEACHER [--data-root ROOT]

One process, one loop: each arm in turn loads its batch and does one whole optimizer step, so that
the machine's moods hit all arms alike. Loading is in the time. Prints the median seconds of each
arm and the median of its ratio, round by round, to ``none``.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.rounds import Report, interleaved, ratios, spread
from commands.progress import console
from frames.augment import BevAugment
from frames.boxes import Boxes3D
from frames.dataset import read_frames
from frames.frame import Frame
from runs.config import load_config
from runs.fit import seed_run
from runs.sampler import StepSampler
from store.reader import Cache, open_cache
from store.rows import CachedRow
from student_train.config import StudentRun
from student_train.data import StudentBatch, StudentDataset
from student_train.targets import FrameTargets, frame_targets
from student_train.train import StudentTraining, needs_of
from teacher_dump.defaults import OWN_TEACHER
from teacher_dump.protocol import Teacher, load_teacher
from teacher_dump.teacher_rows import teacher_rows

ONLINE = "(teacher online)"
WARM_UP = 3
Step = Callable[[int], float]


class OnlineDataset(StudentDataset):
    """As the cached one, but its targets come from a teacher that runs now."""

    def __init__(
        self, frames: Sequence[Frame], run: StudentRun, cache: Cache, teacher: Teacher
    ) -> None:
        super().__init__(frames, run, cache, needs_of(run))
        self.teacher = teacher

    def _seen(
        self, frame: Frame, rng: np.random.Generator
    ) -> tuple[BevAugment, Boxes3D, FrameTargets]:
        assert self.cache is not None, "given to __init__"
        made_for = self.cache.fingerprint
        (row,) = teacher_rows(self.teacher, [frame], made_for.arrays, made_for.masks)
        cached = CachedRow(
            token=row.token, view=0, augment=BevAugment.identity(), gt=row.gt, arrays=row.arrays
        )
        augment = self.run.bev_augment.draw(rng)
        targets = frame_targets(cached, self.needs, self.run.student.grid, augment)
        return augment, augment.boxes3d(row.gt), targets


class LoopTraining(StudentTraining):
    """The training module without Lightning's loop: logs nothing, counts its own steps."""

    steps = 0

    @property
    def global_step(self) -> int:
        """Steps done."""
        return self.steps

    def log(self, *_: Any, **__: Any) -> None:
        """Nowhere."""

    def log_dict(self, *_: Any, **__: Any) -> None:
        """Nowhere."""


def make_step(training: LoopTraining, data: StudentDataset) -> Step:
    """A task for rounds: it loads the next batches, steps once, and gives the seconds it took."""
    training = training.to(memory_format=torch.channels_last)
    optimizer = training.configure_optimizers()["optimizer"]
    fit = training.run.fit
    examples = iter(StepSampler(len(data), 1 << 40, fit.seed, data.blocks))

    def step(_turn: int) -> float:
        began = time.perf_counter()
        optimizer.zero_grad()
        for _ in range(fit.accumulate):
            loaded = data.__getitems__(list(islice(examples, fit.batch_size)))
            batch: StudentBatch = data.collate(loaded)
            loss = torch.stack(list(training.loss_terms(batch).values())).sum()
            (loss / fit.accumulate).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        training.steps += 1
        return time.perf_counter() - began

    return step


def main(
    config: Annotated[Path, typer.Argument(help="A student's TOML.")],
    store: Annotated[Path, typer.Option(help="The teacher's cache.")],
    checkpoint: Annotated[Path, typer.Option(help="The same teacher's weights.")],
    data_root: Annotated[Path | None, typer.Option(help="Data set folder.")] = None,
    methods: Annotated[str, typer.Option(help="Arms beside none.")] = "xgd,xgd+imitation",
    batches: Annotated[int, typer.Option(help="Counted steps of each arm.")] = 60,
) -> None:
    """Time the arms side by side."""
    base = load_config(config, StudentRun, data__root=data_root)
    cache = open_cache(store)
    teacher = load_teacher(OWN_TEACHER, checkpoint, torch.device("cpu"))
    frames = read_frames(base.data)
    swept = read_frames(base.data.model_copy(update={"sweeps": teacher.info.sweeps}))
    steps: dict[str, Step] = {}
    for method in ("none", *methods.split(",")):
        run = base.model_copy(update={"method": method})
        seed_run(run.fit.seed, run.fit.threads)
        arms = {
            method: StudentDataset(frames, run, cache if needs_of(run) else None, needs_of(run))
        }
        if method == "xgd":
            arms[f"{method} {ONLINE}"] = OnlineDataset(swept, run, cache, teacher)
        for name, data in arms.items():
            steps[name] = make_step(LoopTraining(run, cache), data)
    seconds = interleaved(steps, batches, warm_up=WARM_UP)
    console.print(report("one optimizer step, loading included", seconds).rich())


def report(title: str, seconds: dict[str, list[float]]) -> Report:
    """Median seconds of each arm, and of its ratio to ``none`` round by round."""
    rows = [
        [name, f"{statistics.median(values):.3f}", spread(ratios(values, seconds["none"]), 3)]
        for name, values in seconds.items()
    ]
    return Report(title, ("arm", "median s", "median ratio to none (quartiles)"), rows)


if __name__ == "__main__":
    typer.run(main)
