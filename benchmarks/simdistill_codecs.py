r"""Which encoding SimDistill's maps should have: bytes on disk, error of each loss.

    python -m benchmarks.simdistill_codecs configs/gain_sim_student.toml --checkpoint TEACHER \
        --out OUT [--data-root WORLD] [--frames 32]

A real store for each encoding of features (logits and codes stay float16), and one of the
foreground's places alone. The losses of two made-up students, a random and a close one, are held
against those from the float32 store. What it does to the accuracy of trained students: arms
sim_bfloat16, sim_uint8 and sim_foreground of ``python -m benchmarks.gains --part methods``.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from benchmarks.rounds import Report
from commands import steps as job
from commands.planned_dump import plan_teacher_dump
from commands.progress import console
from frames.augment import BevAugmentConfig
from frames.boxes import BoxBatch
from frames.dataset import read_frames
from frames.frame import Frame
from nets.center_head import CenterHeadConfig, CenterMaps
from runs.checkpoint import load_checkpoint
from runs.config import load_config
from store.choices import Encoding
from store.reader import Cache, open_cache
from store.schema import Target
from student_train.config import StudentRun
from student_train.data import StudentDataset
from student_train.methods.base import MethodContext, StudentMaps, TeacherTargets
from student_train.methods.simdistill import SimDistill, SimDistillConfig
from student_train.students.kinds import center_head
from student_train.train import needs_of
from teacher_dump.protocol import Teacher
from teacher_dump.teachers import own_teacher

# How far a well-trained student is from its teacher, in a channel's standard deviations.
CLOSE = 0.1
FOREGROUND = "foreground, float16"
# MMD-P reads logits and codes, which no encoding touches.
TERMS = ("imd", "cmd", "mmd_f")


def main(
    config: Annotated[Path, typer.Argument(help="A simulated-fusion student's TOML.")],
    checkpoint: Annotated[Path, typer.Option(help="Its teacher.pt.")],
    out: Annotated[Path, typer.Option(help="Stores go here.")],
    data_root: Annotated[Path | None, typer.Option(help="Data set folder.")] = None,
    frames: Annotated[int, typer.Option(min=1, help="Of the stores that losses read.")] = 32,
) -> None:
    """Print bytes and errors."""
    torch.set_num_threads(1)
    run = load_config(config, StudentRun, data__root=data_root)
    # As the frames are: what is measured is the encoding.
    run = run.model_copy(update={"method": "simdistill", "bev_augment": BevAugmentConfig()})
    teacher = own_teacher(load_checkpoint(checkpoint, "teacher"), torch.device("cpu"))
    console.print(error_report(teacher, run, out, frames).markdown(), soft_wrap=True)


def runs_of(run: StudentRun) -> dict[str, tuple[StudentRun, Encoding | None]]:
    """Each way of storing: the run that reads it, and its encoding."""
    at_places = run.methods.model_copy(update={"simdistill": SimDistillConfig(at="foreground")})
    foreground = run.model_copy(update={"methods": at_places})
    return {**{str(e): (run, e) for e in Encoding}, FOREGROUND: (foreground, None)}


def store_of(
    teacher: Teacher, run: StudentRun, encoding: Encoding | None, out: Path, limit: int
) -> Path:
    """A finished store, made unless it is there."""
    job.ensure_cache(teacher, plan_teacher_dump(teacher, run, encoding=encoding, limit=limit), out)
    return out


def error_report(teacher: Teacher, run: StudentRun, out: Path, limit: int) -> Report:
    """Bytes a frame, and relative change of each term and of its gradient."""
    stores = {
        name: store_of(teacher, own, encoding, out / name.split(",")[0], limit)
        for name, (own, encoding) in runs_of(run).items()
    }
    # Spread over the split they are not: the first frames are those that all stores hold.
    frames = read_frames(run.data, limit)
    exact = open_cache(stores[Encoding.FLOAT32])
    rows = []
    for name, path in stores.items():
        size = f"{job.stored_bytes(path) / len(frames) / 1000:.1f}"
        if name == FOREGROUND:
            # Another loss: there is nothing to hold it against.
            rows.append([name, size, *["" for _ in range(4 * len(TERMS))]])
            continue
        changes = [
            loss_changes(teacher, run, frames, (exact, open_cache(path)), close=close)
            for close in (False, True)
        ]
        cells = [f"{change:.1e}" for each in changes for t in TERMS for change in each[t]]
        rows.append([name, size, *cells])
    students = [f"{kind} {t}" for kind in ("random", "close") for t in TERMS]
    columns = [label for name in students for label in (name, "gradient")]
    return Report(
        "SimDistill's stores: kB a frame, relative change of losses and gradients",
        ["encoding", "kB a frame", *columns],
        rows,
    )


def loss_changes(
    teacher: Teacher,
    run: StudentRun,
    frames: list[Frame],
    caches: tuple[Cache, Cache],
    *,
    close: bool,
) -> dict[str, tuple[float, float]]:
    """By term: |change of the loss| / loss, |change of the gradient| / |gradient|, of all frames.

    The student's maps are made from the exact ones: the mean and spread of the teacher's, or the
    teacher's and a little noise.
    """
    needs, method = needs_of(run), method_for(teacher, run)
    exact, stored = (StudentDataset(frames, run, cache, needs) for cache in caches)
    generator = torch.Generator().manual_seed(0)
    gaps: dict[str, list[float]] = {term: [0.0] * 4 for term in TERMS}
    for k in range(len(frames)):
        both = [data.collate([data[k, k]]) for data in (exact, stored)]
        maps = made_up(teacher, both[0].targets, run, generator, close=close)
        losses = [losses_of(method, maps, batch.targets, batch.boxes) for batch in both]
        for term, total in gaps.items():
            (loss, gradient), (other, other_gradient) = (each[term] for each in losses)
            total[0] += abs(other - loss)
            total[1] += loss
            total[2] += float((other_gradient - gradient).square().sum())
            total[3] += float(gradient.square().sum())
    return {t: (total[0] / total[1], (total[2] / total[3]) ** 0.5) for t, total in gaps.items()}


def head_of(run: StudentRun) -> CenterHeadConfig:
    """Of its student."""
    head = center_head(run.student)
    assert head is not None, "a simulated-fusion student has a centre head"
    return head


def method_for(teacher: Teacher, run: StudentRun) -> SimDistill:
    """Without an adapter: the made-up student's maps are as wide as the teacher's."""
    shapes, head = teacher.info.shapes, head_of(run)
    channels = {
        **{t: shapes.channels(t) for t in (Target.BEV_CAMERA, Target.BEV_LIDAR, Target.BEV_LOW)},
        Target.BOX_CODE: head.code_channels,
    }
    context = MethodContext(
        grid=run.student.grid,
        classes=run.student.classes,
        student_channels=channels,
        teacher_channels=channels,
    )
    return SimDistill(SimDistillConfig(adapter="none"), context)


def made_up(
    teacher: Teacher,
    targets: TeacherTargets,
    run: StudentRun,
    generator: torch.Generator,
    *,
    close: bool,
) -> StudentMaps:
    """A student's maps; where the cache holds places alone, they are put into a map of zeros."""
    grid, head = run.student.grid, head_of(run)
    lidar = torch.zeros(1, teacher.info.shapes.channels(Target.BEV_LIDAR), grid.num_cells)
    assert targets.cells is not None
    lidar[0, :, grid.cell_index(targets.cells[0])] = targets.at_cells[Target.BEV_LIDAR][0].T.float()
    whole = {**targets.maps, Target.BEV_LIDAR: lidar.view(1, -1, *grid.shape)}
    maps = {}
    for target, exact in sorted(whole.items()):
        # Of the LiDAR's map only the cells count, which are not zero by themselves.
        seen = targets.at_cells[target].float() if target is Target.BEV_LIDAR else exact.float()
        noise = seen.std() * torch.randn(exact.shape, generator=generator)
        made = exact + CLOSE * noise if close else seen.mean() + noise
        maps[target] = made.requires_grad_()
    code = torch.randn(1, len(head.tasks), head.code_size, *grid.shape, generator=generator)
    logit = maps.pop(Target.HEATMAP_LOGIT)
    tasks = torch.tensor(head.class_task)
    return StudentMaps(maps, CenterMaps(logit, code.requires_grad_(), tasks))


def losses_of(
    method: SimDistill, maps: StudentMaps, targets: TeacherTargets, boxes: BoxBatch
) -> dict[str, tuple[float, Tensor]]:
    """By term: the loss, and its gradient on all maps."""
    terms = method(maps, targets, boxes).terms
    leaves = [*maps.features.values(), maps.center.heatmap_logit, maps.center.box_code]
    found = {}
    for name, term in terms.items():
        gradient = torch.autograd.grad(term, leaves, retain_graph=True, materialize_grads=True)
        found[name] = (term.item(), torch.cat([each.flatten() for each in gradient]))
    return found


if __name__ == "__main__":
    typer.run(main)
