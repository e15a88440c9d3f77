"""A loss read from the foreground cache is the loss read from the teacher's whole maps.

The losses are written out as the papers state them, on dense tensors, in slow loops.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from frames.augment import BevAugment
from frames.box_code import move_codes
from frames.boxes import BoxBatch, Boxes3D
from frames.cell_masks import FootprintMask, foreground_cells
from frames.detections import Detections
from frames.frame import Frame
from frames.geometry import SE3
from frames.grid import BEVGrid
from frames.heatmap import UNIDISTILL, center_heatmap
from nets.box_features import relation
from nets.center_head import CenterMaps
from store.choices import Coverage
from store.fingerprint import DatasetIdentity, Fingerprint, TeacherIdentity
from store.plan import TeacherShapes, masks_of, plan_arrays
from store.reader import open_cache
from store.rows import CachedRow, rows_of_frames, token_hash
from store.schema import Need, Places, Target
from store.values import RowDecoder, checked_row
from store.writer import StoreWriter
from student_train.methods.base import MethodContext, StudentMaps, TermConfig
from student_train.methods.unidistill import UniDistill, UniDistillConfig
from student_train.targets import FrameTargets, frame_targets, pad_targets
from teacher_dump.protocol import TeacherInfo, TeacherOutput
from teacher_dump.teacher_rows import teacher_rows
from tests.literal_unidistill import Form, in_range, literal

GRID = BEVGrid(x_min=-6.0, y_min=-5.0, cell_size=1.0, shape=(10, 12))
FOOT = FootprintMask(margin=0.5)
CHANNELS = {
    Target.BEV_LOW: 4,
    Target.BEV_HIGH: 5,
    Target.HEATMAP_LOGIT: 3,
    Target.BOX_CODE: 20,
    Target.BEV_LIDAR: 4,
    Target.STAGE_0: 3,
    Target.STAGE_1: 4,
    Target.ANCHOR_LOGIT: 6,
}
SHAPES = TeacherShapes(
    bev_low=4,
    bev_high=5,
    classes=3,
    tasks=2,
    grid=GRID,
    further={t: c for t, c in CHANNELS.items() if t not in (Target.BEV_LOW, Target.BEV_HIGH)},
)
NEEDS = (
    Need(Target.BEV_LOW, Places.POINTS, "float32"),
    Need(Target.RELATION, Places.BOXES, "float32"),
    Need(Target.HEATMAP_LOGIT, Places.CELLS, "float32", UNIDISTILL),
    Need(Target.BOX_CODE, Places.CELLS, "float32", UNIDISTILL),
    Need(Target.BEV_LIDAR, Places.CELLS, "float32"),
    Need(Target.STAGE_0, Places.CELLS, "float32"),
    Need(Target.STAGE_1, Places.COARSE_CELLS, "float32"),
    Need(Target.ANCHOR_LOGIT, Places.CELLS, "float32", FOOT),
)


class FixedTeacher:
    """A teacher whose maps are given; its boxes are the true ones."""

    def __init__(self, maps: dict[Target, Tensor]) -> None:
        self.maps = maps
        identity = TeacherIdentity(name="t", kind="lidar", checkpoint_sha256="ab" * 32, config={})
        self.info = TeacherInfo(identity=identity, shapes=SHAPES, classes=("a", "b", "c"), sweeps=1)

    def __call__(
        self,
        frames: Sequence[Frame],
        boxes: BoxBatch,
        augments: Sequence[BevAugment],  # noqa: ARG002
    ) -> TeacherOutput:
        return TeacherOutput(
            maps={t: map_.expand(len(frames), -1, -1, -1) for t, map_ in self.maps.items()},
            boxes=boxes.values,
            scores=boxes.valid.float(),
            labels=boxes.labels,
            answered=boxes.valid,
        )

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        raise NotImplementedError(f"{len(frames)} frames: a dump asks for no detections")


def random_maps(seed: int) -> dict[Target, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    grids = {target: SHAPES.grid_of(target) for target in CHANNELS}
    return {t: torch.randn(1, CHANNELS[t], *grids[t].shape, generator=rng) for t in CHANNELS}


def frame_of(boxes: Boxes3D, token: str = "frame") -> Frame:
    return Frame(
        token=token,
        scene="scene",
        timestamp_us=1,
        global_from_ego=SE3.identity(),
        cameras=(),
        sweeps=(),
        boxes=boxes,
        prev="",
        next="",
    )


def fingerprint(coverage: Coverage, tokens: Sequence[str] = ("frame",)) -> Fingerprint:
    return Fingerprint(
        teacher=FixedTeacher({}).info.identity,
        dataset=DatasetIdentity(
            name="d", version="v", split="s", token_hash=token_hash(tokens), ground_truth_filter={}
        ),
        grid=GRID,
        classes=("a", "b", "c"),
        coverage=coverage,
        masks=masks_of(NEEDS),
        arrays=plan_arrays(NEEDS, coverage, SHAPES),
        code_revision="r",
    )


def cached(coverage: Coverage, maps: dict[Target, Tensor], boxes: Boxes3D) -> CachedRow:
    """What a store of this coverage gives back, but for the disk."""
    made_for = fingerprint(coverage)
    (row,) = teacher_rows(FixedTeacher(maps), [frame_of(boxes)], made_for.given, made_for.masks)
    names = [spec.name for spec in made_for.stored]
    stored = dict(zip(names, checked_row(row, "frame", made_for), strict=True))
    arrays = RowDecoder("store", made_for)(stored, "frame")
    return CachedRow(token="frame", view=0, augment=BevAugment.identity(), gt=boxes, arrays=arrays)


@st.composite
def ground_truths(draw: st.DrawFn) -> Boxes3D:
    """Up to five boxes, some across the edge of the grid or off it.

    None lies at a corner of the grid so that its centre alone is on it: docs/methods.md has that
    case.
    """
    count = draw(st.integers(0, 5))
    number = st.floats(0, 1, width=32)
    rows = [
        [
            -8 + 16 * draw(number),
            -7 + 14 * draw(number),
            0.0,
            0.3 + 5 * draw(number),
            0.3 + 3 * draw(number),
            1.5,
            -math.pi + 2 * math.pi * draw(number),
            0.0,
            0.0,
        ]
        for _ in range(count)
    ]
    labels = [draw(st.integers(0, 2)) for _ in range(count)]
    boxes = Boxes3D(torch.tensor(rows).reshape(-1, 9).float(), torch.tensor(labels).long())
    centres, kept = (b.values[:, :2] for b in (boxes, in_range(boxes, GRID)))
    assume(GRID.contains(centres).sum() == GRID.contains(kept).sum())
    return boxes


def unidistill(
    maps: dict[Target, Tensor],
    row: CachedRow,
    boxes: Boxes3D,
    augment: BevAugment | None = None,
    temperature: float = 2.0,
) -> list[float]:
    """The method's terms of a student with these maps: feature, relation, class, regression."""
    once = TermConfig()
    config = UniDistillConfig(feature=once, relation=once, response=once, temperature=temperature)
    channels = {t: CHANNELS[t] for t in (Target.BEV_LOW, Target.BEV_HIGH, Target.BOX_CODE)}
    method = UniDistill(config, MethodContext(GRID, ("a", "b", "c"), channels, channels))
    code = maps[Target.BOX_CODE].view(1, 2, 10, *GRID.shape)
    head = CenterMaps(maps[Target.HEATMAP_LOGIT], code, torch.tensor([0, 0, 1]))
    targets = pad_targets([frame_targets(row, NEEDS[:4], GRID, augment or BevAugment.identity())])
    result = method(
        StudentMaps({t: maps[t] for t in (Target.BEV_LOW, Target.BEV_HIGH)}, head),
        targets,
        BoxBatch.pad([boxes]),
    )
    parts = [result.terms["feature"], result.terms["relation"]]
    return [float(part) for part in (*parts, *result.figures.values())]


@settings(max_examples=25)
@given(boxes=ground_truths(), seed=st.integers(0, 2**16))
def test_unidistills_four_terms_are_the_same(boxes: Boxes3D, seed: int):
    teacher, student = random_maps(seed), random_maps(seed + 1)
    row = cached(Coverage.FOREGROUND, teacher, boxes)
    expected = literal(student, teacher, [boxes], GRID, Form())
    assert unidistill(student, row, boxes) == pytest.approx(
        [float(term) for term in expected], rel=1e-5, abs=1e-6
    )


@pytest.mark.parametrize(("flip_x", "flip_y"), [(True, False), (False, True), (True, True)])
def test_a_mirrored_student_of_a_carried_row_has_no_loss(flip_x: bool, flip_y: bool):
    """Points, relation, cells and codes all go where the student's mirrored maps have them."""
    boxes = Boxes3D(
        torch.tensor([[1.2, 0.3, 0, 4, 2, 1.5, 0.7, 0, 0], [-4, 4.4, 0, 3, 1, 2, 2, 1, 0]]),
        torch.tensor([0, 2]),
    )
    maps, augment = random_maps(1), BevAugment.compose(flip_x=flip_x, flip_y=flip_y)
    axes = [axis for axis, flipped in ((3, flip_x), (2, flip_y)) if flipped]
    mirrored = {target: values.flip(axes) for target, values in maps.items()}
    codes = mirrored[Target.BOX_CODE].view(1, 2, 10, *GRID.shape).movedim(2, -1)
    mirrored[Target.BOX_CODE] = move_codes(codes, augment).movedim(-1, 2).flatten(1, 2)
    row, there = cached(Coverage.FOREGROUND, maps, boxes), augment.boxes3d(boxes)
    assert max(unidistill(mirrored, row, there, augment, temperature=1.0)) < 1e-5
    assert min(unidistill(maps, row, there, augment, temperature=1.0)) > 0.05


@pytest.mark.parametrize(
    ("target", "places"),
    [
        (Target.BEV_LIDAR, Places.CELLS),
        (Target.STAGE_0, Places.CELLS),
        (Target.STAGE_1, Places.COARSE_CELLS),
    ],
)
@settings(max_examples=15)
@given(boxes=ground_truths(), seed=st.integers(0, 2**16))
def test_masked_squares_are_the_same(target: Target, places: Places, boxes: Boxes3D, seed: int):
    """SimDistill's CMD and LabelDistill's feature terms: 0 wherever the mask is 0."""
    teacher, student = random_maps(seed), random_maps(seed + 1)
    row = cached(Coverage.FOREGROUND, teacher, boxes)
    mask = center_heatmap(BoxBatch.pad([boxes]), GRID, 3)[0].sum(0)
    if places is Places.COARSE_CELLS:
        size = SHAPES.grid_of(target).shape
        mask = F.interpolate(mask[None, None], size, mode="bilinear", align_corners=True)[0, 0]
    gap = mask * (student[target][0] - teacher[target][0])
    cells = torch.from_numpy(row.arrays[places.index_array]).long()
    kept = torch.from_numpy(row.arrays[f"{places}/{target}"])
    own = student[target][0].flatten(1)[:, cells].T - kept
    foreground = (mask.flatten()[cells, None] * own).square().sum() / gap.numel()
    assert float(foreground) == pytest.approx(float(gap.square().mean()), rel=1e-5, abs=1e-9)


@settings(max_examples=15)
@given(boxes=ground_truths(), seed=st.integers(0, 2**16))
def test_logits_inside_boxes_are_all_there(boxes: Boxes3D, seed: int):
    """StereoDistill's class term reads every cell inside a box, and no other."""
    teacher = random_maps(seed)
    row = cached(Coverage.FOREGROUND, teacher, boxes)
    kept = dict(
        zip(row.arrays["cells/index"].tolist(), row.arrays["cells/anchor_logit"], strict=True)
    )
    for cell in foreground_cells(boxes, GRID, [FootprintMask()]).tolist():
        expected = teacher[Target.ANCHOR_LOGIT][0, :, cell // 12, cell % 12]
        np.testing.assert_array_equal(kept[cell], expected.numpy())


def targets(row: CachedRow, augment: BevAugment) -> FrameTargets:
    needs = [n for n in NEEDS if n.places in (Places.POINTS, Places.CELLS, Places.BOXES)]
    return frame_targets(row, needs, GRID, augment)


@settings(max_examples=15)
@given(boxes=ground_truths(), seed=st.integers(0, 2**16), flip=st.booleans())
def test_a_student_reads_the_same_targets(boxes: Boxes3D, seed: int, flip: bool):
    maps = random_maps(seed)
    augment = BevAugment.compose(yaw=0.3, flip_x=flip)
    few = targets(cached(Coverage.FOREGROUND, maps, boxes), augment)
    all_ = targets(cached(Coverage.DENSE, maps, boxes), augment)
    assert few.relation is not None
    assert all_.relation is not None
    assert few.cells is not None
    assert all_.cells is not None
    assert few.relation.equal(all_.relation)
    assert few.cells.equal(all_.cells)
    for kind in ("at_cells", "at_points"):
        for target, values in getattr(few, kind).items():
            assert torch.allclose(values, getattr(all_, kind)[target], atol=1e-6), (kind, target)
    assert few.at_points[Target.BEV_LOW].shape == (len(boxes), 9, 4)


def test_the_relation_of_a_mirrored_box_is_the_mirrored_relation():
    features = torch.randn(3, 9, 5, generator=torch.Generator().manual_seed(0))
    boxes = Boxes3D(torch.ones(3, 9), torch.zeros(3, dtype=torch.int64))
    row = CachedRow(
        token="frame",
        view=0,
        augment=BevAugment.identity(),
        gt=boxes,
        arrays={"boxes/relation": relation(features).numpy()},
    )
    need = [Need(Target.RELATION, Places.BOXES)]
    mirrored = frame_targets(row, need, GRID, BevAugment.compose(flip_y=True)).relation
    swapped = features[:, [1, 0, 3, 2, 4, 5, 8, 7, 6]]
    assert mirrored is not None
    assert torch.allclose(mirrored, relation(swapped), atol=1e-6)


@pytest.mark.parametrize("coverage", list(Coverage))
def test_a_real_store_gives_the_same_back(tmp_path: Path, coverage: Coverage):
    """Through the disk, with every kind of places that a foreground dump has."""
    maps = random_maps(5)
    truth = Boxes3D(
        torch.tensor([[1.2, 0.3, 0, 4, 2, 1.5, 0.7, 0, 0], [-4, 4.4, 0, 1, 1, 2, 0, 0, 0]]),
        torch.tensor([0, 2]),
    )
    frames = [frame_of(truth, "a"), frame_of(Boxes3D.empty(), "b")]
    made_for = fingerprint(coverage, ("a", "b"))
    writer = StoreWriter.open(tmp_path / "store", made_for, rows_of_frames(frames))
    given_rows = list(teacher_rows(FixedTeacher(maps), frames, made_for.given, made_for.masks))
    writer.write_part(range(2), given_rows)
    writer.finalise()
    cache = open_cache(tmp_path / "store")
    for row in given_rows:
        for name, values in row.arrays.items():
            np.testing.assert_array_equal(cache[row.token].arrays[name], values)
