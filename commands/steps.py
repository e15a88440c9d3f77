"""The steps of the main job, each with its progress on the console."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from commands.amounts import human_bytes
from commands.planned_dump import PlannedDump, announce_time
from commands.progress import announce_room, console, progress_bar
from commands.workers import Workers, dump_on
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
from runs.errors import CheckpointError, RunInterruptedError
from runs.evaluate import Detect, detect_all, draw_pictures, spread_evenly
from store.errors import FingerprintError, IncompleteStoreError, NotACacheError
from store.manifest import Manifest
from store.reader import open_cache
from store.writer import StoreWriter
from student_train.config import StudentRun
from student_train.detector import StudentDetector
from teacher_dump.config import TeacherRun
from teacher_dump.dump import dump
from teacher_dump.label_config import LabelEncoderRun
from teacher_dump.label_decoder import LabelDetector
from teacher_dump.protocol import Teacher
from teacher_dump.teachers import own_teacher

# Near, middle and far, metres; nuScenes scores nothing beyond 50.
DISTANCES = (0.0, 20.0, 30.0, 50.0)


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


def ensure_cache(teacher: Teacher, planned: PlannedDump, out: Path) -> None:
    """Dump the teacher unless this very store is there already, sealed; go on with one begun.

    Raises:
        CacheError: The folder holds another store.
    """
    try:
        cache = open_cache(out)
    except (NotACacheError, IncompleteStoreError) as error:
        resume = isinstance(error, IncompleteStoreError)
        dump_teacher(teacher, planned, out, resume=resume)
        return
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
    run = checkpoint.run(LabelEncoderRun)
    detect = LabelDetector(checkpoint, teacher, device).detect
    # It reads no file: the boxes came with the frames.
    grid = run.encoder.grid
    return Detector("labels", ("external",), lambda _frames: None, detect, run.data, grid), None


def load_detector(checkpoint: Checkpoint, device: torch.device) -> Detector:
    """The network of either stage's checkpoint, in eval mode."""
    if checkpoint.kind == "teacher":
        teacher_run = checkpoint.run(TeacherRun)
        teacher = own_teacher(checkpoint, device)
        check = partial(teacher_run.reader.check, training=False)
        grid = teacher.info.shapes.grid
        inputs = SENSORS[teacher_run.kind]
        return Detector("teacher", inputs, check, teacher.detect, teacher_run.data, grid)
    run = checkpoint.run(StudentRun)
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
