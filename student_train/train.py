"""Train a student from frames and, with a method, from the teacher's cache."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from frames.dataset import read_frames
from frames.frame import Frame
from frames.labelled import labelled_frames
from runs.checkpoint import Checkpoint, is_finished, save_checkpoint
from runs.errors import ConfigError
from runs.fit import Training, fit, seed_run
from runs.folder import claim_folder
from store.match import require_match, require_views
from store.reader import Cache
from store.schema import Need, Places, Target
from student_train.balance import GradientBalance
from student_train.config import StudentRun
from student_train.data import StudentBatch, StudentDataset
from student_train.methods.base import Method, MethodContext, Tasks
from student_train.start import start_from, without_pretraining
from student_train.students.base import StudentOutput
from student_train.students.camera import CameraStudentConfig
from student_train.students.kinds import (
    build_student,
    center_head,
    code_weights,
    teaches_depth,
)
from student_train.whole_maps import require_flips

CHECKPOINT_NAME = "student.pt"


class StudentTraining(Training):
    """A student under its detection loss and the terms of its methods.

    Args:
        run: The run.
        cache: Sizes the methods' adapters; None without a method.
    """

    def __init__(self, run: StudentRun, cache: Cache | None) -> None:
        super().__init__(run.fit)
        self.run = run
        # The student first: its initial weights must not depend on the methods' adapters.
        self.network = build_student(run.student)
        methods = build_methods(run, cache)
        self.methods = nn.ModuleDict(methods)
        wanted = {
            f"{name}/{term}": share
            for name, method in methods.items()
            for term, share in method.config.shares.items()
        }
        self.balance = GradientBalance(wanted, run.balance)

    def loss_terms(self, batch: StudentBatch) -> dict[str, Tensor]:
        """Detection, what else is taught, then the methods' terms at their gradient shares."""
        output = self.network(batch.seen)
        detection = self._detection(output, batch)
        auxiliary = self.network.auxiliary_terms(output, batch.seen, batch.boxes)
        terms = {f"detection/{name}": term for name, term in (detection | auxiliary).items()}
        distilled: dict[str, Tensor] = {}
        for name, module in self.methods.items():
            method = cast("Method", module)
            if self.global_step < method.config.start * self.run.fit.steps:
                continue
            result = method(output.maps, batch.targets, batch.boxes)
            distilled |= {f"{name}/{term}": value for term, value in result.terms.items()}
            self.log_dict({f"{name}/{key}": value for key, value in result.figures.items()})
        if not batch.supervised.any():
            # The detection loss, which shares are measured against, is no more than a zero here; a
            # term whose size is not known yet waits.
            return terms | {n: self.balance.factor(n, 0.0) * t for n, t in distilled.items()}
        return terms | self._balanced(output.maps.features[Target.BEV_LOW], detection, distilled)

    def _detection(self, output: StudentOutput, batch: StudentBatch) -> dict[str, Tensor]:
        """The detection loss of the batch's supervised frames as a batch; zeros without any."""
        if batch.supervised.all():
            return self.network.detection_terms(output, batch.boxes)
        index = batch.supervised.nonzero()[:, 0].to(batch.boxes.valid.device)
        kept = index if len(index) else torch.zeros_like(batch.boxes.labels[0, :1])
        head = output.maps.head.frames(kept)
        some = replace(output, maps=replace(output.maps, head=head))
        terms = self.network.detection_terms(some, batch.boxes.frames(kept))
        return terms if len(index) else {name: 0 * term for name, term in terms.items()}

    def _balanced(
        self, features: Tensor, detection: Mapping[str, Tensor], terms: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        if terms and self.balance.due(self.global_step, set(terms)):
            total = torch.stack(list(detection.values())).sum()
            shares = self.balance.measure(features, total, terms)
            self.log_dict(
                {f"share/{name}": s * self.balance.factor(name) for name, s in shares.items()}
            )
        return {name: self.balance.factor(name) * term for name, term in terms.items()}


def needs_of(run: StudentRun) -> frozenset[Need]:
    """What the run's methods read of the cache."""
    types = run.method_types
    needs = [
        types[name].needs(config, run.student.anchors)
        for name, config in run.method_configs.items()
    ]
    return frozenset().union(*needs)


def build_methods(run: StudentRun, cache: Cache | None) -> dict[str, Method]:
    """The run's methods, their adapters sized by the student and the cache."""
    configs = run.method_configs
    if not configs:
        return {}
    assert cache is not None, "train_student opens a cache for every method"
    teacher, head = cache.fingerprint.teacher, center_head(run.student)
    codes = {} if head is None else {Target.BOX_CODE: head.code_channels}
    context = MethodContext(
        grid=run.student.grid,
        anchors=run.student.anchors,
        classes=run.student.classes,
        student_channels={**run.student.channels, **codes},
        student_frames=run.student.frames if isinstance(run.student, CameraStudentConfig) else 1,
        teacher_sha256=teacher.checkpoint_sha256,
        sensors=(teacher.kind, run.kind),
        student_tasks=None if head is None else _grouped(head.tasks),
        teacher_tasks=_told_tasks(teacher.config),
        code_weights=code_weights(run.student),
        teacher_channels={
            Target(name): spec.shape[-3 if spec.places is Places.MAP else -1]
            for spec in cache.fingerprint.arrays
            # At a box there is one task's code, not a map's channels.
            if (name := spec.name.split("/")[-1]) in set(Target) and spec.places is not Places.BOXES
        },
    )
    return {name: run.method_types[name](config, context) for name, config in configs.items()}


def check_labels(run: StudentRun, frames: Sequence[Frame], cache: Cache | None) -> None:
    """Refuse frames without labels that would teach nothing, and a detection loss without any.

    Raises:
        ConfigError: Pseudo labels without a cache; or neither a cache nor depth.
        DataError: Labels alone are detected against, and no frame has any.
    """
    if run.unlabelled == "pseudo_labels" and cache is None:
        raise ConfigError(
            'unlabelled = "pseudo_labels": these are in the cache of a teacher; give --store'
        )
    hidden = run.data.labelled < 1 and run.unlabelled == "distil"
    if hidden and cache is None and not teaches_depth(run.student):
        raise ConfigError(
            f"data.labelled = {run.data.labelled}: without a method and without depth supervision "
            'the other frames teach nothing; set unlabelled = "leave_out"'
        )
    if run.unlabelled != "pseudo_labels":
        labelled_frames(frames)


def _told_tasks(config: Mapping[str, Any]) -> Tasks | None:
    """Tasks of the centre head that a teacher's config speaks of, as those of our own do."""
    head = config.get("head")
    tasks = head.get("tasks") if isinstance(head, dict) else None
    if not isinstance(tasks, list) or not all(isinstance(task, list) for task in tasks):
        return None
    return _grouped([list(map(str, task)) for task in tasks])


def _grouped(tasks: Sequence[Sequence[str]]) -> Tasks:
    return tuple(map(frozenset, tasks))


def train_student(
    run: StudentRun,
    cache: Cache | None,
    out_dir: Path,
    *,
    resume: bool,
    device: str,
    start: Checkpoint | None = None,
) -> Path:
    """Train, and write ``student.pt`` (the network only: adapters are not needed any more).

    Args:
        run: The run.
        cache: What its methods read.
        out_dir: Folder for the result.
        resume: Whether to continue an interrupted run.
        device: As Lightning names it.
        start: A student of the same network, with whose weights to begin; None: random ones.

    Raises:
        CacheError: The cache does not fit the run (grid, classes, ground-truth filter, targets).
        DataError: A frame lacks a camera, a frame or its past is not in the cache, or no frame is
            labelled.
        ConfigError: A method cannot compare this student with this teacher, or reads whole maps
            that cannot be carried into the student's augmented frames; or frames without labels
            teach nothing; or ``start`` is another network.

    Returns:
        The checkpoint's path.
    """
    path, config = out_dir / CHECKPOINT_NAME, run.record()
    read = {
        "cache": cache.manifest_hash if cache else None,
        "start": start.sha256 if start else None,
    }
    if resume and is_finished(path, run, **read):
        return path
    frames = read_frames(run.data)
    run.reader.check(frames, training=True)
    check_labels(run, frames, cache)
    needs = needs_of(run)
    if cache is not None:
        require_match(
            cache,
            grid=run.student.grid,
            classes=run.student.classes,
            ground_truth_filter=run.data.ground_truth_filter,
            tokens=[frame.token for frame in frames],
            needs=needs,
        )
        require_views(cache, run.bev_augment)
        require_flips(needs, run.bev_augment, run.student.grid, cache.views)
    seed_run(run.fit.seed, run.fit.threads)
    training = StudentTraining(run if start is None else without_pretraining(run), cache)
    if start is not None:
        start_from(training.network, run, start)
    training.require_rates()
    data = StudentDataset(frames, run, cache, needs)
    claim_folder(out_dir, run, resume=resume, notes=read)
    name = f"{run.name} · {run.method}"
    fit(training, data, out_dir, resume=resume, device=device, name=name)
    save_checkpoint(path, "student", config, training.network, {"frames": len(frames), **read})
    return path
