"""The steps of the main job, each with its progress on the console."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from commands.amounts import human_bytes, human_time
from commands.plans import plan_table
from commands.progress import announce_room, console, progress_bar
from commands.workers import Workers, dump_on
from frames.augment import BevAugmentConfig
from frames.dataset import DatasetConfig, read_frames
from frames.detections import Detections
from frames.frame import Frame
from frames.grid import BEVGrid
from frames.kitti.config import KittiConfig
from frames.kitti.difficulty import difficulties
from frames.kitti.evaluation import score_frames
from frames.kitti.reader import KittiFrame
from frames.kitti.scoring import KittiScores
from frames.loading import check_image_files
from frames.scoring import Scores, score_nuscenes
from frames.sensor_input import SENSORS, check_sensor_files
from runs.checkpoint import Checkpoint
from runs.config import parse_config
from runs.errors import CheckpointError, ConfigError, RunInterruptedError
from runs.evaluate import Detect, detect_all, draw_pictures, spread_evenly
from store.choices import Coverage, Encoding
from store.differences import differences
from store.errors import FingerprintError, IncompleteStoreError, NotACacheError, PlanError
from store.fingerprint import Augmentation, DrawnViews
from store.manifest import Manifest
from store.plan import plan_arrays
from store.reader import open_cache
from store.schema import Need
from store.writer import StoreWriter
from student_train.config import StudentRun
from student_train.detector import StudentDetector
from student_train.train import needs_of
from teacher_dump.config import TeacherRun
from teacher_dump.dump import DumpOptions, DumpPlan, dump, frames_of_rows, plan_dump
from teacher_dump.label_config import LabelEncoderRun
from teacher_dump.label_decoder import LabelDetector
from teacher_dump.label_teacher import label_needs
from teacher_dump.protocol import Teacher
from teacher_dump.stages import LABELS
from teacher_dump.teacher_rows import teacher_rows
from teacher_dump.teachers import own_teacher

# Near, middle and far, metres; nuScenes scores nothing beyond 50.
DISTANCES = (0.0, 20.0, 30.0, 50.0)


@dataclass(frozen=True, slots=True)
class PlannedDump:
    """A dump whose size has been printed: its frames and what will be written of them."""

    frames: list[Frame]
    plan: DumpPlan


def methods_served(teacher: Teacher, run: StudentRun) -> list[str]:
    """The methods for the student's head that teacher and student give all they read.

    Says which are left out, and why. Those that read whole maps are in: what they weigh is printed.

    Raises:
        PlanError: It serves none.
    """
    served, shapes = [], teacher.info.shapes
    for name in run.known_methods:
        try:
            needs = _needs(teacher, run.model_copy(update={"method": name}))
            plan_arrays(needs, Coverage.DENSE, shapes)
        except (PlanError, ConfigError) as error:
            console.print(f"left out {name}: {error}")
        else:
            served.append(name)
    if not served:
        raise PlanError(
            f"the teacher serves none of {', '.join(run.known_methods)}: bring another one"
        )
    return served


def plan_teacher_dump(
    teacher: Teacher,
    run: StudentRun,
    *,
    coverage: Coverage = Coverage.FOREGROUND,
    views: int = 1,
    encoding: Encoding | None = None,
    limit: int | None = None,
) -> PlannedDump:
    """Plan a dump of the run's frames for the run's methods, and print what it will weigh.

    Args:
        teacher: Who will speak.
        run: Frames, methods and, for several views, the ranges of augmentation and their seed.
        coverage: Whole maps or places.
        views: Drawn augmentations of each frame; 1: the frame as it is.
        encoding: How features are stored; None: as the methods want them.
        limit: Only the first so many frames.

    Raises:
        PlanError: The needs cannot be stored, or several views of an augmentation that is off.
    """
    # Absolute: a worker on another machine has another working folder.
    changes = {"sweeps": teacher.info.sweeps, "root": run.data.root.absolute()}
    data = run.data.model_copy(update=changes)
    frames = read_frames(data, limit)
    _check_grid(teacher, run)
    options = DumpOptions(
        coverage=coverage, augmentation=_augmentation(run, views), encoding=encoding
    )
    needs = _needs(teacher, run)
    if needs_of(run) - needs:
        console.print(
            "without --label-encoder no label maps: train-student --label-encoder computes them"
        )
    plan = plan_dump(teacher, frames, data, needs, options)
    console.print(plan_table(plan.sizes))
    console.print(
        f"{len(plan.rows)} rows ({len(frames)} frames of {data.split} x {views} views): "
        f"about {human_bytes(plan.total)} before compression"
    )
    return PlannedDump(frames, plan)


def _needs(teacher: Teacher, run: StudentRun) -> frozenset[Need]:
    """What the run's methods read; of a teacher without label maps none: steps compute them."""
    needs, labels = needs_of(run).union(label_needs(teacher.info)), set(LABELS.values())
    if labels & teacher.info.shapes.further.keys():
        return needs
    return frozenset(need for need in needs if need.target not in labels)


def _check_grid(teacher: Teacher, run: StudentRun) -> None:
    found, expected = teacher.info.shapes.grid, run.student.grid
    lines = differences(found.model_dump(mode="json"), expected.model_dump(mode="json"), "grid")
    if different := list(lines):
        raise PlanError(
            f"the teacher's grid is not that of the run's student ({'; '.join(different)}), so no "
            "student of it could read the cache: change student.grid, or bring another teacher"
        )


def _augmentation(run: StudentRun, views: int) -> Augmentation:
    if views == 1:
        return "canonical"
    if run.bev_augment == BevAugmentConfig():
        raise PlanError(
            f"--views {views}: the run's bev_augment is off, so all views would be the same; give "
            "the TOML a table [bev_augment], or leave --views out"
        )
    return DrawnViews(views=views, ranges=run.bev_augment, seed=run.fit.seed)


def announce_time(
    teacher: Teacher, planned: PlannedDump, batch_size: int, rows: Sequence[int]
) -> None:
    """Print how long these rows will take: the teacher is run on up to two batches of them.

    Args:
        teacher: The one that will be dumped, on its device.
        planned: From :func:`plan_teacher_dump`.
        batch_size: Rows the teacher sees at once.
        rows: Those to write.

    Raises:
        DataError: A frame's file is missing or damaged.
    """
    if rows:
        seconds = seconds_a_row(teacher, planned, batch_size, rows)
        console.print(
            f"about {human_time(seconds * len(rows))} for {len(rows)} rows, without writing, in "
            f"one process: the teacher took {seconds:.3f} s a row, measured by running it on "
            f"{min(len(rows), 2 * batch_size)} of these rows"
        )


def seconds_a_row(
    teacher: Teacher, planned: PlannedDump, batch_size: int, rows: Sequence[int]
) -> float:
    """How long the teacher takes, its files read, on the second batch of these rows.

    The first one warms up; it counts only where there is no other.
    """
    plan, made_for = planned.plan, planned.plan.fingerprint
    seconds = 0.0
    for batch in filter(None, (rows[:batch_size], rows[batch_size : 2 * batch_size])):
        frames = frames_of_rows(planned.frames, batch, made_for.views)
        check_sensor_files(frames, teacher.info.identity.kind)
        augments = [plan.rows[row].augment for row in batch]
        began = time.perf_counter()
        list(teacher_rows(teacher, frames, made_for.given, made_for.masks, augments))
        seconds = (time.perf_counter() - began) / len(batch)
    return seconds


def dump_teacher(
    teacher: Teacher,
    planned: PlannedDump,
    out: Path,
    *,
    batch_size: int = 4,
    resume: bool = False,
    workers: Workers | None = None,
) -> None:
    """Run the teacher over the planned frames, here or on workers, and write its cache."""
    check_sensor_files(planned.frames, teacher.info.identity.kind)
    plan = planned.plan
    writer = StoreWriter.open(out, plan.fingerprint, plan.rows, resume=resume)
    announce_room(out, planned.plan.total)
    try:
        if workers is None:
            left = [row for part in writer.pending_parts for row in part]
            announce_time(teacher, planned, batch_size, left)
        with progress_bar(f"dump · {teacher.info.identity.name}", len(plan.rows)) as advance:
            if workers is None:
                dump(teacher, planned.frames, writer, batch_size=batch_size, on_rows=advance)
            else:
                dump_on(workers, planned.frames, writer, batch_size, advance)
    except KeyboardInterrupt:
        raise RunInterruptedError(
            f"interrupted; the committed parts of {out} stay: continue with --resume"
        ) from None
    cache, stored = open_cache(out), stored_bytes(out)
    console.print(
        f"sealed {out}: {len(plan.rows)} rows, {human_bytes(stored)} on disk "
        f"({stored / len(cache):,.0f} bytes a frame), manifest {cache.manifest_hash[:12]}"
    )


def ensure_cache(teacher: Teacher, run: StudentRun, out: Path) -> None:
    """Dump the teacher unless this very store is there already, sealed.

    Raises:
        CacheError: The folder holds another store.
    """
    try:
        cache = open_cache(out)
    except (NotACacheError, IncompleteStoreError) as error:
        resume = isinstance(error, IncompleteStoreError)
        dump_teacher(teacher, plan_teacher_dump(teacher, run), out, resume=resume)
        return
    planned = plan_teacher_dump(teacher, run)
    wrong = [
        line
        for line in cache.fingerprint.mismatches(planned.plan.fingerprint)
        if not line.startswith("code_revision")
    ]
    if wrong:
        raise FingerprintError(out, wrong, "Remove that folder to dump this teacher anew.")
    console.print(f"{out} holds these {len(cache)} frames already")


def stored_bytes(store: Path) -> int:
    """Bytes of a finished store on disk, its manifest not counted."""
    return Manifest.load(store).size


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What evaluating a checkpoint gives.

    Attributes:
        scores: The data set's own; None where the frames have no labels.
        pictures: Their files.
        frames: How many were looked at.
    """

    scores: Scores | KittiScores | None
    pictures: list[Path]
    frames: int


@dataclass(frozen=True, slots=True)
class Detector:
    """A checkpoint ready to run.

    Attributes:
        role: ``teacher``, ``student``, or ``labels`` for a label encoder.
        inputs: Sensors it looks at, as the official results file names them.
        check: Refuses frames that lack a file it reads.
        detect: Frames to detections.
        data: The data its run was trained on.
        grid: Its BEV grid.
    """

    role: str
    inputs: tuple[str, ...]
    check: Callable[[Sequence[Frame]], None]
    detect: Detect
    data: DatasetConfig
    grid: BEVGrid


def load_detectors(
    checkpoint: Checkpoint, teacher: Checkpoint | None, device: torch.device
) -> tuple[Detector, Detector | None]:
    """What to score, and a teacher whose boxes to draw too.

    Args:
        checkpoint: Of either stage, or a label encoder, which looks at ground truth alone.
        teacher: The one to draw; for a label encoder the one whose head reads its maps.
        device: Where to run.

    Raises:
        CheckpointError: A label encoder without its teacher.
    """
    if checkpoint.kind != "label_encoder":
        beside = None if teacher is None else load_detector(teacher, device)
        return load_detector(checkpoint, device), beside
    if teacher is None:
        raise CheckpointError("a label encoder is read by its teacher's head: give --teacher")
    run = parse_config(checkpoint.config, LabelEncoderRun, f"checkpoint {checkpoint.sha256[:12]}")
    detect = LabelDetector(checkpoint, teacher, device).detect
    # It reads no file: the boxes came with the frames.
    grid = run.encoder.grid
    return Detector("labels", ("external",), lambda _frames: None, detect, run.data, grid), None


def load_detector(checkpoint: Checkpoint, device: torch.device) -> Detector:
    """The network of either stage's checkpoint, in eval mode."""
    source = f"checkpoint {checkpoint.sha256[:12]}"
    if checkpoint.kind == "teacher":
        teacher_run = parse_config(checkpoint.config, TeacherRun, source)
        teacher = own_teacher(checkpoint, device)
        check = partial(teacher_run.reader.check, training=False)
        grid = teacher.info.shapes.grid
        inputs = SENSORS[teacher_run.kind]
        return Detector("teacher", inputs, check, teacher.detect, teacher_run.data, grid)
    run = parse_config(checkpoint.config, StudentRun, source)
    student = StudentDetector(checkpoint, device)
    inputs, grid = SENSORS[run.kind], run.student.grid
    return Detector("student", inputs, student.check, student.detect, run.data, grid)


def evaluate(
    detector: Detector,
    data: DatasetConfig,
    out_dir: Path,
    *,
    pictures: int = 3,
    limit: int | None = None,
    teacher: Detector | None = None,
) -> Evaluation:
    """Detect, score as the data set does, draw.

    Args:
        detector: From a checkpoint.
        data: Frames to score.
        out_dir: Results, metrics and pictures go here.
        pictures: How many frames to draw.
        limit: Only the first so many frames.
        teacher: Whose boxes to draw too.
    """
    # Whatever a run may see in training, it is scored against all.
    data = data.model_copy(update={"labelled": 1.0})
    frames: list[Frame] = read_frames(data, limit)
    detector.check(frames)
    chosen = spread_evenly(frames, pictures)
    check_image_files(chosen)
    beside: list[Frame] = []
    if teacher:
        # Its own number of sweeps; the detector may see another.
        seen = data.model_copy(update={"sweeps": teacher.data.sweeps})
        beside = spread_evenly(read_frames(seen, limit), pictures)
        teacher.check(beside)
    with progress_bar(f"detect · {detector.role}", len(frames)) as advance:
        found = detect_all(detector.detect, frames, on_frames=advance)
    with console.status(f"{data.dataset} evaluation"):
        scores = _score(detector, data, frames, found, out_dir)
    with console.status("pictures"):
        layers = {"teacher": detect_all(teacher.detect, beside)} if teacher else {}
        layers[detector.role] = found
        drawn = draw_pictures(chosen, layers, detector.grid, out_dir / "pictures", data.classes)
    return Evaluation(scores, drawn, len(frames))


def _score(
    detector: Detector,
    data: DatasetConfig,
    frames: list[Frame],
    found: dict[str, Detections],
    out_dir: Path,
) -> Scores | KittiScores | None:
    if isinstance(data, KittiConfig):
        of_kitti = [frame for frame in frames if isinstance(frame, KittiFrame)]
        focal = float(of_kitti[0].view.image_from_cam[1, 1])
        levels = difficulties(data.difficulties, focal)
        return score_frames(of_kitti, found, data.classes, out_dir, levels)
    return score_nuscenes(data, frames, found, out_dir, inputs=detector.inputs, distances=DISTANCES)
