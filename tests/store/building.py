"""Small stores for the tests: every value is a function of its row, so any run writes the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from frames.boxes import Boxes3D
from frames.grid import BEVGrid
from store.choices import Coverage, Encoding
from store.fingerprint import DatasetIdentity, Fingerprint, TeacherIdentity
from store.plan import TeacherShapes, masks_of, plan_arrays
from store.rows import RowIdentity, RowValues, token_hash
from store.schema import Need, Places, Target
from store.writer import StoreWriter

GRID = BEVGrid(x_min=-4.0, y_min=-3.0, cell_size=1.0, shape=(6, 8))
SHAPES = TeacherShapes(bev_low=3, bev_high=4, classes=2, tasks=1, grid=GRID)
CLASSES = ("car", "pedestrian")
NEEDS = (
    Need(Target.BEV_LOW, Places.CELLS),
    Need(Target.BEV_HIGH, Places.MAP),
    Need(Target.HEATMAP_LOGIT, Places.CELLS),
    Need(Target.BOX_CODE, Places.BOXES),
    Need(Target.BOXES, Places.BOXES),
)

ALL_NEEDS = (*NEEDS, Need(Target.BEV_LOW, Places.POINTS))


def identities(count: int) -> list[RowIdentity]:
    """Rows of one scene, each the next one's predecessor."""
    return [
        RowIdentity(
            token=f"token-{row:04d}",
            scene="scene-1",
            timestamp_us=1_000_000 + row,
            global_from_ego=np.diag([1.0, 1.0, 1.0, 1.0]) + row / 7,
            prev=row - 1,
            next=row + 1 if row + 1 < count else -1,
        )
        for row in range(count)
    ]


def fingerprint(
    rows: list[RowIdentity],
    coverage: Coverage = Coverage.FOREGROUND,
    *,
    needs: Sequence[Need] = NEEDS,
    encoding: Encoding | None = None,
) -> Fingerprint:
    """Of a store with these rows and, unless told otherwise, all of ``NEEDS``."""
    return Fingerprint(
        teacher=TeacherIdentity(
            name="pillars", kind="lidar", checkpoint_sha256="ab" * 32, config={"depth": 2}
        ),
        dataset=DatasetIdentity(
            name="world",
            version="v1",
            split="train",
            token_hash=token_hash(row.token for row in rows),
            ground_truth_filter={"min_points": 1},
        ),
        grid=GRID,
        classes=CLASSES,
        coverage=coverage,
        masks=masks_of(needs),
        arrays=plan_arrays(needs, coverage, SHAPES, encoding),
        code_revision="abc",
    )


def row_values(
    made_for: Fingerprint, token: str, *, boxes: int, cells: int, seed: int
) -> RowValues:
    """Random values of one row; maps and features with many zeros, as after a ReLU."""
    rng = np.random.default_rng(seed)
    lengths = {Places.BOXES: (boxes,), Places.POINTS: (boxes,), Places.CELLS: (cells,)}
    arrays: dict[str, npt.NDArray[Any]] = {}
    for spec in made_for.given:
        shape = (*lengths.get(spec.places, ()), *spec.shape)
        if spec.name == Places.CELLS.index_array:
            arrays[spec.name] = rng.integers(0, GRID.num_cells, shape, dtype=np.int32)
        elif spec.dtype == "int64":
            arrays[spec.name] = rng.integers(0, 2, shape)
        else:
            dtype = "float32" if spec.encoding else spec.dtype
            arrays[spec.name] = rng.normal(size=shape).clip(min=0).astype(dtype)
    gt = Boxes3D(
        torch.from_numpy(rng.normal(size=(boxes, 9)).astype(np.float32)),
        torch.from_numpy(rng.integers(0, 2, boxes)),
    )
    return RowValues(token=token, gt=gt, arrays=arrays)


def usual_values(made_for: Fingerprint, row: int) -> RowValues:
    """What the row holds in most tests: 0 to 4 boxes, three times as many cells."""
    boxes = row % 5
    return row_values(made_for, f"token-{row:04d}", boxes=boxes, cells=3 * boxes, seed=row)


def write_pending(writer: StoreWriter, made_for: Fingerprint) -> None:
    """Write all that is left to write, but do not seal."""
    for part in writer.pending_parts:
        writer.write_part(part, [usual_values(made_for, row) for row in part])


def build(
    path: Path,
    count: int,
    coverage: Coverage = Coverage.FOREGROUND,
    *,
    needs: Sequence[Need] = NEEDS,
    encoding: Encoding | None = None,
) -> Path:
    """A sealed store."""
    rows = identities(count)
    made_for = fingerprint(rows, coverage, needs=needs, encoding=encoding)
    writer = StoreWriter.open(path, made_for, rows)
    write_pending(writer, made_for)
    writer.finalise()
    return path


def tree(path: Path) -> dict[str, bytes]:
    """Every file's bytes, by relative path."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }
