"""One training step of a student at its paper's size: seconds, and peak memory of the process.

    python -m benchmarks.paper_step configs/kitti_student.toml --data-root KITTI --split TOKEN

The frames' files are real (or a world's); without --store no method takes part. Each setting runs
in a fresh process, so that its peak is its own.
"""

import multiprocessing
import resource
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from commands.progress import console
from frames.dataset import read_frames
from runs.config import load_config
from store.reader import open_cache
from student_train.config import StudentRun
from student_train.data import StudentDataset
from student_train.train import StudentTraining, needs_of

# The seconds are of the last: the first one warms up.
STEPS = 2


def main(
    config: Annotated[Path, typer.Argument(help="A student's TOML.")],
    data_root: Annotated[Path, typer.Option(help="Data set folder.")],
    split: Annotated[str, typer.Option(help="Frames to take.")],
    frames: Annotated[int, typer.Option(help="Batch size.")] = 1,
    method: Annotated[str, typer.Option(help="Reads --store.")] = "none",
    store: Annotated[str, typer.Option(help="A cache of these frames.")] = "",
) -> None:
    """Print a line for the run as it is and one for it without recomputed activations."""
    run = load_config(config, StudentRun, data__root=data_root, data__split=Path(split))
    run = run.model_copy(update={"method": method})
    context = multiprocessing.get_context("spawn")
    document = run.model_dump(mode="json")
    depth = document["student"].get("depth", {})
    for checkpointed in (True, False) if "checkpointed" in depth else (None,):
        if checkpointed is not None:
            depth["checkpointed"] = checkpointed
        with context.Pool(1) as pool:
            found = pool.apply(_step, (document, frames, store))
        console.print(f"activations recomputed: {checkpointed}; {found}")


def _step(document: dict[str, Any], count: int, store: str) -> str:
    run = StudentRun.model_validate(document)
    cache = open_cache(store) if store else None
    frames = read_frames(run.data, count)
    training = StudentTraining(run, cache)
    training.log_dict = lambda *_args, **_keys: None  # type: ignore[method-assign]
    data = StudentDataset(frames, run, cache, needs_of(run))
    optimizer = torch.optim.AdamW(training.parameters(), lr=1e-4)
    batch = data.collate([data[k % len(frames), k] for k in range(count)])
    before, took, total = _peak(), 0.0, torch.zeros(())
    for _ in range(STEPS):
        began = time.perf_counter()
        optimizer.zero_grad()
        total = torch.stack(list(training.loss_terms(batch).values())).sum()
        torch.autograd.backward(total)
        optimizer.step()
        took = time.perf_counter() - began
    weights = sum(p.numel() for p in training.network.parameters())
    return (
        f"{weights:,} parameters, batch {count}, loss {float(total):.3f}: {took:.1f} s a step on "
        f"{torch.get_num_threads()} threads, peak {_peak():.1f} GiB ({before:.1f} before the step)"
    )


def _peak() -> float:
    """GiB resident at most, of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    typer.run(main)
