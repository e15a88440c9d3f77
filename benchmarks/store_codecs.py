"""What each encoding and compression makes of a trained teacher's features.

    python -m benchmarks.store_codecs CONFIG --checkpoint TEACHER [--data-root ROOT] [--frames 48]

CONFIG is a teacher's TOML; its ``data`` says where the frames come from. Whole maps are compressed
a frame at a time, values at the foreground cells eight frames at a time. MB/s and ratios count the
bytes of raw float16, whatever the encoding makes of it; the seconds are those of the thread, not of
the clock, and the ways take turns in random order, so that a busy machine harms no way more.
"""

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer
from numcodecs import Blosc, Zstd, blosc
from torch import Tensor

from benchmarks.rounds import Report
from commands.progress import console, progress_bar
from frames.boxes import BoxBatch
from frames.dataset import read_frames
from frames.frame import Frame
from frames.heatmap import CENTER_HEAD, center_heatmap
from runs.config import load_config
from store.choices import Coverage, Encoding
from store.encoding import ChannelAxis, FloatArray, decode, encode, largest_error
from store.plan import plan_arrays
from store.schema import Need, Places, Target
from student_train.methods.imitation import feature_loss, heatmap_loss
from teacher_dump.config import TeacherRun
from teacher_dump.protocol import Teacher
from teacher_dump.teacher_rows import teacher_rows
from teacher_dump.teachers import from_checkpoint

TARGETS = (Target.BEV_LOW, Target.BEV_HIGH, Target.HEATMAP_LOGIT)
COMPRESSIONS: dict[str, Any] = {
    "none": None,
    "zstd 1": Zstd(1),
    "zstd 3": Zstd(3),
    "zstd 9": Zstd(9),
    "blosc zstd 1, bytes shuffled": Blosc("zstd", 1, Blosc.SHUFFLE),
    "blosc lz4, not shuffled": Blosc("lz4", 5, Blosc.NOSHUFFLE),
}
CELLS_TOGETHER = 8
# How far a well-trained student is from its teacher, in the features' standard deviations.
CLOSE = 0.1
Way = tuple[Encoding, str]


@dataclass(frozen=True, slots=True)
class Features:
    """One target of all frames, at one kind of places.

    Attributes:
        name: Target and places.
        rows: Each frame's values: (C, H, W), or (n, C) at the cells.
        weights: Each frame's weight of its n cells in the loss; 1 for a map's.
        channel_axis: Of the rows.
    """

    name: str
    rows: list[npt.NDArray[np.float32]]
    weights: list[Tensor]
    channel_axis: ChannelAxis

    @property
    def packs(self) -> list[list[npt.NDArray[np.float32]]]:
        """The rows that are compressed together."""
        size = 1 if self.channel_axis == 0 else CELLS_TOGETHER
        return [self.rows[at : at + size] for at in range(0, len(self.rows), size)]


@dataclass(slots=True)
class Cost:
    """What one way of storing all frames costs: bytes, and seconds of the thread."""

    size: int = 0
    write: float = 0.0
    read: float = 0.0


def main(
    config: Annotated[Path, typer.Argument(help="A teacher's TOML.")],
    checkpoint: Annotated[Path, typer.Option(help="The teacher.pt trained with it.")],
    data_root: Annotated[Path | None, typer.Option(help="Data set folder.")] = None,
    frames: Annotated[int, typer.Option(min=1, help="Frames, spread over the split.")] = 48,
    seed: Annotated[int, typer.Option(help="Of the order and of the random students.")] = 0,
) -> None:
    """Print three tables: errors, bytes and speed."""
    torch.set_num_threads(1)
    blosc.set_nthreads(1)
    torch.manual_seed(seed)
    random.seed(seed)
    teacher = from_checkpoint(checkpoint, torch.device("cpu"))
    split = read_frames(load_config(config, TeacherRun, data__root=data_root).data)
    chosen = [split[at * len(split) // frames] for at in range(min(frames, len(split)))]
    everything = list(read_features(teacher, chosen))
    costs = [measure(features) for features in everything]
    for report in (error_report(everything), *cost_reports(everything, costs)):
        console.print(report.markdown(), soft_wrap=True)


def read_features(teacher: Teacher, frames: Sequence[Frame]) -> Iterator[Features]:
    """Run the teacher; each of its targets as whole maps and at the foreground cells."""
    needs = [Need(target, places) for target in TARGETS for places in (Places.MAP, Places.CELLS)]
    shapes = teacher.info.shapes
    arrays = plan_arrays(needs, Coverage.DENSE, shapes)
    rows, weights = [], []
    with progress_bar("run the teacher", len(frames)) as advance:
        for frame in frames:
            rows += [row.arrays for row in teacher_rows(teacher, [frame], arrays, [CENTER_HEAD])]
            heatmap = center_heatmap(BoxBatch.pad([frame.boxes]), shapes.grid, shapes.classes)
            cells = torch.from_numpy(rows[-1][Places.CELLS.index_array]).long()
            weights.append(heatmap[0].amax(0).flatten()[cells])
            advance(1)
    everywhere = [torch.ones(shapes.grid.num_cells)] * len(rows)
    for target in TARGETS:
        maps = [row[target] for row in rows]
        at_cells = [
            np.ascontiguousarray(map_.reshape(len(map_), -1)[:, row[Places.CELLS.index_array]].T)
            for map_, row in zip(maps, rows, strict=True)
        ]
        yield Features(f"{target}, maps", maps, everywhere, 0)
        yield Features(f"{target}, cells", at_cells, weights, -1)


def measure(features: Features) -> dict[Way, Cost]:
    """Store every pack in every way."""
    costs: dict[Way, Cost] = defaultdict(Cost)
    ways = [(encoding, compression) for encoding in Encoding for compression in COMPRESSIONS]
    with progress_bar(features.name, len(features.packs)) as advance:
        for pack in features.packs:
            for way in random.sample(ways, len(ways)):
                _store(pack, features.channel_axis, way, costs[way])
            advance(1)
    return costs


def _store(pack: Sequence[FloatArray], axis: ChannelAxis, way: Way, cost: Cost) -> None:
    encoding, codec = way[0], COMPRESSIONS[way[1]]
    began = time.thread_time()
    encoded = [encode(row, encoding, axis) for row in pack]
    packed = np.concatenate([payload.ravel() for payload, _ in encoded])
    blob = packed.tobytes() if codec is None else codec.encode(packed)
    written = time.thread_time()
    unpacked = np.frombuffer(blob if codec is None else codec.decode(blob), packed.dtype)
    ends = np.cumsum([row.size for row in pack])[:-1]
    for values, row, (_, ranges) in zip(np.split(unpacked, ends), pack, encoded, strict=True):
        decode(values.reshape(row.shape), ranges, encoding, axis)
    cost.read += time.thread_time() - written
    cost.write += written - began
    cost.size += len(blob) + sum(0 if ranges is None else ranges.nbytes for _, ranges in encoded)


def error_report(everything: list[Features]) -> Report:
    """How far the decoded values are, and what that does to a loss and its gradient."""
    columns = (
        *("features, encoding", "zeros", "relative L2", "1 - cosine", "largest error / bound"),
        *("loss, random student", "gradient", "loss, close student", "gradient"),
    )
    cells = []
    for features in everything:
        given = np.concatenate([row.ravel() for row in features.rows]).astype(np.float64)
        for encoding in Encoding:
            stored = [encode(row, encoding, features.channel_axis) for row in features.rows]
            rows = [decode(*pair, encoding, features.channel_axis) for pair in stored]
            worst = max(
                largest_error(row, decoded, ranges, features.channel_axis)
                for row, decoded, (_, ranges) in zip(features.rows, rows, stored, strict=True)
            )
            found = np.concatenate([row.ravel() for row in rows]).astype(np.float64)
            cosine = given @ found / np.linalg.norm(given) / np.linalg.norm(found)
            of_bound = (
                f"{worst / encoding.max_error:.3f}" if encoding.max_error else f"{worst:g} / 0"
            )
            cells.append(
                [
                    f"{features.name}, {encoding}",
                    f"{np.mean(given == 0):.0%}",
                    f"{np.linalg.norm(found - given) / np.linalg.norm(given):.2e}",
                    f"{max(0.0, 1 - cosine):.1e}",
                    of_bound,
                    *(f"{change:.1e}" for change in _loss_changes(features, rows)),
                ]
            )
    return Report("errors", columns, cells)


def _loss_changes(features: Features, decoded: list[FloatArray]) -> list[float]:
    """Relative change of the loss and of its gradient: a random student's, then a close one's."""
    changes = []
    for close in (False, True):
        # The same students for every encoding.
        generator = torch.Generator().manual_seed(0)
        exact_loss = exact_gradient = loss_gap = gradient_gap = 0.0
        for row, found, weight in zip(features.rows, decoded, features.weights, strict=True):
            if not len(weight):
                continue
            exact, stored = (_by_cell(values, features.channel_axis) for values in (row, found))
            noise = exact.std() * torch.randn(exact.shape, generator=generator)
            student = exact + CLOSE * noise if close else exact.mean() + noise
            loss, gradient = _loss(features.name, student, exact, weight)
            other_loss, other_gradient = _loss(features.name, student, stored, weight)
            exact_loss += loss
            loss_gap += abs(other_loss - loss)
            exact_gradient += float(gradient.square().sum())
            gradient_gap += float((other_gradient - gradient).square().sum())
        changes += [loss_gap / exact_loss, (gradient_gap / exact_gradient) ** 0.5]
    return changes


def _by_cell(values: FloatArray, axis: ChannelAxis) -> Tensor:
    """(1, n, C) from a map (C, H, W) or from (n, C)."""
    tensor = torch.from_numpy(values.astype(np.float32))
    return (tensor.flatten(1).T if axis == 0 else tensor)[None]


def _loss(name: str, student: Tensor, teacher: Tensor, weight: Tensor) -> tuple[float, Tensor]:
    student = student.requires_grad_()
    if name.startswith(Target.HEATMAP_LOGIT):
        loss = heatmap_loss(student, teacher, weight[None] > 0, torch.tensor(1))
    else:
        loss = feature_loss(student, teacher, weight[None])
    (gradient,) = torch.autograd.grad(loss, student)
    return loss.item(), gradient


def cost_reports(everything: list[Features], costs: list[dict[Way, Cost]]) -> Iterator[Report]:
    """Bytes of a frame, and how fast each way writes and reads."""
    cells: dict[str, Callable[[Features, Cost], str]] = {
        "kB a frame (times less than raw float16)": _size,
        "write / read, MB of raw float16 a thread's second": _speed,
    }
    for title, cell in cells.items():
        rows = [
            [f"{features.name}, {e}", *(cell(features, of_way[e, name]) for name in COMPRESSIONS)]
            for features, of_way in zip(everything, costs, strict=True)
            for e in Encoding
        ]
        yield Report(title, ("features, encoding", *COMPRESSIONS), rows)


def _size(features: Features, cost: Cost) -> str:
    kilobytes = cost.size / len(features.rows) / 1000
    return f"{kilobytes:.1f} ({_raw_bytes(features) / cost.size:.2f})"


def _speed(features: Features, cost: Cost) -> str:
    megabytes = _raw_bytes(features) / 1e6
    return f"{megabytes / cost.write:,.0f} / {megabytes / cost.read:,.0f}"


def _raw_bytes(features: Features) -> int:
    return 2 * sum(row.size for row in features.rows)


if __name__ == "__main__":
    typer.run(main)
