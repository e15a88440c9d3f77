"""What an arm of ``benchmarks/gains.py`` costs: step time, cache bytes, teacher time spared."""

import json
from pathlib import Path

from commands.planned_dump import plan_teacher_dump, seconds_a_row
from runs.files import replacing
from runs.metrics import mean_values
from store.plan import arrays_read
from store.reader import open_cache
from store.summary import summary
from student_train.config import StudentRun
from student_train.train import needs_of
from teacher_dump.protocol import Teacher

# Rows that the teacher is timed on, after as many to warm up.
BATCH_SIZE = 8


def time_teacher(teacher: Teacher, run: StudentRun, store: Path) -> None:
    """Leave beside a store how long its teacher takes for a row; what is there already stays."""
    record = _record(store)
    if not record.is_file():
        planned = plan_teacher_dump(teacher, run)
        rows = range(len(planned.plan.rows))
        seconds = seconds_a_row(teacher, planned, BATCH_SIZE, rows)
        with replacing(record) as partial:
            partial.write_text(json.dumps({"seconds_a_row": seconds}))


def costs(run: StudentRun, store: Path | None, folder: Path) -> dict[str, float]:
    """Figures of a finished run.

    Args:
        run: As it was trained.
        store: Its cache.
        folder: Its output.

    Returns:
        Seconds a step, mean of the run's second half, beside whatever else ran; bytes a frame on
        disk of the arrays that its methods read; seconds that the teacher would have taken in the
        loop, by what :func:`time_teacher` found.
    """
    found = {"s / step": mean_values(folder, ("step_seconds",))["mean/step_seconds"]}
    if store is None:
        return found | {"bytes / frame": 0.0, "teacher s": 0.0}
    read = arrays_read(needs_of(run), open_cache(store).fingerprint.arrays)
    arrays = summary(store)["arrays"]
    weight = sum(a["stored_bytes_per_frame"] for a in arrays if a["name"] in read)
    seconds: float = json.loads(_record(store).read_text())["seconds_a_row"]
    spared = seconds * run.fit.steps * run.fit.frames_per_step
    return found | {"bytes / frame": weight, "teacher s": spared}


def _record(store: Path) -> Path:
    return store.with_suffix(".seconds.json")
