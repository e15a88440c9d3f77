"""The teacher's past: across scenes, at their starts, in merged stores, and where it is missing."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from frames.augment import BevAugment, BevAugmentConfig
from frames.boxes import Boxes3D
from frames.cell_masks import RandomMask, foreground_cells
from frames.errors import DataError
from frames.frame import Frame
from frames.heatmap import CENTER_HEAD
from store.choices import Coverage
from store.errors import MissingTargetError
from store.fingerprint import Augmentation, DatasetIdentity, DrawnViews, Fingerprint
from store.match import require_match
from store.merge import plan_merge
from store.plan import masks_of, plan_arrays
from store.reader import Cache, open_cache
from store.rows import rows_of_frames, token_hash
from store.schema import Need, Places, Target
from store.writer import StoreWriter
from student_train.past_rows import PastRows
from student_train.targets import pad_targets
from teacher_dump.dump import dump
from tests.map_teacher import MapTeacher
from tests.student_train.labeldistill_case import GRID, frame_of
from tests.web_server import served

TEACHER = MapTeacher(GRID)
RANDOM = RandomMask(count=5)
NEEDS = frozenset(
    Need(Target.STAGE_0, Places.CELLS, mask=mask, offset=offset)
    for mask in (CENTER_HEAD, RANDOM)
    for offset in (0, -1, -2, -4)
)


def scene(name: str, count: int) -> list[Frame]:
    frames = []
    for k in range(count):
        values = torch.tensor([[k - 2.0, 1.0, 0, 2, 1, 1, 0.3, 0, 0]])
        own = frame_of(Boxes3D(values, torch.tensor([k])), f"{name}{k}")
        before, after = f"{name}{k - 1}" if k else "", f"{name}{k + 1}" if k < count - 1 else ""
        frames.append(replace(own, scene=name, timestamp_us=10 * k, prev=before, next=after))
    return frames


A, B = scene("a", 4), scene("b", 2)


def stored(path: Path, frames: Sequence[Frame], views: int = 1) -> Cache:
    augmentation: Augmentation = "canonical"
    if views > 1:
        ranges = BevAugmentConfig(rotation=0.5, shift=0.5)
        augmentation = DrawnViews(views=views, ranges=ranges, seed=1)
    made_for = Fingerprint(
        teacher=TEACHER.info.identity,
        dataset=DatasetIdentity(
            name="d",
            version="v",
            split="s",
            token_hash=token_hash(frame.token for frame in frames),
            ground_truth_filter={},
        ),
        grid=GRID,
        classes=TEACHER.info.classes,
        coverage=Coverage.FOREGROUND,
        augmentation=augmentation,
        masks=masks_of(NEEDS),
        arrays=plan_arrays(NEEDS, Coverage.FOREGROUND, TEACHER.info.shapes),
        code_revision="r",
    )
    writer = StoreWriter.open(path, made_for, rows_of_frames(frames, augmentation))
    dump(TEACHER, frames, writer)
    return open_cache(path)


def places(rows: PastRows) -> dict[str, list[str]]:
    """Of each frame the tokens that are read, marked where they stand for what is missing."""
    found: dict[str, list[str]] = {}
    for (token, _), (past, reached) in rows.place.items():
        found.setdefault(token, []).append(past if reached else f"({past})")
    return found


WHOLE = {
    "a0": ["(a0)", "(a0)", "(a0)"],
    "a1": ["a0", "(a0)", "(a0)"],
    "a2": ["a1", "a0", "(a0)"],
    "a3": ["a2", "a1", "(a0)"],
    "b0": ["(b0)", "(b0)", "(b0)"],
    "b1": ["b0", "(b0)", "(b0)"],
}


def test_a_scenes_first_frame_stands_for_what_is_before_it(tmp_path: Path):
    """Offsets -1, -2, -4; no scene reaches back four frames, and none into the other one."""
    cache = stored(tmp_path / "store", [*A, *B])
    assert places(PastRows(cache, NEEDS, [*A, *B], GRID)) == WHOLE
    # Whatever the order of the frames, and whichever of them a student has.
    assert places(PastRows(cache, NEEDS, [B[1], A[3]], GRID)) == {
        token: WHOLE[token] for token in ("b1", "a3")
    }


def test_what_is_read_is_the_past_frames_own_row(tmp_path: Path):
    cache = stored(tmp_path / "store", [*A, *B])
    rows = PastRows(cache, NEEDS, [*A, *B], GRID)
    for token, view in (("a3", 0), ("b1", 0)):
        targets = rows.targets(token, view)
        assert list(targets) == [-1, -2, -4]
        for offset, own in targets.items():
            past, reached = rows.place[token, offset]
            frame = next(frame for frame in [*A, *B] if frame.token == past)
            cells = foreground_cells(frame.boxes, GRID, [CENTER_HEAD, RANDOM], past)
            expected = TEACHER.maps(past)[Target.STAGE_0][0].flatten(1)[:, cells].T
            found = own.at_cells[Target.STAGE_0].float()
            assert torch.allclose(found, expected, atol=2**-9)
            assert own.reached is not None
            assert bool(own.reached) is reached
            assert (own.cell_weight[RANDOM] > 0).sum() == 5
    batch = pad_targets([replace(rows_of, past={}) for rows_of in rows.targets("a3", 0).values()])
    assert batch.reached is not None
    assert batch.reached.tolist() == [True, True, False]


def test_a_view_has_the_past_of_its_number(tmp_path: Path):
    cache = stored(tmp_path / "store", A, views=2)
    rows = PastRows(cache, NEEDS, A, GRID)
    for view in (0, 1):
        turned = cache.row("a1", view).augment
        assert not torch.equal(turned.matrix, BevAugment.identity().matrix)
        seen = turned.boxes3d(A[1].boxes)
        cells = foreground_cells(seen, GRID, [CENTER_HEAD, RANDOM], "a1")
        found = rows.targets("a2", view)[-1].cells
        assert found is not None
        assert found.equal(GRID.cell_centres(cells))


def test_what_was_fetched_is_read_without_its_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BEVCACHE_MIRROR", str(tmp_path / "mirror"))
    local = stored(tmp_path / "store", A)
    with served(tmp_path) as url:
        rows = PastRows(open_cache(f"{url}/store"), NEEDS, A, GRID)
        assert not list(tmp_path.glob("mirror/*/*/cells/stage_0/c/*"))
        rows.fetch([("a3", 0)])
    expected = PastRows(local, NEEDS, A, GRID).targets("a3", 0)
    for offset, own in rows.targets("a3", 0).items():
        found = own.at_cells[Target.STAGE_0]
        assert found.equal(expected[offset].at_cells[Target.STAGE_0])


def test_a_past_that_the_cache_lacks_is_refused(tmp_path: Path):
    """Frames that were left out of the dump, in the middle of a scene or before all others."""
    frames = [A[0], A[2], A[3]]
    cache = stored(tmp_path / "store", frames)
    with pytest.raises(DataError, match=r"lacks the frame before a2, a1, .* \(1 of 3 frames"):
        PastRows(cache, NEEDS, frames, GRID)
    late = stored(tmp_path / "late", A[2:])
    with pytest.raises(DataError, match="dump whole scenes, or leave out the method's past"):
        PastRows(late, NEEDS, A[2:], GRID)


def test_stores_that_were_merged_keep_a_scene_together(tmp_path: Path):
    """Also for a student that trains on frames behind the cut alone."""
    parts = [tmp_path / "early", tmp_path / "late"]
    for path, frames in zip(parts, ([*B, *A[:2]], A[2:]), strict=True):
        stored(path, frames)
    plan_merge(parts).write(tmp_path / "both")
    cache = open_cache(tmp_path / "both")
    assert places(PastRows(cache, NEEDS, [*A, *B], GRID)) == WHOLE
    assert places(PastRows(cache, NEEDS, [A[3]], GRID)) == {"a3": WHOLE["a3"]}


def test_a_past_that_merged_stores_lack_is_refused(tmp_path: Path):
    parts = [tmp_path / "early", tmp_path / "late"]
    for path, frames in zip(parts, (A[:2], A[3:]), strict=True):
        stored(path, frames)
    plan_merge(parts).write(tmp_path / "both")
    with pytest.raises(DataError, match=r"lacks the frame before a3, a2, .* \(1 of 3 frames"):
        PastRows(open_cache(tmp_path / "both"), NEEDS, [*A[:2], A[3]], GRID)


def test_nothing_more_is_stored_for_the_past(tmp_path: Path):
    cache = stored(tmp_path / "store", A)
    own = frozenset(replace(need, offset=0) for need in NEEDS)
    assert cache.fingerprint.arrays == plan_arrays(own, Coverage.FOREGROUND, TEACHER.info.shapes)
    assert cache.fingerprint.masks == masks_of(own)
    fitting = {
        "tokens": ["a0"],
        "grid": GRID,
        "classes": TEACHER.info.classes,
        "ground_truth_filter": {},
    }
    require_match(cache, needs=NEEDS, **fitting)  # type: ignore[arg-type]
    other = Need(Target.STAGE_0, Places.CELLS, mask=RandomMask(count=6), offset=-1)
    with pytest.raises(MissingTargetError, match="stage_0 at cells"):
        require_match(cache, needs=[other], **fitting)  # type: ignore[arg-type]
