"""The training loop: its pace, its average, its interruptions and failures."""

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nets.voxel_encoder import submanifold
from runs.checkpoint import load_checkpoint
from runs.errors import ConfigError, RunInterruptedError
from runs.fit import FitConfig, Training, fit, rate
from runs.metrics import last_values
from runs.sampler import Example, TrainingData
from teacher_dump.train import CenterPointTraining, train_teacher
from tests.command import command
from tests.tiny import teacher_run, write_teacher_toml

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Numbers(TrainingData[Tensor]):
    """Example k at position p of the run is (k, p)."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, example: Example) -> Tensor:
        return torch.tensor(example).float()

    @staticmethod
    def collate(examples: list[Tensor]) -> Tensor:
        return torch.stack(examples)


class Line(Training):
    """Fits a line to the numbers; remembers what it saw and what its weight was."""

    def __init__(self, config: FitConfig) -> None:
        super().__init__(config)
        torch.manual_seed(config.seed)
        self.line = nn.Linear(1, 1)
        self.seen: list[list[float]] = []
        self.weights: list[float] = []

    def loss_terms(self, batch: Tensor) -> dict[str, Tensor]:
        self.seen += batch.tolist()
        error = self.line(batch[:, :1]) - 3 * batch[:, :1]
        return {"square": error.square().mean(), "bias": 0.1 * self.line.bias.square().sum()}

    def on_train_batch_end(self, *_: Any) -> None:
        self.weights.append(self.line.weight.item())


def config(**changes: Any) -> FitConfig:
    values: dict[str, Any] = {
        "steps": 6,
        "batch_size": 2,
        "learning_rate": 0.1,
        "average": 0.5,
        "log_every": 1,
        "save_every": 100,
    }
    return FitConfig(**values | changes)


def run_fit(training: Training, out: Path, *, resume: bool = False) -> None:
    fit(training, Numbers(), out, resume=resume, device="cpu")


def losses(out: Path) -> list[float]:
    with (out / "metrics.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row["loss"]]


def test_one_cycle_by_hand():
    """Ten steps, two of them warm-up: thirds, then half a cosine over eight."""
    cycle = config(steps=10, warmup=0.2)
    expected = [1 / 3, 2 / 3, 1, (1 + math.cos(math.pi / 8)) / 2]
    assert [rate(cycle, step) for step in range(4)] == pytest.approx(expected)
    assert rate(cycle, 6) == pytest.approx(0.5)
    assert rate(cycle, 10) == pytest.approx(0)
    # Lightning asks once more after the last step.
    assert rate(cycle, 11) == pytest.approx(0)


def test_flat_by_hand():
    flat = config(steps=10, warmup=0.2, schedule="flat")
    assert [rate(flat, step) for step in (0, 1, 2, 9)] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert rate(config(warmup=0.0, schedule="flat"), 0) == 1


def test_it_sees_whole_shuffled_passes_and_logs(tmp_path: Path):
    training = Line(config(steps=5))
    run_fit(training, tmp_path)
    indices, positions = zip(*training.seen, strict=True)
    assert positions == tuple(range(10))
    assert sorted(indices[:5]) == sorted(indices[5:]) == [0, 1, 2, 3, 4]
    logged = last_values(tmp_path)
    assert logged["loss"] == pytest.approx(logged["loss/square"] + logged["loss/bias"])
    assert logged["step_seconds"] > 0
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) > 5
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_the_average_of_the_weights_is_what_is_kept(tmp_path: Path):
    """Decay 0.5: the first weight, then half the average and half the next."""
    training = Line(config())
    run_fit(training, tmp_path)
    assert len(training.weights) == 6
    average = training.weights[0]
    for weight in training.weights[1:]:
        average = 0.5 * average + 0.5 * weight
    assert training.line.weight.item() == pytest.approx(average, rel=1e-5)
    assert training.line.weight.item() != pytest.approx(training.weights[-1], rel=1e-3)


def test_a_finished_run_is_not_run_again(tmp_path: Path):
    training = Line(config())
    run_fit(training, tmp_path)
    again = Line(config(seed=9))
    run_fit(again, tmp_path, resume=True)
    assert again.seen == []
    assert again.line.weight.equal(training.line.weight)


class Interrupted(Line):
    def loss_terms(self, batch: Tensor) -> dict[str, Tensor]:
        if self.global_step == 3:
            raise KeyboardInterrupt
        return super().loss_terms(batch)


def test_an_interrupted_run_goes_on_with_the_next_example(tmp_path: Path):
    whole, cut = Line(config()), Interrupted(config())
    run_fit(whole, tmp_path / "whole")
    with pytest.raises(RunInterruptedError, match=r"after 3 of 6 steps, .* continue with --resume"):
        run_fit(cut, tmp_path / "cut")
    rest = Line(config())
    run_fit(rest, tmp_path / "cut", resume=True)
    assert cut.seen + rest.seen == whole.seen
    assert rest.line.weight.equal(whole.line.weight)
    # Its log is whole too: nothing lost, no step twice.
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_accumulated_batches_step_as_one(tmp_path: Path):
    large, small = Line(config(batch_size=6)), Line(config(accumulate=3))
    run_fit(large, tmp_path / "large")
    run_fit(small, tmp_path / "small")
    assert small.seen == large.seen
    # Three batches of two are not one of six in the last digits.
    assert small.line.weight.item() == pytest.approx(large.line.weight.item(), rel=1e-5)
    assert len(losses(tmp_path / "small")) == 6


class Normed(Line):
    """With statistics of the batches that it has seen."""

    def __init__(self, config: FitConfig) -> None:
        super().__init__(config)
        self.norm = nn.BatchNorm1d(1)

    def loss_terms(self, batch: Tensor) -> dict[str, Tensor]:
        normed = self.norm(self.line(batch[:, :1]))
        return super().loss_terms(batch) | {"normed": (normed - 1).square().mean()}


class InterruptedInside(Normed):
    """In the third step, in its third and last batch."""

    def loss_terms(self, batch: Tensor) -> dict[str, Tensor]:
        terms = super().loss_terms(batch)
        if len(self.seen) == 3 * 6:
            raise KeyboardInterrupt
        return terms


def test_a_step_that_was_not_ended_is_done_again(tmp_path: Path):
    whole, cut = Normed(config(accumulate=3)), InterruptedInside(config(accumulate=3))
    run_fit(whole, tmp_path / "whole")
    with pytest.raises(RunInterruptedError, match="after 2 of 6 steps"):
        run_fit(cut, tmp_path / "cut")
    rest = Normed(config(accumulate=3))
    run_fit(rest, tmp_path / "cut", resume=True)
    assert cut.seen[: 2 * 6] + rest.seen == whole.seen
    expected = whole.state_dict()
    assert all(value.equal(expected[name]) for name, value in rest.state_dict().items())
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


def test_rows_after_the_saved_state_are_logged_once(tmp_path: Path):
    """As after a kill: the log is ahead of the state, which is of step 3."""
    with pytest.raises(RunInterruptedError, match="after 3 of 6"):
        run_fit(Interrupted(config()), tmp_path)
    log = tmp_path / "metrics.csv"
    header, *rows = log.read_text().splitlines()
    step = header.split(",").index("step")
    ahead = ["4" if k == step else "" for k in range(len(header.split(",")))]
    log.write_text("\n".join([header, *rows, ",".join(ahead), ""]))
    run_fit(Line(config()), tmp_path, resume=True)
    assert len(losses(tmp_path)) == len(log.read_text().splitlines()) - 1 == 6


def test_resuming_what_never_began_begins(tmp_path: Path):
    training = Line(config())
    run_fit(training, tmp_path, resume=True)
    assert len(training.weights) == 6


def test_an_interrupted_teacher_equals_an_uninterrupted_one(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = teacher_run(tmp_path, world, steps=4)
    whole = train_teacher(run, tmp_path / "whole", resume=False, device="cpu")
    terms = CenterPointTraining.loss_terms

    def interrupted(self: CenterPointTraining, batch: Any) -> dict[str, Tensor]:
        if self.global_step == 2:
            raise KeyboardInterrupt
        return terms(self, batch)

    monkeypatch.setattr(CenterPointTraining, "loss_terms", interrupted)
    with pytest.raises(RunInterruptedError, match="after 2 of 4 steps"):
        train_teacher(run, tmp_path / "cut", resume=False, device="cpu")
    assert not (tmp_path / "cut" / "teacher.pt").exists()
    monkeypatch.setattr(CenterPointTraining, "loss_terms", terms)
    cut = train_teacher(run, tmp_path / "cut", resume=True, device="cpu")
    expected, found = load_checkpoint(whole).weights, load_checkpoint(cut).weights
    assert expected.keys() == found.keys()
    assert all(found[name].equal(value) for name, value in expected.items())


class Diverging(Line):
    def loss_terms(self, batch: Tensor) -> dict[str, Tensor]:
        terms = super().loss_terms(batch)
        return terms | {"bias": terms["bias"] * (math.nan if self.global_step == 2 else 1)}


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path):
    message = r"not finite at step 2 \(terms: bias\); lower learning_rate or clip_norm"
    with pytest.raises(FloatingPointError, match=message):
        run_fit(Diverging(config()), tmp_path)


def test_the_command_line_says_so(world: Path, tmp_path: Path):
    toml = write_teacher_toml(tmp_path, world, steps=3)
    toml.write_text(toml.read_text() + "learning_rate = 1e30\n")
    code, text = command("train-teacher", toml, "--out", tmp_path / "out", "--device", "cpu")
    assert code == 1
    assert "error: loss is not finite at step" in text
    assert not (tmp_path / "out" / "teacher.pt").exists()


def test_norms_and_biases_are_not_decayed():
    training = Line(config(weight_decay=0.3))
    decayed, spared = training.configure_optimizers()["optimizer"].param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0)
    assert decayed["params"] == [training.line.weight]
    assert spared["params"] == [training.line.bias]


def test_a_part_has_a_rate_of_its_own_by_hand():
    """AdamW's first step is as long as its rate."""
    training = Line(config(steps=1, schedule="flat", warmup=0, rates={"ine": 0.5, "line.b": 0.1}))
    before = {name: p.item() for name, p in training.named_parameters()}
    optimizer = training.configure_optimizers()["optimizer"]
    assert [group["params"] for group in optimizer.param_groups if group["params"]] == [
        [training.line.bias],
        [training.line.weight],
    ]
    sum(training.loss_terms(torch.tensor([[2.0, 0]])).values(), torch.tensor(0.0)).backward()
    optimizer.step()
    moved = {name: abs(p.item() - before[name]) for name, p in training.named_parameters()}
    decay = 0.1 * 0.5 * 0.01 * abs(before["line.weight"])
    assert moved["line.bias"] == pytest.approx(0.1 * 0.1, rel=1e-4)
    assert moved["line.weight"] == pytest.approx(0.1 * 0.5, abs=1.01 * decay)
    with pytest.raises(ConfigError, match=r"holds image\.body; names begin with bias, weight"):
        Line(config(rates={"image.body": 0.1})).require_rates()
    Line(config(rates={"line.": 0.1, "line.w": 0.2, "line.b": 0.3})).require_rates()


class Kernels(Line):
    def __init__(self, config: FitConfig) -> None:
        super().__init__(config)
        self.flat, self.narrow = nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 3)
        self.volume, self.wide = nn.Conv3d(8, 8, 3), nn.Conv2d(16, 16, 3)
        self.sparse = submanifold(8, 8, "key")


def test_kernels_are_channels_last_unless_narrow_or_sparse(tmp_path: Path):
    training = Kernels(config(steps=1))
    run_fit(training, tmp_path)
    assert training.flat.weight.is_contiguous(memory_format=torch.channels_last)
    assert training.volume.weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert training.narrow.weight.is_contiguous()
    assert training.sparse.weight.is_contiguous()


def test_in_bfloat16_more_kernels_are_narrow(tmp_path: Path):
    """A block of oneDNN's has 16 channels there; below, gradients overwrote foreign memory."""
    training = Kernels(config(steps=1, precision="bf16-mixed"))
    run_fit(training, tmp_path)
    assert training.wide.weight.is_contiguous(memory_format=torch.channels_last)
    assert training.flat.weight.is_contiguous()
    assert training.volume.weight.is_contiguous()
