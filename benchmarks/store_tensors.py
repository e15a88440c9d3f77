"""What `store.py` writes and reads: foreground frames of two sizes, dense maps, a real teacher."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from frames.boxes import Boxes3D
from frames.dataset import DatasetConfig, read_frames
from frames.frame import Frame
from frames.grid import BEVGrid
from frames.world.config import WorldConfig
from frames.world.nuscenes_tree import write_world
from runs.checkpoint import load_checkpoint, save_checkpoint
from runs.config import load_config
from store.choices import Coverage
from store.fingerprint import DatasetIdentity, Fingerprint, TeacherIdentity
from store.plan import TeacherShapes, masks_of, plan_arrays
from store.rows import RowIdentity, RowValues, token_hash
from store.schema import Need, Places, Target
from teacher_dump.config import TeacherRun
from teacher_dump.protocol import Teacher
from teacher_dump.teachers import own_teacher
from teacher_dump.train import teacher_training

Row = dict[str, npt.NDArray[Any]]

FOREGROUND = (
    Need(Target.BEV_HIGH, Places.CELLS),
    Need(Target.HEATMAP_LOGIT, Places.CELLS),
    Need(Target.BOX_CODE, Places.BOXES),
    Need(Target.BOXES, Places.BOXES),
)
DENSE = (Need(Target.BEV_HIGH, Places.MAP),)
# Frames of values; longer data repeats them, so that making them is not what is timed.
POOL = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensors:
    """The same frames for every format.

    Attributes:
        fingerprint: Of a cache that holds them.
        identities: One a frame.
        pool: Values, repeated in turn.
    """

    fingerprint: Fingerprint
    identities: Sequence[RowIdentity]
    pool: Sequence[RowValues]

    def __len__(self) -> int:
        return len(self.identities)

    def values(self, row: int) -> RowValues:
        """A frame, as a dump gives it to the writer."""
        values = self.pool[row % len(self.pool)]
        return RowValues(token=self.identities[row].token, gt=values.gt, arrays=values.arrays)

    def arrays(self, row: int) -> Row:
        """The same as plain arrays."""
        values = self.pool[row % len(self.pool)]
        return as_arrays(values.arrays, values.gt)

    @property
    def frame_bytes(self) -> float:
        """Mean bytes of a frame."""
        total = sum(array.nbytes for row in range(len(self.pool)) for array in self._all(row))
        return total / len(self.pool)

    def _all(self, row: int) -> list[npt.NDArray[Any]]:
        return list(self.arrays(row).values())


def as_arrays(arrays: Row, gt: Boxes3D) -> Row:
    """A frame's targets and ground truth under one roof."""
    return arrays | {"gt/values": gt.values.numpy(), "gt/labels": gt.labels.numpy()}


def foreground_tensors(
    frames: int, *, channels: int, boxes: int, cells: int, seed: int = 0
) -> Tensors:
    """Twelve small arrays a frame: features and logits at cells, boxes, codes, ground truth.

    Args:
        frames: How many.
        channels: Of the features at cells, float16.
        boxes: A frame has up to a tenth more or less.
        cells: Likewise.
        seed: Another seed is other values.
    """
    rng = np.random.default_rng(seed)
    made_for, identities = _planned(frames, FOREGROUND, Coverage.FOREGROUND, channels, (128, 128))
    pool = []
    for _ in range(min(POOL, frames)):
        lengths = {
            Places.BOXES: int(boxes * rng.uniform(0.9, 1.1)),
            Places.CELLS: int(cells * rng.uniform(0.9, 1.1)),
        }
        arrays: Row = {}
        for spec in made_for.arrays:
            shape = (lengths[spec.places], *spec.shape)
            if spec.name == Places.CELLS.index_array:
                arrays[spec.name] = rng.integers(0, 128 * 128, shape, dtype=np.int32)
            else:
                arrays[spec.name] = rng.normal(size=shape).clip(min=0).astype(spec.dtype)
        gt = Boxes3D(
            torch.from_numpy(rng.normal(size=(lengths[Places.BOXES], 9)).astype(np.float32)),
            torch.from_numpy(rng.integers(0, 10, lengths[Places.BOXES])),
        )
        pool.append(RowValues(token="", gt=gt, arrays=arrays))
    return Tensors(fingerprint=made_for, identities=identities, pool=pool)


def small_frames(frames: int) -> Tensors:
    """About 5 kB a frame."""
    return foreground_tensors(frames, channels=8, boxes=25, cells=45)


def large_frames(frames: int) -> Tensors:
    """About 165 kB a frame: what UniDistill's losses read at paper scale."""
    return foreground_tensors(frames, channels=256, boxes=30, cells=300)


def dense_tensors(frames: int, shape: tuple[int, int, int], seed: int = 0) -> Tensors:
    """Whole maps as after a ReLU: 75 % zeros in smooth regions, noise on the rest, float16."""
    channels, height, width = shape
    made_for, identities = _planned(frames, DENSE, Coverage.DENSE, channels, (height, width))
    generator = torch.Generator().manual_seed(seed)
    pool = []
    for _ in range(min(POOL, frames)):
        coarse = torch.randn(1, channels, height // 8, width // 8, generator=generator)
        smooth = F.interpolate(coarse, size=(height, width), mode="bilinear")[0]
        shifted = smooth - smooth[:8].flatten().quantile(0.75)
        noise = 1 + 0.1 * torch.randn(shape, generator=generator)
        maps = (shifted * noise).clip(min=0).half().numpy()
        pool.append(RowValues(token="", gt=Boxes3D.empty(), arrays={"bev_high": maps}))
    return Tensors(fingerprint=made_for, identities=identities, pool=pool)


def _planned(
    frames: int, needs: Sequence[Need], coverage: Coverage, channels: int, shape: tuple[int, int]
) -> tuple[Fingerprint, list[RowIdentity]]:
    grid = BEVGrid(x_min=-51.2, y_min=-51.2, cell_size=0.8, shape=shape)
    shapes = TeacherShapes(bev_low=channels, bev_high=channels, classes=10, tasks=1, grid=grid)
    identities = [
        RowIdentity(
            token=f"{row:032x}",
            scene=f"scene-{row // 40:04d}",
            timestamp_us=row * 500_000,
            global_from_ego=np.eye(4),
        )
        for row in range(frames)
    ]
    made_for = Fingerprint(
        teacher=TeacherIdentity(name="x", kind="lidar", checkpoint_sha256="00" * 32, config={}),
        dataset=DatasetIdentity(
            name="x",
            version="x",
            split="x",
            token_hash=token_hash(identity.token for identity in identities),
            ground_truth_filter={},
        ),
        grid=grid,
        classes=tuple(f"class_{index}" for index in range(10)),
        coverage=coverage,
        masks=masks_of(needs),
        arrays=plan_arrays(needs, coverage, shapes),
        code_revision="x",
    )
    return made_for, identities


def a_world(folder: Path) -> list[Frame]:
    """240 frames of the demo's world, with images that nobody reads."""
    root = folder / "world"
    write_world(WorldConfig(train_scenes=12, val_scenes=1, image_size=(16, 44)), root, workers=2)
    return read_frames(_run("demo", folder).data)


def real_teacher(folder: Path, config: str) -> tuple[Teacher, DatasetConfig]:
    """A CenterPoint with random weights, for the frames of :func:`a_world`.

    Args:
        folder: Of the world; the weights are written there too.
        config: Its TOML in ``configs/``, up to ``_teacher``.
    """
    data = _run("demo", folder).data
    run = _run(config, folder).model_copy(update={"data": data})
    torch.manual_seed(0)
    checkpoint = folder / f"{config}.pt"
    document = run.model_dump(mode="json")
    save_checkpoint(checkpoint, "teacher", document, teacher_training(run).network, {})
    return own_teacher(load_checkpoint(checkpoint), torch.device("cpu")), data


def _run(config: str, folder: Path) -> TeacherRun:
    path = Path(f"configs/{config}_teacher.toml")
    return load_config(path, TeacherRun, data__root=folder / "world")
