"""How good is the real PointPillars, and which of its components would XGD keep?

    python -m benchmarks.real_teacher FOLDER [--data ../shared/data] [--out STORES]

Dumps the labelled frames of ``kitti_object`` (3) and ``kitti_lidar32`` (32, one of the others among
them) with the weights in FOLDER; stores that are there already are read. Scores its detections as
KITTI does, compares its boxes at positive anchors with the ground truth, and asks XGD's gate and a
whole-box threshold what they keep of them for students whose errors are drawn. Prints Markdown. The
pillar encoder of these weights was refitted from recorded activations.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from benchmarks.rounds import Report
from benchmarks.teacher_gap import (
    AtPositives,
    component_errors,
    noisy_student,
    of_row,
    pass_whole_box,
    passing_pilots,
)
from commands.planned_dump import PlannedDump
from commands.progress import progress_bar
from commands.steps import ensure_cache
from examples.kitti_pointpillars import ANCHORS, PointPillarsTeacher, pointpillars
from frames.cell_masks import AnchorMask
from frames.detection_classes import KITTI_CLASSES
from frames.kitti.config import KittiConfig
from frames.kitti.difficulty import KITTI_DIFFICULTIES
from frames.kitti.reader import KittiFrame, read_frames
from frames.kitti.results import result_objects
from frames.kitti.scoring import (
    KittiScores,
    Metric,
    Overlap,
    Setting,
    as_detections,
    as_labels,
    score_kitti,
)
from store.reader import open_cache
from store.schema import Need, Places, Target
from student_train.methods.anchor_xgd import AnchorXgdConfig
from teacher_dump.dump import DumpOptions, plan_dump

# The size of nearly all left images of KITTI; those of kitti_lidar32 are not here.
IMAGE_SIZE = (375, 1242)
NEEDS = [Need(Target.ANCHORS, Places.ANCHORS, mask=AnchorMask(anchors=ANCHORS))]
UNITS = {"position": "m", "size": "factor", "heading": "rad"}
QUANTILES = (0.5, 0.9)
FURTHER, FURTHER_SIGMA = 0.03, 0.05


def main(
    folder: Annotated[Path, typer.Argument(help="The weights.")],
    data: Annotated[Path, typer.Option(help="Holds both samples.")] = Path("../shared/data"),
    out: Annotated[Path | None, typer.Option(help="Where the stores are, or will be kept.")] = None,
    sigmas: Annotated[str, typer.Option(help="Errors of students, a list.")] = "0.02,0.05,0.1,0.2",
    seeds: Annotated[int, typer.Option(min=1, help="Students of each kind.")] = 5,
) -> None:
    """Print three tables: average precision, errors by component, kept shares."""
    teacher = pointpillars(folder, torch.device("cpu"))
    samples = sample_configs(data)
    frames = {frame.token: frame for config in samples for frame in read_frames(config)}
    found: dict[str, AtPositives] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for config in samples:
            found |= _dumped(teacher, config, out or Path(scratch))
    at = AtPositives.join(list(found.values()))
    typer.echo(_precision(teacher, list(frames.values())).markdown())
    typer.echo(_errors(at).markdown())
    students = {f"noise {text}": (float(text), 0.0) for text in sigmas.split(",")}
    students[f"noise {FURTHER_SIGMA}, {FURTHER:.0%} too far"] = (FURTHER_SIGMA, FURTHER)
    typer.echo(_kept(at, students, seeds).markdown())


def sample_configs(data: Path) -> list[KittiConfig]:
    """How to read the three whole frames and the 32 with LiDAR alone."""
    whole = KittiConfig(root=data / "kitti_object", split="training", cameras=())
    changes = {
        "root": data / "kitti_lidar32",
        "lidar": "velodyne_reduced",
        "image_size": IMAGE_SIZE,
    }
    return [whole, whole.model_copy(update=changes)]


def _dumped(
    teacher: PointPillarsTeacher, config: KittiConfig, stores: Path
) -> dict[str, AtPositives]:
    """The positive anchors of a sample's store, by token; it is dumped if it is not there."""
    frames, store = read_frames(config), stores / config.root.name
    plan = plan_dump(teacher, frames, config, NEEDS, DumpOptions())
    ensure_cache(teacher, PlannedDump(list(frames), plan), store)
    cache = open_cache(store)
    rows = {frame.token: cache[frame.token] for frame in frames}
    return {token: of_row(row.arrays, row.gt, ANCHORS) for token, row in rows.items()}


def _precision(teacher: PointPillarsTeacher, frames: list[KittiFrame]) -> Report:
    found = {}
    with progress_bar("detect", len(frames)) as advance:
        for frame in frames:
            (detections,) = teacher.detect([frame])
            found[frame.token] = as_detections(
                result_objects(detections, frame.view, KITTI_CLASSES)
            )
            advance(1)
    scores = score_kitti({frame.token: as_labels(frame.objects) for frame in frames}, found)
    return Report(
        title=f"Average precision at 40 recalls, {len(frames)} frames: easy / moderate / hard",
        columns=["class", "AP_BEV", "AP_3D", "AP_BEV loose", "AP_3D loose"],
        rows=[
            [
                kind,
                *(
                    _three(scores, kind, metric, overlap)
                    for overlap in Overlap
                    for metric in (Metric.AP_BEV, Metric.AP_3D)
                ),
            ]
            for kind in KITTI_CLASSES
        ],
    )


def _three(scores: KittiScores, kind: str, metric: Metric, overlap: Overlap) -> str:
    settings = [Setting(kind, metric, level.name, overlap) for level in KITTI_DIFFICULTIES]
    return " / ".join(f"{scores[setting].r40:.1f}" for setting in settings)


def _errors(at: AtPositives) -> Report:
    rows = []
    for label, kind in enumerate(KITTI_CLASSES):
        own = at.of_class(label)
        for name, error in component_errors(own).items():
            quantiles = error.quantile(error.new_tensor(QUANTILES)).tolist()
            what = f"{kind}, {name} ({UNITS[name]})"
            rows.append([what, str(len(error)), *(f"{value:.3f}" for value in quantiles)])
    return Report(
        title="The teacher's boxes at positive anchors against the ground truth",
        columns=["component", "anchors", *(f"{share:.0%}" for share in QUANTILES)],
        rows=rows,
    )


def _kept(at: AtPositives, students: dict[str, tuple[float, float]], seeds: int) -> Report:
    rows = []
    for label, kind in enumerate(KITTI_CLASSES):
        own = at.of_class(label)
        whole = pass_whole_box(own).float().mean()
        for name, (sigma, further) in students.items():
            drawn = [_shares(own, sigma, further, seed) for seed in range(seeds)]
            kept, nearer = (torch.stack(shares) for shares in zip(*drawn, strict=True))
            figures = [*kept.mean(0), kept.mean(), nearer.mean(), whole]
            cells = [f"{figure:.2f}" for figure in figures]
            cells[len(UNITS)] += f" ± {kept.mean(1).std(correction=0):.3f}"
            rows.append([f"{kind}, {name}", *cells])
    return Report(
        title=f"Share of components kept, mean and spread of {seeds} students",
        columns=["class, student", *UNITS, "all three", "teacher nearer", "whole box"],
        rows=rows,
    )


def _shares(at: AtPositives, sigma: float, further: float, seed: int) -> tuple[Tensor, Tensor]:
    """For each component, at which share it is kept, and at which the teacher is nearer."""
    student = noisy_student(at, sigma, torch.Generator().manual_seed(seed), further)
    gates = (AnchorXgdConfig(), AnchorXgdConfig(gate="closer"))
    kept, nearer = (passing_pilots(at, student, gate) for gate in gates)
    return _means(kept), _means(nearer)


def _means(chosen: dict[str, Tensor]) -> Tensor:
    return torch.stack([chosen[name].float().mean() for name in UNITS])


if __name__ == "__main__":
    typer.run(main)
