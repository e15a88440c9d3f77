"""Which frames' annotations are read, and that those of the others are not."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from frames.dataset import read_frames
from frames.errors import DataError
from frames.frame import Frame
from frames.kitti.config import KittiConfig
from frames.kitti.reader import KittiFrame
from frames.labelled import FewLabels, labelled_frames, rank
from frames.nuscenes import NuScenesConfig

TOKENS = [f"token-{k}" for k in range(500)]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def shown(fraction: float, seed: int = 0) -> set[str]:
    config = FewLabels(labelled=fraction, labelled_seed=seed)
    return {token for token in TOKENS if config.hidden_score(token) is None}


@given(
    smaller=st.floats(0, 1, exclude_min=True),
    larger=st.floats(0, 1, exclude_min=True),
    seed=st.integers(0, 99),
)
def test_frames_of_a_fraction_are_among_those_of_a_larger_one(
    smaller: float, larger: float, seed: int
):
    smaller, larger = sorted((smaller, larger))
    assert shown(smaller, seed) <= shown(larger, seed)


def test_the_choice_is_of_the_token_and_the_seed_alone():
    # sha256 of "0:token-0" begins with these eight bytes.
    assert rank("token-0", 0) == pytest.approx(0x14B2DB027F026A2A / 2**64, abs=1e-12)
    assert shown(1.0) == set(TOKENS)
    for fraction in (0.5, 0.25, 0.1):
        share = len(shown(fraction)) / len(TOKENS)
        # Four standard deviations of the binomial distribution.
        assert abs(share - fraction) < 4 * (fraction * (1 - fraction) / len(TOKENS)) ** 0.5
    assert shown(0.25, 0) != shown(0.25, 1)


@pytest.mark.parametrize("values", [{"labelled": 0}, {"labelled": 1.1}, {"teacher_score": 0}])
def test_bounds(values: dict[str, float]):
    with pytest.raises(ValidationError, match=next(iter(values))):
        FewLabels.model_validate(values)


def test_the_filter_of_old_caches_stays(tmp_path: Path):
    config = NuScenesConfig(root=tmp_path, version="v", split="s")
    assert config.ground_truth_filter.keys() == {"classes", "min_points"}
    few = config.model_copy(update={"labelled": 0.25, "labelled_seed": 3})
    added = {"labelled": 0.25, "labelled_seed": 3, "teacher_score": 0.3}
    assert few.ground_truth_filter == config.ground_truth_filter | added
    kitti = KittiConfig(root=tmp_path, split="s", labelled=0.1)
    assert kitti.ground_truth_filter["labelled"] == 0.1


def some_hidden(config: NuScenesConfig | KittiConfig) -> tuple[list[Frame], list[Frame]]:
    """All frames, and the same with some hidden, some not."""
    whole = read_frames(config)
    for seed in range(50):
        few = read_frames(config.model_copy(update={"labelled": 0.5, "labelled_seed": seed}))
        if 0 < sum(frame.unlabelled for frame in few) < len(few):
            return whole, few
    raise AssertionError("no seed hides some frames")


def test_nuscenes_frames_without_labels_have_no_boxes(world: Path):
    whole, few = some_hidden(NuScenesConfig(root=world, version="v1.0-world", split="world_train"))
    for full, frame in zip(whole, few, strict=True):
        assert (full.token, full.prev, full.next) == (frame.token, frame.prev, frame.next)
        assert full.teacher_score is None
        assert len(full.boxes) > 0
        assert frame.teacher_score == (0.3 if frame.unlabelled else None)
        expected = 0 if frame.unlabelled else len(full.boxes)
        assert len(frame.boxes) == expected
    assert [f.token for f in labelled_frames(few)] == [f.token for f in few if not f.unlabelled]
    with pytest.raises(DataError, match=r"none of 1 frames is labelled: raise data\.labelled"):
        labelled_frames([frame for frame in few if frame.unlabelled][:1])


def test_kitti_labels_of_hidden_frames_are_not_read(kitti_world: Path):
    config = KittiConfig(root=kitti_world, split="world_train", difficulties="rescaled")
    whole, few = some_hidden(config)
    for full, frame in zip(whole, few, strict=True):
        assert isinstance(full, KittiFrame)
        assert isinstance(frame, KittiFrame)
        assert full.objects
        assert frame.labelled == (not frame.unlabelled)
        assert frame.objects == (() if frame.unlabelled else full.objects)
        assert len(frame.boxes) == (0 if frame.unlabelled else len(full.boxes))
