"""LabelDistill's first stage through the real command, on boxes alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frames.boxes import BoxBatch
from frames.dataset import read_frames
from nets.center_loss import CenterLossConfig
from nets.centerpoint import CenterPoint, CenterPointConfig
from runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from runs.errors import CheckpointError, ConfigError, RunInterruptedError
from teacher_dump.config import TeacherRun
from teacher_dump.errors import TeacherError
from teacher_dump.label_config import require_fit
from teacher_dump.label_decoder import LabelDecoder, LabelDetector
from teacher_dump.train_labels import LabelDataset, LabelTraining, train_label_encoder
from tests.command import command, succeed
from tests.tiny_kitti_runs import second_run
from tests.tiny_labels import label_encoder_run, write_label_encoder_toml, write_staged_teacher

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="session")
def teacher_path(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_staged_teacher(tmp_path_factory.mktemp("staged"), world)


@pytest.fixture
def teacher(teacher_path: Path) -> Checkpoint:
    return load_checkpoint(teacher_path)


@pytest.fixture(scope="session")
def trained(world: Path, teacher_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its checkpoint, trained where there is no LiDAR file and no image."""
    folder = tmp_path_factory.mktemp("labels")
    shutil.copytree(world / "v1.0-world", folder / "world" / "v1.0-world")
    shutil.copytree(world / "maps", folder / "world" / "maps")
    toml = write_label_encoder_toml(folder, folder / "world")
    out = folder / "out"
    succeed(
        *("train-label-encoder", toml, "--checkpoint", teacher_path),
        *("--out", out, "--device", "cpu"),
    )
    return out / "label_encoder.pt"


def config_of(teacher: Checkpoint) -> CenterPointConfig:
    config = teacher.run(TeacherRun).teacher
    assert isinstance(config, CenterPointConfig)
    return config


def test_the_checkpoint_says_for_which_teacher(trained: Path, teacher: Checkpoint):
    made = load_checkpoint(trained, "label_encoder")
    assert made.notes == {
        "frames": 3,
        "split": "world_train",
        "teacher_sha256": teacher.sha256,
    }
    assert made.config["encoder"]["channels"] == [6, 10]
    assert "teacher_sha256" in succeed("info", trained)


def test_the_decoder_is_the_teachers_neck_and_head_in_eval_mode(teacher: Checkpoint):
    config = config_of(teacher)
    whole = CenterPoint(config)
    teacher.load_into(whole)
    whole.eval()
    decoder = LabelDecoder(teacher).train()
    stages = [torch.randn(2, 6, 16, 16), torch.randn(2, 10, 8, 8)]
    found, expected = decoder(stages), whole.head(whole.neck(stages))
    assert found.heatmap_logit.equal(expected.heatmap_logit)
    assert found.box_code.equal(expected.box_code)
    assert not any(parameter.requires_grad for parameter in decoder.parameters())


def test_training_moves_the_encoder_and_nothing_of_the_teacher(
    world: Path, tmp_path: Path, teacher: Checkpoint
):
    run = label_encoder_run(tmp_path, world)
    decoder = LabelDecoder(teacher)
    training = LabelTraining(run, decoder).train()
    before = {name: value.clone() for name, value in training.state_dict().items()}
    boxes = BoxBatch.pad([frame.boxes for frame in read_frames(run.data)])
    (groups,) = (training.configure_optimizers()["optimizer"],)
    terms = training.loss_terms(boxes)
    assert set(terms) == {"heatmap", "box"}
    torch.stack(list(terms.values())).sum().backward()
    groups.step()
    moved = {n.split(".")[0] for n, v in training.state_dict().items() if not v.equal(before[n])}
    assert moved == {"network"}


def test_the_loss_is_the_teachers_own_unless_the_run_has_one(
    world: Path, tmp_path: Path, teacher: Checkpoint
):
    run, decoder = label_encoder_run(tmp_path, world), LabelDecoder(teacher)
    boxes = BoxBatch.pad([frame.boxes for frame in read_frames(run.data)])
    double = CenterLossConfig(heatmap=2.0)

    def heatmap(loss: CenterLossConfig | None) -> float:
        torch.manual_seed(0)
        training = LabelTraining(run.model_copy(update={"loss": loss}), decoder)
        return training.loss_terms(boxes)["heatmap"].item()

    assert decoder.config.loss == CenterLossConfig()
    assert heatmap(double) == pytest.approx(2 * heatmap(None), rel=1e-6)


def test_boxes_are_augmented_by_position(world: Path, tmp_path: Path):
    run = label_encoder_run(tmp_path, world)
    frames = read_frames(run.data)
    data = LabelDataset(frames, run)
    first, again, other = data[0, 3], data[0, 3], data[0, 4]
    assert first.values.equal(again.values)
    assert not first.values.equal(other.values)
    assert not first.values.equal(frames[0].boxes.values)
    assert first.labels.equal(frames[0].boxes.labels)


def test_an_interrupted_run_equals_an_uninterrupted_one(
    world: Path, tmp_path: Path, teacher_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = label_encoder_run(tmp_path, world, steps=4)
    common: dict[str, Any] = {"teacher": teacher_path, "device": "cpu"}
    whole = train_label_encoder(run, out_dir=tmp_path / "whole", resume=False, **common)
    terms = LabelTraining.loss_terms

    def interrupted(self: LabelTraining, batch: BoxBatch) -> dict[str, Tensor]:
        if self.global_step == 2:
            raise KeyboardInterrupt
        return terms(self, batch)

    monkeypatch.setattr(LabelTraining, "loss_terms", interrupted)
    with pytest.raises(RunInterruptedError, match="after 2 of 4 steps"):
        train_label_encoder(run, out_dir=tmp_path / "cut", resume=False, **common)
    monkeypatch.setattr(LabelTraining, "loss_terms", terms)
    cut = train_label_encoder(run, out_dir=tmp_path / "cut", resume=True, **common)
    expected, found = load_checkpoint(whole).weights, load_checkpoint(cut).weights
    assert expected.keys() == found.keys()
    assert all(found[name].equal(value) for name, value in expected.items())


def test_a_finished_run_is_not_run_again_nor_for_another_teacher(
    trained: Path, teacher_path: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = load_checkpoint(trained)
    toml = trained.parent.parent / "label_encoder.toml"
    common = ("train-label-encoder", toml, "--out", trained.parent, "--device", "cpu", "--resume")
    with monkeypatch.context() as patch:
        patch.setattr("teacher_dump.train_labels.fit", None)
        succeed(*common, "--checkpoint", teacher_path)
    assert load_checkpoint(trained).sha256 == made.sha256
    other = write_staged_teacher(tmp_path, world, seed=1)
    code, text = command(*common, "--checkpoint", other)
    assert (code, "was begun with the teacher_sha256" in text) == (1, True)


def test_what_comes_back_is_scored_officially(
    trained: Path, teacher_path: Path, world: Path, tmp_path: Path
):
    text = succeed(
        *("evaluate", trained, "--teacher", teacher_path, "--out", tmp_path, "--device", "cpu"),
        *("--data-root", world, "--pictures", 1),
    )
    assert "mATE" in text
    results = json.loads((tmp_path / "results_nusc.json").read_text())
    assert results["meta"]["use_external"]
    assert not results["meta"]["use_lidar"]
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 1


def test_another_teacher_or_none_is_refused(
    trained: Path, teacher: Checkpoint, world: Path, tmp_path: Path
):
    other = write_staged_teacher(tmp_path, world, seed=1)
    common = ("evaluate", trained, "--out", tmp_path / "eval", "--device", "cpu")
    code, text = command(*common, "--teacher", other)
    assert code == 1
    assert f"was trained for the teacher of checkpoint {teacher.sha256[:12]}, expected" in text
    code, text = command(*common)
    assert (code, "read by its teacher's head: give --teacher" in text) == (1, True)
    with pytest.raises(CheckpointError, match=r"trained for the teacher of checkpoint .*train one"):
        LabelDetector(load_checkpoint(trained), load_checkpoint(other), torch.device("cpu"))


def test_an_encoder_that_does_not_fit_is_refused(world: Path, tmp_path: Path, teacher: Checkpoint):
    encoder = label_encoder_run(tmp_path, world).encoder
    require_fit(encoder, config_of(teacher))
    wrong = encoder.model_copy(update={"channels": (6, 8), "strides": (1, 4)})
    message = r"encoder.channels: found \[6, 8\], expected \[6, 10\]; encoder.strides: found"
    with pytest.raises(ConfigError, match=message):
        require_fit(wrong, config_of(teacher))


def test_a_teacher_without_a_centre_head_is_refused(kitti_world: Path, tmp_path: Path):
    run = second_run(tmp_path, kitti_world)
    path = tmp_path / "second.pt"
    save_checkpoint(path, "teacher", run.model_dump(mode="json"), nn.Linear(1, 1), {})
    with pytest.raises(TeacherError, match="tiny-second is a second: a label encoder inverts"):
        LabelDecoder(load_checkpoint(path))
