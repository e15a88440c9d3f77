"""A real dump of a paper's needs at its size: bytes a frame, foreground against dense.

    python -m benchmarks.paper_dump --frames 64 --dense-frames 16
    python -m benchmarks.paper_dump --method LabelDistill --together 0.5

The tensors are random but realistic: a random convolutional network over rasterised boxes, with a
ReLU, so that they are smooth in space and largely zero, as a trained teacher's are. Their values go
through the real planner, writer and reader; only the LiDAR and the weights are missing.
"""

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numcodecs
import numpy as np
import torch
import torch.nn.functional as F
import typer
from rich.table import Table
from torch import Tensor, nn

from commands.progress import console, progress_bar
from frames.augment import BevAugment
from frames.boxes import BoxBatch, Boxes3D
from frames.detection_classes import DETECTION_CLASSES
from frames.detections import Detections
from frames.frame import Frame
from frames.geometry import SE3
from frames.nuscenes import NuScenesConfig
from store.choices import Coverage
from store.fingerprint import TeacherIdentity
from store.paper_scale import PAPERS, PaperScale
from store.reader import open_cache
from store.schema import Places, Target
from store.writer import StoreWriter
from teacher_dump.dump import DumpOptions, dump, plan_dump
from teacher_dump.protocol import FoundBoxes, TeacherInfo, TeacherOutput

# How far, metres, boxes stand from each other that stand together (standard deviation).
SPREAD = 3.0
# Mean sizes of nuScenes classes, length and width in metres, in the order of DETECTION_CLASSES.
SIZES = (
    *((4.6, 2.0), (6.9, 2.5), (6.4, 2.9), (11.1, 2.9), (12.3, 2.9), (0.5, 2.5)),
    *((2.1, 0.8), (1.7, 0.6), (0.7, 0.7), (0.4, 0.4)),
)
# How often they are: 3,611 boxes with a LiDAR or radar point on this grid, in the 81 key frames of
# nuScenes' mini_val. Their own sizes cover 5.8 cells a box.
COUNTS = (1963, 105, 0, 37, 0, 0, 229, 39, 1201, 37)


class RandomTeacher:
    """Maps of the paper's shapes from the boxes' own footprint, through random convolutions."""

    def __init__(self, paper: PaperScale) -> None:
        self.shapes = paper.shapes
        identity = TeacherIdentity(
            name="random", kind="lidar", checkpoint_sha256="00" * 32, config={"paper": paper.method}
        )
        self.info = TeacherInfo(
            identity=identity, shapes=paper.shapes, classes=DETECTION_CLASSES, sweeps=1
        )
        torch.manual_seed(0)
        low, high = paper.shapes.bev_low, paper.shapes.bev_high
        self.stem = nn.Conv2d(8, 32, 5, padding=2)
        self.low = nn.Conv2d(32, low, 3, padding=1)
        self.high = nn.Conv2d(low, high, 3, padding=1)
        codes = paper.shapes.tasks * paper.shapes.code_size
        further = paper.shapes.further
        self.stages = nn.ModuleDict(
            {
                target: nn.Conv2d(32, channels, 3, self._stride(target), padding=1)
                for target, channels in further.items()
            }
        )
        self.heads = nn.ModuleDict(
            {
                Target.HEATMAP_LOGIT: nn.Conv2d(high, paper.shapes.classes, 1),
                Target.BOX_CODE: nn.Conv2d(high, codes, 1),
            }
        )

    def __call__(
        self,
        frames: Sequence[Frame],
        boxes: BoxBatch,
        augments: Sequence[BevAugment],  # noqa: ARG002
    ) -> TeacherOutput:
        """See ``teacher_dump.protocol.Teacher``; its boxes are the true ones."""
        noise = torch.stack([self._noise(frame) for frame in frames])
        first = self.stem(noise).relu()
        low = _sparse(self.low(first))
        high = _sparse(self.high(low))
        heads = {Target(name): head(high) for name, head in self.heads.items()}
        stages = {Target(name): _sparse(stage(first)) for name, stage in self.stages.items()}
        return TeacherOutput(
            maps={Target.BEV_LOW: low, Target.BEV_HIGH: high, **heads, **stages},
            boxes=boxes.values,
            scores=boxes.valid.float(),
            labels=boxes.labels,
            answered=boxes.valid,
            found=lambda: [self._found(values) for values in boxes.values],
        )

    def _found(self, values: Tensor) -> FoundBoxes:
        """The true boxes, again and again, of any class."""
        count = self.shapes.detections
        rng = torch.Generator().manual_seed(0)
        return FoundBoxes(
            boxes=values[torch.arange(count) % len(values)],
            scores=torch.linspace(1, 0, count),
            probability=torch.rand(count, self.shapes.classes, generator=rng),
        )

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """A dump asks for none."""
        raise NotImplementedError(f"{len(frames)} frames: this teacher detects nothing")

    def _stride(self, target: Target) -> int:
        return self.shapes.grid.shape[0] // self.shapes.grid_of(target).shape[0]

    def _noise(self, frame: Frame) -> Tensor:
        """Smooth noise, as ground and clutter give, with the boxes' corners in it."""
        rng = torch.Generator().manual_seed(int(frame.token))
        rows, cols = self.shapes.grid.shape
        coarse = torch.randn(1, 8, rows // 6, cols // 6, generator=rng)
        noise = F.interpolate(coarse, (rows, cols), mode="bilinear", align_corners=False)[0]
        cells = self.shapes.grid.cell_index(frame.boxes.values[:, :2])
        noise.flatten(1)[:, cells] += 3
        return noise


def _sparse(values: Tensor) -> Tensor:
    """ReLU with three quarters of zeros; one briefly trained teacher's maps have half."""
    threshold = values.flatten(2)[:, :, ::37].quantile(0.75, dim=2)[..., None, None]
    return (values - threshold).relu()


def random_frames(count: int, boxes: int, together: float) -> list[Frame]:
    """Frames of one scene with boxes of nuScenes' mean sizes and frequencies.

    Args:
        count: Frames.
        boxes: In each.
        together: Share of the boxes that stand near another one.
    """
    rng = np.random.default_rng(0)
    frames = []
    ends = np.round(np.cumsum(COUNTS) / sum(COUNTS) * count * boxes).astype(int)
    every = rng.permutation(np.repeat(np.arange(len(SIZES)), np.diff(ends, prepend=0)))
    for index, labels in enumerate(every.reshape(count, boxes)):
        values = np.zeros((boxes, 9), np.float32)
        values[:, :2] = rng.uniform(-50, 50, (boxes, 2))
        for box in (rng.random(boxes) < together).nonzero()[0]:
            values[box, :2] = values[box - 1, :2] + rng.normal(0, SPREAD, 2)
        values[:, 3:5] = np.array(SIZES)[labels]
        values[:, 5], values[:, 6] = 1.6, rng.uniform(-np.pi, np.pi, boxes)
        frames.append(
            Frame(
                token=str(index),
                scene="scene",
                timestamp_us=index * 500_000,
                global_from_ego=SE3.identity(),
                cameras=(),
                sweeps=(),
                boxes=Boxes3D(torch.from_numpy(values), torch.from_numpy(labels)),
                prev=str(index - 1) if index else "",
                next=str(index + 1) if index + 1 < count else "",
            )
        )
    return frames


def main(
    method: Annotated[str, typer.Option(help="A method of paper-plans.")] = "UniDistill",
    frames: Annotated[int, typer.Option(min=1, help="Of the foreground dump.")] = 64,
    dense_frames: Annotated[int, typer.Option(min=1, help="Of the dense dump.")] = 16,
    together: Annotated[
        float, typer.Option(min=0, max=1, help="Share of boxes 3 m or so from another.")
    ] = 0.0,
    folder: Annotated[Path | None, typer.Option(help="Where the stores go; removed.")] = None,
) -> None:
    """Dump, read back, print what a frame weighs."""
    paper = next(paper for paper in PAPERS if paper.method == method)
    teacher, boxes = RandomTeacher(paper), round(paper.per_frame[Places.BOXES])
    place = Path(tempfile.mkdtemp(dir=folder))
    rows, cols = paper.shapes.grid.shape
    table = Table(title=f"{method}: bytes a frame, {boxes} boxes, {rows} x {cols} cells")
    for column in ("dump", "frames", "array", "raw", "stored", "with zstd 1"):
        table.add_column(column, justify="left" if column in ("dump", "array") else "right")
    for coverage, count in ((Coverage.FOREGROUND, frames), (Coverage.DENSE, dense_frames)):
        shown = random_frames(count, boxes, together)
        _rows(table, paper, teacher, coverage, shown, place / coverage)
    shutil.rmtree(place)
    half, full = (paper.dense_bytes(dtype) for dtype in ("float16", "float32"))
    console.print(table)
    console.print(f"whole maps: {half:,} bytes in float16, {full:,} in float32")


def _rows(
    table: Table,
    paper: PaperScale,
    teacher: RandomTeacher,
    coverage: Coverage,
    frames: list[Frame],
    path: Path,
) -> None:
    data = NuScenesConfig(root=Path("none"), version="random", split="random")
    needs = list(paper.needs)
    if coverage is Coverage.DENSE and paper.method == "UniDistill":
        # What the released code reads: the relation too from the whole high-level map.
        needs = [need for need in needs if need.target is not Target.RELATION]
        needs += [type(needs[0])(Target.BEV_HIGH, Places.MAP)]
    plan = plan_dump(teacher, frames, data, needs, DumpOptions(coverage=coverage))
    writer = StoreWriter.open(path, plan.fingerprint, plan.rows)
    began = time.perf_counter()
    with progress_bar(f"dump · {coverage}", len(frames)) as advance, torch.inference_mode():
        dump(teacher, frames, writer, batch_size=2, on_rows=advance)
    spent = time.perf_counter() - began
    cache = open_cache(path)
    for token in cache.tokens:
        cache[token]
    sizes = {row.array: row.bytes_per_row for row in plan.sizes}
    totals = np.zeros(3)
    for name, raw in sizes.items():
        chunks = [f.read_bytes() for f in (path / name / "c").rglob("*") if f.is_file()]
        bare, packed = (sum(map(len, files)) / len(frames) for files in (chunks, _zstd(chunks)))
        totals += (raw, bare, packed)
        figures = [f"{figure:,.0f}" for figure in (raw, bare, packed)]
        table.add_row(coverage, str(len(frames)), name, *figures)
    table.add_row(coverage, "", "all", *(f"{figure:,.0f}" for figure in totals))
    table.add_section()
    ratio = paper.dense_bytes("float16") / totals[1]
    console.print(f"{coverage}: {spent:.0f} s; whole float16 maps weigh {ratio:,.1f} times as much")


def _zstd(chunks: list[bytes]) -> list[bytes]:
    """The files compressed once more: what is left to gain where a store maps its values."""
    return [numcodecs.Zstd(level=1).encode(chunk) for chunk in chunks]


if __name__ == "__main__":
    typer.run(main)
