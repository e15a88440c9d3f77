"""Is the teacher's box better than the student's, component by component?

    python -m benchmarks.component_errors STUDENT.pt --store STORE [--data-root ROOT] [--by-class]

XGD can only help where it is. At every ground-truth centre cell of the training frames the
student's and the cached teacher's box are compared with the ground truth, in metres and radians,
and with what XGD's default pilot test keeps.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table
from torch import Tensor

from commands.progress import console, progress_bar
from frames.box_code import encode_boxes, encode_boxes_at
from frames.dataset import read_frames
from frames.detection_classes import DETECTION_CLASSES
from frames.geometry import wrap_angle
from frames.heatmap import on_grid
from nets.center_head import codes_at
from runs.checkpoint import load_checkpoint
from store.reader import open_cache
from store.schema import Need, Places, Target
from student_train.data import StudentDataset
from student_train.detector import StudentDetector
from student_train.methods.xgd import COMPONENTS, XgdConfig, pilots, xgd_components

UNITS = {"position": "m", "size": "m", "heading": "rad", "velocity": "m/s"}


def main(
    checkpoint: Annotated[Path, typer.Argument(help="A student.pt.")],
    store: Annotated[str, typer.Option(help="The teacher's cache of its training frames.")],
    data_root: Annotated[Path | None, typer.Option(help="Data set folder.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Look at every so-manieth frame.")] = 4,
    *,
    by_class: Annotated[bool, typer.Option(help="A table for each class too.")] = False,
) -> None:
    """Print the errors of both and the kept fractions."""
    detector = StudentDetector(load_checkpoint(checkpoint, "student"), torch.device("cpu"))
    data = detector.run.data.model_copy(update={} if data_root is None else {"root": data_root})
    still = {"data": data, "bev_augment": type(detector.run.bev_augment)()}
    run = detector.run.model_copy(update=still)
    dataset = StudentDataset(
        read_frames(data)[::every], run, open_cache(store), {Need(Target.BOXES, Places.BOXES)}
    )
    codes, labels = _codes(detector, dataset)
    console.print(_table("all classes", codes, run.student.grid.cell_size))
    for label in sorted(set(labels.tolist())) if by_class else []:
        chosen = [code[labels == label] for code in codes]
        console.print(_table(DETECTION_CLASSES[label], chosen, run.student.grid.cell_size))


@torch.inference_mode()
def _codes(detector: StudentDetector, dataset: StudentDataset) -> tuple[list[Tensor], Tensor]:
    """Codes (n, 10) of student, teacher and ground truth at the same cells, and labels."""
    grid = detector.run.student.grid
    found: list[tuple[Tensor, ...]] = []
    with progress_bar("compare", len(dataset)) as advance:
        for index in range(len(dataset)):
            batch = dataset.collate([dataset[index, index]])
            assert batch.targets.boxes is not None, "asked for"
            assert batch.targets.answered is not None, "asked for"
            maps = detector.network(batch.seen).maps
            chosen = on_grid(batch.boxes, grid) & batch.targets.answered
            cell = grid.cell_index(batch.boxes.values[..., :2])
            found.append(
                (
                    codes_at(maps.center, batch.boxes.labels, cell)[chosen],
                    encode_boxes_at(batch.targets.boxes[chosen], cell[chosen], grid),
                    encode_boxes(batch.boxes.values[chosen], grid),
                    batch.boxes.labels[chosen],
                )
            )
            advance(1)
    *codes, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return codes, labels


def _table(title: str, codes: list[Tensor], cell_size: float) -> Table:
    student, teacher, truth = codes
    to_teacher, to_truth = pilots(student, teacher, truth, "metric", cell_size)
    kept, _ = xgd_components(student, teacher, truth, XgdConfig(), cell_size=cell_size)
    table = Table(title=f"{title}: {len(student)} boxes, median errors")
    for column in ("component", "student", "teacher", "teacher nearer", "kept", "nearer if kept"):
        table.add_column(column, justify="left" if column == "component" else "right")
    for name in COMPONENTS:
        between = to_truth[name] - to_teacher[name]
        if name == "heading":
            between = wrap_angle(between)
        student_error, teacher_error = to_truth[name].norm(dim=1), between.norm(dim=1)
        nearer, keep = teacher_error < student_error, kept[name][:, 0] > 0
        table.add_row(
            f"{name} ({UNITS[name]})",
            f"{student_error.median():.3f}",
            f"{teacher_error.median():.3f}",
            f"{nearer.float().mean():.2f}",
            f"{keep.float().mean():.2f}",
            f"{nearer[keep].float().mean():.2f}",
        )
    return table


if __name__ == "__main__":
    typer.run(main)
