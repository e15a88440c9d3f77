"""Training with every combination of methods, and caches that do not serve."""

import json
import math
from itertools import combinations
from pathlib import Path

import pytest
import torch

from frames.frame import Frame
from runs.checkpoint import load_checkpoint, save_checkpoint
from runs.errors import ConfigError
from runs.folder import RECORD
from runs.metrics import last_values
from store.errors import FingerprintError, MissingTargetError
from store.reader import Cache, open_cache
from store.schema import Target
from student_train.config import StudentRun
from student_train.data import StudentDataset
from student_train.detector import StudentDetector
from student_train.methods import METHODS
from student_train.methods.xgd import XgdConfig
from student_train.students.camera import CameraStudent
from student_train.students.kinds import build_student
from student_train.train import StudentTraining, needs_of, train_student
from tests.command import succeed
from tests.teacher_dump.untrained import write_untrained_teacher
from tests.tiny import student_run, write_student_toml

# The tiny teacher gives none of the maps of these, nor has the student simdistill's branches: see
# test_labeldistill_run.py and test_simdistill_run.py.
SERVED = [name for name in METHODS["center"] if name not in ("labeldistill", "simdistill")]
COMBINATIONS = ["+".join(names) for k in (1, 2) for names in combinations(SERVED, k)]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def with_method(run: StudentRun, method: str) -> StudentRun:
    return run.model_copy(update={"method": method})


@pytest.mark.parametrize("method", ["none", *COMBINATIONS])
def test_every_combination_trains(world: Path, tmp_path: Path, cache: Cache, method: str):
    run = with_method(student_run(tmp_path, world, depth=1.0), method)
    out = tmp_path / "out"
    used = cache if run.method_configs else None
    path = train_student(run, used, out, resume=False, device="cpu")
    logged = last_values(out)
    names = () if method == "none" else method.split("+")
    for name in METHODS["center"]:
        assert any(key.startswith(f"loss/{name}/") for key in logged) == (name in names)
        assert any(key.startswith(f"share/{name}/") for key in logged) == (name in names)
    losses = {key: value for key, value in logged.items() if key.startswith("loss")}
    assert {"loss/detection/heatmap", "loss/detection/box", "loss/detection/depth"} <= losses.keys()
    assert all(math.isfinite(value) and value >= 0 for value in losses.values())
    terms = [value for key, value in losses.items() if key != "loss"]
    assert losses["loss"] == pytest.approx(sum(terms), rel=1e-4)
    checkpoint = load_checkpoint(path, "student")
    assert checkpoint.notes["cache"] == (cache.manifest_hash if names else None)
    # The network alone: adapters are for training.
    assert checkpoint.weights.keys() == build_student(run.student).state_dict().keys()


def test_terms_pull_as_hard_as_wanted(run: StudentRun, cache: Cache, frames: list[Frame]):
    """The gradient of each scaled term on the low map, against detection's, is its share."""
    run = with_method(run, "xgd+imitation")
    torch.manual_seed(0)
    training = StudentTraining(run, cache)
    training.log_dict = lambda *_args, **_keys: None  # type: ignore[method-assign]
    kept: list[torch.Tensor] = []
    assert isinstance(training.network, CameraStudent)
    training.network.lift.register_forward_hook(lambda _m, _i, output: kept.append(output))
    data = StudentDataset(frames, run, cache, needs_of(run))
    terms = training.loss_terms(data.collate([data[0, 0], data[1, 1]]))

    def pull(value: torch.Tensor) -> float:
        (gradient,) = torch.autograd.grad(value, kept[0], retain_graph=True)
        return float(gradient.norm())

    detection = pull(terms["detection/heatmap"] + terms["detection/box"])
    wanted = {
        f"{name}/{term}": share
        for name, config in run.method_configs.items()
        for term, share in config.shares.items()
    }
    assert len(wanted) == 3
    for name, share in wanted.items():
        assert pull(terms[name]) / detection == pytest.approx(share, rel=1e-3), name


def test_a_method_starts_when_it_is_told(world: Path, tmp_path: Path, cache: Cache):
    run = with_method(student_run(tmp_path, world, steps=4), "xgd")
    late = run.methods.model_copy(update={"xgd": XgdConfig(start=0.5)})
    run = run.model_copy(update={"methods": late})
    train_student(run, cache, tmp_path / "out", resume=False, device="cpu")
    header, *rows = (tmp_path / "out" / "metrics.csv").read_text().splitlines()
    column = header.split(",").index("loss/xgd/box")
    assert [bool(row.split(",")[column]) for row in rows] == [False, False, True, True]


def test_a_trained_student_detects_as_it_did(world: Path, tmp_path: Path, frames: list[Frame]):
    run = student_run(tmp_path, world)
    path = train_student(run, None, tmp_path / "out", resume=False, device="cpu")
    detector = StudentDetector(load_checkpoint(path), torch.device("cpu"))
    together, alone = detector.detect(frames), detector.detect(frames[1:2])
    assert len(together) == 3
    assert torch.allclose(together[1].scores, alone[0].scores, atol=1e-5)
    assert not detector.network.training


def test_a_cache_for_other_methods_is_refused(world: Path, tmp_path: Path, run: StudentRun):
    toml = write_student_toml(tmp_path, world)
    succeed(
        *("dump-teacher", toml, "--out", tmp_path / "store", "--methods", "xgd"),
        *("--checkpoint", write_untrained_teacher(tmp_path, world), "--device", "cpu"),
    )
    cache = open_cache(tmp_path / "store")
    wanted = with_method(run, "imitation")
    with pytest.raises(MissingTargetError, match="bev_high at cells"):
        train_student(wanted, cache, tmp_path / "out", resume=False, device="cpu")


def test_a_cache_of_other_frames_is_refused(run: StudentRun, tmp_path: Path, cache: Cache):
    data = run.data.model_copy(update={"split": "world_val"})
    wanted = with_method(run.model_copy(update={"data": data}), "xgd")
    with pytest.raises(FingerprintError, match="3 frames are not in the cache"):
        train_student(wanted, cache, tmp_path / "out", resume=False, device="cpu")


def test_methods_together_need_what_each_needs(run: StudentRun):
    needs = {method: needs_of(with_method(run, method)) for method in ["none", *COMBINATIONS]}
    assert needs["none"] == frozenset()
    assert needs["imitation+xgd"] == needs["imitation"] | needs["xgd"]
    assert {need.target for need in needs["xgd"]} == {Target.BOXES}


def test_every_method_starts_from_the_same_student(run: StudentRun, cache: Cache):
    """Paired seeds mean paired students: adapters must not shift the draw of their weights."""
    starts = []
    for method in ("none", "xgd", "imitation", "xgd+imitation"):
        torch.manual_seed(3)
        training = StudentTraining(with_method(run, method), cache)
        starts.append({k: v.tolist() for k, v in training.network.state_dict().items()})
    assert all(start == starts[0] for start in starts)


def test_a_run_belongs_to_the_tables_of_its_own_methods(
    run: StudentRun, cache: Cache, tmp_path: Path
):
    """Another method's new default, or bound, stops no run, begun or ended; its own's does."""
    run = with_method(run, "imitation")
    path = train_student(run, cache, tmp_path, resume=False, device="cpu")
    left = load_checkpoint(path)
    assert left.config["methods"].keys() == {"head", "imitation"}
    record = tmp_path / RECORD
    begun = json.loads(record.read_text())
    assert begun["methods"] == left.config["methods"]
    # As releases wrote it that kept every table; this one would refuse a top of 5000.
    tables = begun["methods"] | {"stxd": {"response": {"top": 5000}}}
    record.write_text(json.dumps(begun | {"methods": tables}))
    old = left.config | {"methods": tables}
    save_checkpoint(path, "student", old, build_student(run.student), left.notes)
    assert load_checkpoint(path).run(StudentRun).record() == run.record()
    ended = path.stat().st_mtime_ns
    train_student(run, cache, tmp_path, resume=True, device="cpu")
    assert path.stat().st_mtime_ns == ended
    path.unlink()
    train_student(run, cache, tmp_path, resume=True, device="cpu")
    path.unlink()
    record.write_text(json.dumps(begun | {"methods": {"imitation": {"feature": {"share": 0.5}}}}))
    with pytest.raises(ConfigError, match="begun with another config"):
        train_student(run, cache, tmp_path, resume=True, device="cpu")
