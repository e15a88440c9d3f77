"""SimDistill from its cache is SimDistill with the teacher in the training step."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from frames.augment import BevAugment, BevAugmentConfig
from frames.boxes import BoxBatch, Boxes3D
from frames.dataset import read_frames
from frames.frame import Frame
from frames.sensor_input import SensorInput
from runs.checkpoint import load_checkpoint
from store.reader import open_cache
from store.schema import Target
from student_train.data import StudentDataset
from student_train.methods.base import StudentMaps
from student_train.methods.simdistill import SimDistill
from student_train.train import StudentTraining, needs_of
from teacher_dump.bev_teacher import BEVTeacher
from teacher_dump.teachers import own_teacher
from tests.command import succeed
from tests.literal_simdistill import Side, literal
from tests.tiny_simdistill import (
    FLIPS,
    TURNS,
    student_run,
    write_student_toml,
    write_untrained_teacher,
)

CPU = ("--device", "cpu")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
WEIGHTS = {"imd": 1, "cmd": 100, "mmd_f": 1, "mmd_p": 1}
FORMS = {"intended": "", "released": 'prediction = "released"\n'}
MIN_POINTS = 3  # so that the frames have 8, 7 and 11 boxes
MIRRORS = [(False, False), (True, False), (False, True), (True, True)]


@pytest.fixture(scope="module")
def folder(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher; for each form its canonical frames, and views that are turned and mirrored."""
    folder = tmp_path_factory.mktemp("simdistill_exact")
    checkpoint = write_untrained_teacher(folder, world)
    for form, table in FORMS.items():
        toml = write_student_toml(folder, world, augment=TURNS, method=table)
        toml.write_text(toml.read_text().replace("[data]", f"[data]\nmin_points = {MIN_POINTS}"))
        common = ("dump-teacher", toml, "--checkpoint", checkpoint, "--methods", "simdistill", *CPU)
        succeed(*common, "--out", folder / f"{form}_canonical")
        succeed(*common, "--out", folder / f"{form}_views", "--views", 3)
    return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A batch of a student's training: its terms from the cache, and the teacher's whole maps.

    ``rounded`` are these in float16, as the teacher said them before they were mirrored.
    """

    method: SimDistill
    student: StudentMaps
    cached: Mapping[str, Tensor]
    teacher: Mapping[Target, Tensor]
    rounded: Mapping[Target, Tensor]
    truth: list[Boxes3D]

    def live(self, teacher: Mapping[Target, Tensor]) -> dict[str, Tensor]:
        """Literally, from a teacher's whole maps."""
        head, features = self.student.center, self.student.features
        own = Side(
            camera=features[Target.BEV_CAMERA],
            lidar=self.method.adapt(features[Target.BEV_LIDAR]),
            fused=features[Target.BEV_LOW],
            logit=head.heatmap_logit,
            code=head.box_code,
        )
        other = Side(
            camera=teacher[Target.BEV_CAMERA],
            lidar=teacher[Target.BEV_LIDAR],
            fused=teacher[Target.BEV_LOW],
            logit=teacher[Target.HEATMAP_LOGIT],
            code=teacher[Target.BOX_CODE].view(head.box_code.shape),
        )
        slots = 500 if self.method.config.prediction == "released" else None
        grid, task = self.method.context.grid, head.class_task
        return literal(own, other, self.truth, grid, task, slots=slots)

    def gradient(self, term: Tensor) -> Tensor:
        """Of a term, on all of the student's maps."""
        head = self.student.center
        maps = [*self.student.features.values(), head.heatmap_logit, head.box_code]
        found = torch.autograd.grad(term, maps, retain_graph=True, materialize_grads=True)
        return torch.cat([gradient.flatten() for gradient in found])


def compare(pairs: Iterator[Pair]) -> None:
    """To the last digits if the teacher is rounded to float16; else by no more than its values."""
    for pair in pairs:
        exact, live = pair.live(pair.rounded), pair.live(pair.teacher)
        assert pair.cached.keys() == exact.keys()
        largest = max(1.0, *(values.abs().max().item() for values in pair.teacher.values()))
        for name, weight in WEIGHTS.items():
            found = pair.cached[name].item()
            assert found > 0
            assert found == pytest.approx(exact[name].item(), rel=1e-5), name
            gap = 2**-11 * weight * largest * (1 + live[name].item() / weight)
            assert abs(found - live[name].item()) < 2 * gap, name
            gradient = pair.gradient(pair.cached[name])
            for other, bound in ((exact, 1e-5), (live, 0.02)):
                off = pair.gradient(other[name]) - gradient
                assert (off.norm() / gradient.norm()).item() < bound, name


def pairs(
    folder: Path,
    world: Path,
    form: str,
    store: str,
    augment: str,
    flips: tuple[bool, bool],
    batches: Sequence[Sequence[int]] = ((0,), (1,)),
) -> Iterator[Pair]:
    """Batches of frames; in a canonical store's, a student's frame is mirrored as it is told."""
    run = student_run(folder, world, augment=augment, method=FORMS[form])
    counted = run.data.model_copy(update={"min_points": MIN_POINTS})
    run = run.model_copy(update={"data": counted})
    cache = open_cache(folder / f"{form}_{store}")
    canonical = store == "canonical"
    if canonical:
        chances = {"flip_x": float(flips[0]), "flip_y": float(flips[1])}
        run = run.model_copy(update={"bev_augment": BevAugmentConfig(**chances)})
    torch.manual_seed(0)
    training = StudentTraining(run, cache)
    teacher = own_teacher(load_checkpoint(folder / "sim_teacher.pt"), torch.device("cpu"))
    assert isinstance(teacher, BEVTeacher)
    frames = read_frames(run.data)
    swept = read_frames(run.data.model_copy(update={"sweeps": teacher.info.sweeps}))
    data = StudentDataset(frames, run, cache, needs_of(run))
    for positions in batches:
        batch = data.collate([data[position, position] for position in positions])
        assert isinstance(batch.seen, SensorInput)
        assert batch.seen.cameras is not None
        matrices = batch.seen.cameras.geometry.augmented_from_ego[:, [0, 1]][:, :, [0, 1, 3]]
        augments = [BevAugment(matrix) for matrix in matrices]
        shown = [BevAugment.identity()] * len(positions) if canonical else augments
        each = [maps_of(teacher, swept[p], a) for p, a in zip(positions, shown, strict=True)]
        said = {target: torch.cat([one[target] for one in each]) for target in each[0]}
        rounded = {target: map_.half().float() for target, map_ in said.items()}
        if canonical:
            flipped = BevAugment.compose(flip_x=flips[0], flip_y=flips[1]).matrix
            assert all(matrix.equal(flipped) for matrix in matrices)
            said, rounded = mirrored(said, *flips), mirrored(rounded, *flips)
        method = cast("SimDistill", training.methods["simdistill"])
        student = training.network(batch.seen).maps
        yield Pair(
            method=method,
            student=student,
            cached=method(student, batch.targets, batch.boxes).terms,
            teacher=said,
            rounded=rounded,
            truth=[
                augment.boxes3d(frames[position].boxes)
                for position, augment in zip(positions, augments, strict=True)
            ],
        )


def maps_of(teacher: BEVTeacher, frame: Frame, augment: BevAugment) -> dict[Target, Tensor]:
    boxes = BoxBatch.pad([augment.boxes3d(frame.boxes)])
    output = teacher([frame], boxes, [augment])
    # Out of inference mode.
    return {target: map_.clone() for target, map_ in output.maps.items()}


def mirrored(maps: Mapping[Target, Tensor], flip_x: bool, flip_y: bool) -> dict[Target, Tensor]:
    """By hand: cells change places; an offset counts from the other side, a direction turns."""
    axes = [axis for axis, flips in ((3, flip_x), (2, flip_y)) if flips]
    found = {target: map_.flip(axes) for target, map_ in maps.items()}
    code = found[Target.BOX_CODE].unflatten(1, (-1, 10)).clone()
    for flips, offset, direction, speed in ((flip_x, 0, 7, 8), (flip_y, 1, 6, 9)):
        if flips:
            code[:, :, offset] = 1 - code[:, :, offset]
            code[:, :, [direction, speed]] *= -1
    return {**found, Target.BOX_CODE: code.flatten(1, 2)}


@pytest.mark.parametrize("form", FORMS)
def test_stored_views_are_the_teacher_in_the_loop(folder: Path, world: Path, form: str):
    """Turned, scaled, mirrored: the teacher saw the very frame."""
    compare(pairs(folder, world, form, "views", TURNS, (False, False)))


@pytest.mark.parametrize("flips", MIRRORS)
@pytest.mark.parametrize("form", FORMS)
def test_mirrored_maps_are_the_teachers_mirrored(
    folder: Path, world: Path, form: str, flips: tuple[bool, bool]
):
    compare(pairs(folder, world, form, "canonical", FLIPS, flips))


@pytest.mark.parametrize("form", FORMS)
def test_frames_of_unlike_counts_make_one_batch(folder: Path, world: Path, form: str):
    """Boxes and cells are padded by the loader."""
    (pair,) = pairs(folder, world, form, "views", TURNS, (False, False), batches=[(1, 2)])
    assert [len(boxes) for boxes in pair.truth] == [7, 11]
    compare(iter([pair]))
