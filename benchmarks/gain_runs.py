"""The runs of ``benchmarks/gains.py``: world, teachers, caches, students; only what is missing."""

import json
import multiprocessing
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel

from benchmarks.gain_costs import costs, time_teacher
from benchmarks.gain_parts import LABEL_ENCODER, START_LENGTH, Arm, Part, arms_at, few_labels
from benchmarks.gain_records import Records
from benchmarks.gain_tables import Result, Run
from commands import steps
from commands.demo import VAL_SPLIT
from commands.planned_dump import plan_teacher_dump
from commands.progress import console
from commands.tables import plain_scores
from commands.world import load_world, make_world
from frames.world.config import KittiWorldConfig, WorldConfig
from runs.checkpoint import load_checkpoint
from runs.config import load_config
from runs.files import replacing
from runs.metrics import last_values, mean_values
from store.choices import Encoding
from store.reader import open_cache
from student_train.config import StudentRun
from student_train.train import CHECKPOINT_NAME, train_student
from teacher_dump.config import TeacherRun
from teacher_dump.label_config import LabelEncoderRun
from teacher_dump.teachers import own_teacher
from teacher_dump.train import train_teacher
from teacher_dump.train_labels import train_label_encoder


@dataclass(frozen=True, slots=True)
class Job:
    """A student to train, score and record, in a process of its own.

    Attributes:
        name: Arm and seed.
        run: How it is trained.
        folder: Of the run.
        records: Where its record goes.
        made_of: Configs of its world, teacher, cache and label encoder.
        store: The cache that it reads.
        start: The job whose student it starts from.
    """

    name: Run
    run: StudentRun
    folder: Path
    records: Records
    made_of: tuple[BaseModel, ...]
    store: Path | None = None
    start: "Job | None" = None

    @property
    def configs(self) -> list[BaseModel]:
        """All that its weights come from."""
        return [self.run, *self.made_of, *(self.start.configs if self.start else [])]

    def do(self) -> None:
        """Do what is not done yet; a finished run is read back."""
        cache = None if self.store is None else open_cache(self.store)
        start = None
        if self.start is not None:
            start = load_checkpoint(self.start.folder / CHECKPOINT_NAME, "student")
        path = train_student(self.run, cache, self.folder, resume=True, device="cpu", start=start)
        result = scored(path, self.run, self.folder)
        result["costs"] = costs(self.run, self.store, self.folder)
        if start is not None:
            result["start_sha256"] = start.sha256
        if cache is not None:
            result["teacher_sha256"] = cache.fingerprint.teacher.checkpoint_sha256
        self.records.write(self.name, self.configs, result)


class _Stored(BaseModel):
    """How a cache of its own holds features."""

    encoding: Encoding


@dataclass(frozen=True, slots=True)
class Comparison:
    """Arms of a part, and where their runs lie.

    Attributes:
        part: Whose TOMLs.
        arms: By name.
        out: Folder of world and teachers, which parts may share; in it, the part's runs and caches.
        configs: Folder of the TOMLs.
        records: Of the finished runs.
    """

    part: Part
    arms: Mapping[str, Arm]
    out: Path
    configs: Path
    records: Records

    def run(self, seeds: Iterable[int], jobs: int) -> None:
        """Train, score and record every arm with every seed that is not recorded.

        Args:
            seeds: Of the students; teachers, and what students start from, have one.
            jobs: Runs at a time, one thread each.

        Raises:
            ConfigError: A record is of another config.
        """
        every = [self.job(name, seed) for seed in seeds for name in self.arms]
        todo = [job for job in every if not self.records.has(job.name, job.configs)]
        console.print(f"{len(todo)} of {len(every)} runs are not recorded; {jobs} at a time")
        if not todo:
            return
        make_world(self.world, self.out / "world", workers=jobs)
        left = {name: self.arms[name] for name, _ in (job.name for job in todo)}.values()
        taught = {arm.taught_by: arm for arm in left if arm.store}
        starts = {job.start.name: job.start for job in todo if job.start}
        context = multiprocessing.get_context("forkserver")
        with ProcessPoolExecutor(jobs, mp_context=context) as pool:
            teachers = {
                (name, 0): pool.submit(
                    _teach, self.teacher(arm), self.world, self.out / name, self.records
                )
                for name, arm in taught.items()
            }
            _announce(teachers | _submit(pool, starts.values()))
            if any(arm.embeds_labels for arm in left):
                self._train_labels()
            for store in sorted({job.store for job in todo if job.store}):
                self._dump(store)
            _announce(_submit(pool, todo))

    def job(self, name: str, seed: int) -> Job:
        """What is to be done for an arm and a seed."""
        arm, own = self.arms[name], self.out / self.records.part
        made_of: list[BaseModel] = [self.world]
        start = None
        if arm.start is not None:
            run = self.start(arm)
            start = Job((arm.start, 0), run, own / arm.start, self.records, (self.world,))
        if arm.store is not None:
            made_of.append(self.teacher(arm))
        if arm.encoding is not None:
            made_of.append(_Stored(encoding=arm.encoding))
        if arm.embeds_labels:
            made_of.append(self.label_encoder)
        return Job(
            (name, seed),
            with_fit(self.student(arm), seed=seed, threads=1),
            own / f"{name}-{seed}",
            self.records,
            tuple(made_of),
            own / arm.store if arm.store else None,
            start,
        )

    @property
    def world(self) -> WorldConfig | KittiWorldConfig:
        """What all of the part see."""
        return load_world(self.configs / f"{self.part.world}_world.toml")

    @property
    def label_encoder(self) -> LabelEncoderRun:
        """The run of LabelDistill's."""
        root = self.out / "world"
        run = load_config(self._toml(LABEL_ENCODER), LabelEncoderRun, data__root=root)
        return run.model_copy(update={"fit": run.fit.model_copy(update={"threads": 1})})

    def _toml(self, name: str) -> Path:
        return self.configs / f"{self.part.prefix}_{name}.toml"

    def student(self, arm: Arm) -> StudentRun:
        """The run of an arm, whose seed is its TOML's."""
        root = self.out / "world"
        return arm.of(load_config(self._toml(arm.student), StudentRun, data__root=root), self.out)

    def start(self, arm: Arm) -> StudentRun:
        """The run of what it starts from: its student without a method, for longer."""
        own = Arm("none", student=arm.student, labelled=arm.labelled, length=START_LENGTH)
        return with_fit(self.student(own), threads=1)

    def teacher(self, arm: Arm) -> TeacherRun:
        """The run of its teacher."""
        run = load_config(self._toml(arm.teacher), TeacherRun, data__root=self.out / "world")
        document = run.model_dump(mode="json")
        document["fit"]["threads"] = 1
        document["data"] |= few_labels(arm.teacher_labelled)
        return TeacherRun.model_validate(document)

    def _train_labels(self) -> None:
        teacher, folder = self.out / "teacher" / "teacher.pt", self.out / LABEL_ENCODER
        train_label_encoder(self.label_encoder, teacher, folder, resume=True, device="cpu")

    def _dump(self, store: Path) -> None:
        """A cache for all arms that read it, whichever are run now, of whichever part."""
        readers = [arm for arm in arms_at(self.part.home) if arm.store == store.name]
        every = _with_all_methods(self.student(arm) for arm in readers)
        checkpoint = self.out / readers[0].taught_by / "teacher.pt"
        teacher = own_teacher(load_checkpoint(checkpoint, "teacher"), torch.device("cpu"))
        (encoding,) = {arm.encoding for arm in readers}
        steps.ensure_cache(teacher, plan_teacher_dump(teacher, every, encoding=encoding), store)
        time_teacher(teacher, every, store)


def _announce(runs: Mapping[Run, Future[None]]) -> None:
    """Wait for the runs, each announced as it ends."""
    whose = {future: run for run, future in runs.items()}
    for done in as_completed(whose):
        done.result()
        console.print(whose[done], "done")


def _submit(pool: ProcessPoolExecutor, jobs: Iterable[Job]) -> dict[Run, Future[None]]:
    return {job.name: pool.submit(job.do) for job in jobs}


def with_fit(run: StudentRun, **changes: int) -> StudentRun:
    """The run with another length, seed or number of threads."""
    return run.model_copy(update={"fit": run.fit.model_copy(update=changes)})


def _with_all_methods(runs: Iterable[StudentRun]) -> StudentRun:
    """The first run with the methods of all, each as the first that has it has it."""
    first, *_ = found = list(runs)
    whose = {name: run for run in reversed(found) for name in run.method_configs}
    document = first.model_dump(mode="json")
    for name, run in whose.items():
        document["methods"][name] = run.model_dump(mode="json")["methods"][name]
    return StudentRun.model_validate(document | {"method": "+".join(whose)})


def _teach(run: TeacherRun, world: BaseModel, folder: Path, records: Records) -> None:
    """One teacher in its own process."""
    path = train_teacher(run, folder, resume=True, device="cpu")
    records.write((folder.name, 0), [run, world], scored(path, run, folder))


def scored(checkpoint: Path, run: TeacherRun | StudentRun, folder: Path) -> Result:
    """Scores on the world's validation frames and the log's figures, kept in the run's folder."""
    record = folder / "result.json"
    if not record.is_file():
        detector = steps.load_detector(load_checkpoint(checkpoint), torch.device("cpu"))
        data = run.data.model_copy(update={"split": VAL_SPLIT})
        scores = steps.evaluate(detector, data, folder / "eval", pictures=0).scores
        assert scores is not None, "a world has labels"
        # One measurement of a share says little: it moves by a third from one to the next.
        figures = last_values(folder, "loss") | mean_values(
            folder, ("share/", "xgd/kept/", "stxd/", "simdistill/")
        )
        with replacing(record) as partial:
            partial.write_text(
                json.dumps({"scores": plain_scores(scores), "figures": figures}, indent=1)
            )
    result: Result = json.loads(record.read_text())
    return result | {"checkpoint_sha256": load_checkpoint(checkpoint).sha256}
