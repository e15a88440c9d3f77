"""Recheck: the teacher's own store passes, anything else is told."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from frames.augment import BevAugment
from frames.boxes import BoxBatch
from frames.dataset import read_frames
from frames.errors import DataError
from frames.frame import Frame
from store.choices import Encoding
from store.errors import FingerprintError
from store.reader import Cache, open_cache
from store.schema import Target
from teacher_dump.centerpoint_teacher import CenterPointTeacher
from teacher_dump.protocol import TeacherOutput
from teacher_dump.recheck import draw_rows, recheck, require_teacher
from tests.command import command, succeed
from tests.teacher_dump.untrained import write_untrained_teacher
from tests.tiny import teacher_run, write_student_toml
from tests.web_server import served

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def dumped(folder: Path, checkpoint: Path, world: Path, *options: object) -> Path:
    succeed(
        *("dump-teacher", write_student_toml(folder, world), "--checkpoint", checkpoint),
        *("--out", folder / "store", "--device", "cpu", *options),
    )
    return folder / "store"


@pytest.fixture(scope="session")
def store(checkpoint: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two views of each of three frames."""
    return dumped(tmp_path_factory.mktemp("recheck"), checkpoint, world, "--views", 2)


@pytest.fixture
def cache(store: Path) -> Cache:
    return open_cache(store)


@pytest.mark.parametrize("behind", ["folder", "url"])
def test_a_store_of_drawn_views_passes(
    store: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    behind: str,
):
    monkeypatch.setenv("BEVCACHE_MIRROR", str(tmp_path / "mirror"))
    with served(store.parent) as url:
        place = f"{url}/store" if behind == "url" else str(store)
        common = ("recheck", store.parent / "student.toml", place, "--checkpoint", checkpoint)
        text = succeed(*common, "--device", "cpu", "--rows", 4)
        checks = json.loads(succeed(*common, "--device", "cpu", "--json"))
    assert ("cells/bev_high │ 4 │" in text, "OUTSIDE" in text) == (True, False)
    assert {check["rows"] for check in checks} == {6}
    assert all(check["passed"] and check["error"] <= check["bound"] for check in checks)
    bounds = {check["array"]: check["bound"] for check in checks}
    assert bounds["cells/bev_high"] == 2**-11 + 2**-10
    assert (bounds["boxes/yaw"], bounds["boxes/label"], bounds["gt/labels"]) == (2**-10, 0, 0)


@pytest.mark.parametrize("encoding", ["bfloat16", "uint8", "float8"])
def test_lossy_arrays_pass_within_their_own_bound(
    checkpoint: Path, world: Path, tmp_path: Path, encoding: str
):
    made = dumped(tmp_path, checkpoint, world, "--encoding", encoding, "--coverage", "dense")
    common = ("recheck", tmp_path / "student.toml", made, "--checkpoint", checkpoint)
    checks = json.loads(succeed(*common, "--device", "cpu", "--json"))
    found = {check["array"]: check for check in checks}
    assert all(check["passed"] for check in checks)
    bound = Encoding(encoding).max_error
    assert found["bev_high"]["bound"] == bound + 2**-10
    assert bound / 10 < found["bev_high"]["error"] <= bound
    assert not [name for name in found if name.endswith("_range")]


def test_the_stored_augmentation_is_the_one_that_is_run(
    cache: Cache, teacher: CenterPointTeacher, frames: list[Frame], monkeypatch: pytest.MonkeyPatch
):
    """With any other, the very same teacher is far off."""
    rows = draw_rows(cache, frames, 6, seed=0)
    assert all(check.passed for check in recheck(teacher, cache, rows))
    turned = BevAugment.compose(yaw=0.3)
    answer = CenterPointTeacher.__call__

    def elsewhere(
        self: CenterPointTeacher,
        frames: Sequence[Frame],
        boxes: BoxBatch,
        augments: Sequence[BevAugment],
    ) -> TeacherOutput:
        return answer(self, frames, boxes, [turned] * len(augments))

    monkeypatch.setattr(CenterPointTeacher, "__call__", elsewhere)
    failed = {check.array for check in recheck(teacher, cache, rows) if not check.passed}
    assert {"cells/bev_high", "boxes/centre", "boxes/score"} <= failed
    assert not failed & {"gt/values", "gt/labels", "cells/index"}


def test_a_teacher_that_says_nan_now_does_not_pass(
    cache: Cache, teacher: CenterPointTeacher, frames: list[Frame], monkeypatch: pytest.MonkeyPatch
):
    answer, asked = CenterPointTeacher.__call__, []

    def broken_later(
        self: CenterPointTeacher,
        frames: Sequence[Frame],
        boxes: BoxBatch,
        augments: Sequence[BevAugment],
    ) -> TeacherOutput:
        asked.append(frames)
        output = answer(self, frames, boxes, augments)
        if len(asked) > 1:
            output.maps[Target.BEV_HIGH].fill_(torch.nan)
        return output

    monkeypatch.setattr(CenterPointTeacher, "__call__", broken_later)
    checks = recheck(teacher, cache, draw_rows(cache, frames, 2, seed=0))
    found = {check.array: (check.error, check.passed) for check in checks}
    assert found["cells/bev_high"] == (None, False)


def test_a_store_that_is_not_the_teachers_word_ends_in_exit_code_1(
    checkpoint: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    answer = CenterPointTeacher.__call__

    def wrong(
        self: CenterPointTeacher,
        frames: Sequence[Frame],
        boxes: BoxBatch,
        augments: Sequence[BevAugment],
    ) -> TeacherOutput:
        output = answer(self, frames, boxes, augments)
        return replace(output, scores=output.scores + 0.01, labels=output.labels * 0)

    with monkeypatch.context() as patch:
        patch.setattr(CenterPointTeacher, "__call__", wrong)
        store = dumped(tmp_path, checkpoint, world)
    common = ("recheck", tmp_path / "student.toml", store, "--checkpoint", checkpoint)
    code, text = command(*common, "--device", "cpu")
    assert code == 1
    assert "boxes/score │ 3 │ 1.00e-02 │ 9.77e-04 │ OUTSIDE" in text
    assert text.count("OUTSIDE") == 2
    code, text = command(*common, "--device", "cpu", "--tolerance", 0.02)
    assert (code, text.count("OUTSIDE")) == (1, 1)


def test_another_checkpoint_is_refused(cache: Cache, world: Path, tmp_path: Path, store: Path):
    other = write_untrained_teacher(tmp_path, world, seed=1)
    code, text = command(
        *("recheck", store.parent / "student.toml", store, "--checkpoint", other),
        *("--device", "cpu"),
    )
    assert code == 1
    found = cache.fingerprint.teacher.checkpoint_sha256
    assert f"teacher.checkpoint_sha256: found '{found}', expected" in text
    assert "Give the --checkpoint that the store was dumped with" in text


def test_a_teacher_of_other_settings_is_refused(cache: Cache, teacher: CenterPointTeacher):
    require_teacher(cache, teacher.info)
    config = teacher.info.identity.config | {"depth": 9}
    identity = teacher.info.identity.model_copy(update={"config": config})
    with pytest.raises(FingerprintError, match=r"teacher.config.depth: found nothing, expected 9"):
        require_teacher(cache, replace(teacher.info, identity=identity))


def test_other_ground_truth_shows(cache: Cache, teacher: CenterPointTeacher, frames: list[Frame]):
    (frame, view), *_ = draw_rows(cache, frames, 1, seed=0)
    boxes = replace(frame.boxes, values=frame.boxes.values[1:], labels=frame.boxes.labels[1:])
    checks = recheck(teacher, cache, [(replace(frame, boxes=boxes), view)])
    shape_differs = {check.array for check in checks if check.error is None}
    assert {"gt/labels", "boxes/score"} <= shape_differs
    assert not any(check.passed for check in checks if check.array in shape_differs)


def test_rows_are_drawn_once_each_and_by_seed(cache: Cache, frames: list[Frame]):
    def drawn(count: int, seed: int) -> list[tuple[str, int]]:
        return [(frame.token, view) for frame, view in draw_rows(cache, frames, count, seed)]

    assert drawn(100, 0) == [(token, view) for token in cache.tokens for view in range(2)]
    assert drawn(3, 0) == drawn(3, 0)
    assert len({str(drawn(3, seed)) for seed in range(8)}) > 2


def test_frames_of_another_split_are_refused(cache: Cache, world: Path, tmp_path: Path):
    val = teacher_run(tmp_path, world).data.model_copy(update={"split": "world_val"})
    with pytest.raises(DataError, match=r"dumped from nuscenes v1\.0-world, split world_train"):
        draw_rows(cache, read_frames(val), 1, seed=0)
