"""The training loop both stages share: Lightning, configured once."""

import logging
import math
import signal
import statistics
import time
import warnings
from abc import ABC, abstractmethod
from collections import deque
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    ModelCheckpoint,
    RichProgressBar,
)
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.utils.data import DataLoader

from runs.checkpoint import load_safely
from runs.errors import ConfigError, RunInterruptedError
from runs.sampler import StepSampler, TrainingData

# With fewer input channels the gradient of a strided 1x1 convolution overwrites foreign memory in
# that layout (oneDNN issue 6035; torch 2.15 with oneDNN 3.13: AVX2, and AVX-512 in bfloat16).
LEAST_CHANNELS_LAST = {"32-true": 8, "bf16-mixed": 16, "16-mixed": 16}
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}  # by the weight's axes


class FitConfig(BaseModel):
    """How long and how fast to train.

    Attributes:
        steps: Optimizer steps.
        batch_size: Frames of a batch.
        accumulate: Batches a step, one after another, for less memory than one large batch takes.
            Their gradients are averaged; what a batch has one of (BatchNorm's statistics, the
            number of objects that losses are divided by) stays each batch's own. Logged are the
            losses of a step's last batch.
        learning_rate: Peak of AdamW's rate.
        rates: Factors on it, by a part of parameters' names, as mmcv's ``custom_keys``:
            ``image.body`` for a pretrained backbone. Of several that fit, the longest counts.
        weight_decay: AdamW's.
        schedule: ``one_cycle`` warms up and anneals to zero; ``flat`` warms up and stays, which
            with weight averaging suits short runs better; ``step`` falls to a tenth.
        drop: Share of the steps after which ``step`` does so.
        warmup: Share of the steps in which the rate grows.
        average: Decay of the exponential average of the weights; the average is what is kept.
        norm_momentum: Share of a batch in BatchNorm's running statistics, for all its layers; None
            leaves each its own. SECOND's 0.01 lags a hundred steps behind: too slow for a run of
            a few hundred.
        clip_norm: Largest gradient norm.
        class_balanced: Frames are drawn with repetition, as many for each class
            (``frames/class_balance.py``, CBGS); a pass over the data is then several times as long.
        workers: Loader processes; 0 loads in the training process.
        seed: Decides initial weights, order of frames and augmentation.
        threads: CPU threads of this process; None leaves torch's choice.
        log_every: Steps between rows in the logs.
        save_every: Steps between states from which the run can resume.
        precision: Lightning's precision string. On a CPU ``bf16-mixed`` may crash or hang where a
            1x1 convolution of stride 2 has fewer than 16 input channels (``LEAST_CHANNELS_LAST``
            keeps networks that are narrow throughout from it).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: PositiveInt
    batch_size: PositiveInt = 8
    accumulate: PositiveInt = 1
    learning_rate: PositiveFloat = 2e-3
    rates: dict[str, PositiveFloat] = Field(default_factory=dict)
    weight_decay: float = Field(0.01, ge=0)
    schedule: Literal["one_cycle", "flat", "step"] = "one_cycle"
    drop: float = Field(5 / 6, gt=0, le=1)
    warmup: float = Field(0.1, ge=0, lt=1)
    average: float = Field(0.99, gt=0, lt=1)
    norm_momentum: float | None = Field(None, gt=0, le=1)
    clip_norm: PositiveFloat = 35.0
    class_balanced: bool = False
    workers: NonNegativeInt = 0
    seed: NonNegativeInt = 0
    threads: PositiveInt | None = None
    log_every: PositiveInt = 10
    save_every: PositiveInt = 200
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"

    @property
    def frames_per_step(self) -> int:
        """Of all its batches."""
        return self.batch_size * self.accumulate


class Training(pl.LightningModule, ABC):
    """A LightningModule that sums named loss terms; subclasses say how they are computed."""

    def __init__(self, config: FitConfig) -> None:
        super().__init__()
        self.fit_config = config

    @abstractmethod
    def loss_terms(self, batch: Any) -> dict[str, Tensor]:
        """Weighted terms of the loss, each a scalar."""

    def training_step(self, batch: Any, _batch_idx: int) -> Tensor:
        """Sum and log the terms."""
        terms = self.loss_terms(batch)
        total = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(total):
            bad = [name for name, term in terms.items() if not torch.isfinite(term)]
            raise FloatingPointError(
                f"loss is not finite at step {self.global_step} (terms: {', '.join(bad)}); "
                "lower learning_rate or clip_norm, or train with precision 32-true, in a new folder"
            )
        self.log("loss", total.detach(), prog_bar=True)
        self.log_dict({f"loss/{name}": term.detach() for name, term in terms.items()})
        return total

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Forget the batches of a step that was not ended: they are read again."""
        steps, loop = checkpoint["global_step"], checkpoint["loops"]["fit_loop"]
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] = steps
        for progress in ("total", "current"):
            counts = loop["epoch_loop.batch_progress"][progress]
            counts |= dict.fromkeys(counts, steps * self.fit_config.accumulate)

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, _dataloader_idx: int
    ) -> Any:
        """Move the batch, which knows how."""
        return batch.to(device)

    def configure_optimizers(self) -> Any:
        """AdamW; norms and biases are not decayed."""
        config = self.fit_config
        groups = []
        for key, trained in self._by_rate().items():
            lr = config.learning_rate * config.rates.get(key, 1.0)
            weights, others = (
                [p for p in trained if p.ndim > 1],
                [p for p in trained if p.ndim <= 1],
            )
            groups.append({"params": weights, "lr": lr, "weight_decay": config.weight_decay})
            groups.append({"params": others, "lr": lr, "weight_decay": 0.0})
        optimizer = torch.optim.AdamW(groups)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(config, step))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def require_rates(self) -> None:
        """Refuse a rate that is no parameter's.

        Raises:
            ConfigError: No trained parameter's name holds its key.
        """
        names = [name for name, p in self.named_parameters() if p.requires_grad]
        if unused := [key for key in self.fit_config.rates if not any(key in n for n in names)]:
            parts = sorted({".".join(name.split(".")[1:3]) for name in names})
            raise ConfigError(
                f"fit.rates: no trained parameter's name holds {', '.join(unused)}; "
                f"names begin with {', '.join(parts)}"
            )

    def _by_rate(self) -> dict[str, list[nn.Parameter]]:
        """Trained parameters by the key of ``rates`` that they fall under; "" under none."""
        keys = sorted(self.fit_config.rates, key=len, reverse=True)
        found: dict[str, list[nn.Parameter]] = {key: [] for key in ["", *keys]}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                found[next((key for key in keys if key in name), "")].append(parameter)
        return found


def rate(config: FitConfig, step: int) -> float:
    """Factor on the learning rate: linear growth, then what the schedule says."""
    grown = config.warmup * config.steps
    if step < grown:
        return (step + 1) / (grown + 1)
    if config.schedule == "flat":
        return 1.0
    if config.schedule == "step":
        return 1.0 if step < config.drop * config.steps else 0.1
    left = (step - grown) / max(config.steps - grown, 1)
    return 0.5 * (1 + math.cos(math.pi * min(left, 1.0)))


def seed_run(seed: int, threads: int | None) -> None:
    """Seed the initial weights and set the CPU threads."""
    torch.manual_seed(seed)
    if threads is not None:
        torch.set_num_threads(threads)


def fit(
    training: Training,
    data: TrainingData[Any],
    out_dir: Path,
    *,
    resume: bool,
    device: str = "auto",
    name: str = "train",
) -> None:
    """Train to the configured number of steps.

    Leaves ``state.ckpt`` (from which ``resume`` continues: same frames, same augmentation),
    ``metrics.csv`` and TensorBoard files in ``out_dir``. The training's weights are the averaged
    ones afterwards.

    Raises:
        RunInterruptedError: Ctrl-C before the last step.
        FloatingPointError: The loss is not finite.
    """
    config = training.fit_config
    total = config.steps * config.frames_per_step
    sampler = StepSampler(len(data), total, config.seed, data.blocks)
    state = out_dir / "state.ckpt"
    start = state if resume and state.is_file() else None
    done = 0
    if start is not None:
        saved = load_safely(start)
        done = saved["global_step"]
        sampler.start = done * config.frames_per_step
        if done >= config.steps:
            training.load_state_dict(saved["state_dict"])
            return
    loader = DataLoader(
        data,
        config.batch_size,
        sampler=sampler,
        num_workers=config.workers,
        collate_fn=data.collate,
        # Forking after zarr's and dask's threads have started can hang.
        multiprocessing_context="forkserver" if config.workers else None,
        persistent_workers=config.workers > 0,
    )
    _prepare(training, config)
    with warnings.catch_warnings():
        # Lightning wants more loader processes than a small machine has, and warns that a run
        # resumed inside an epoch needs a stateful loader, which StepSampler makes unnecessary.
        warnings.filterwarnings("ignore", module="lightning")
        trainer = _trainer(config, _csv_logger(out_dir, done), device, name)
        try:
            trainer.fit(training, loader, ckpt_path=start, weights_only=True)
        except SystemExit:
            # Lightning's answer to Ctrl-C, which also leaves further ones ignored.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            so_far = f"{trainer.global_step} of {config.steps} steps"
            raise RunInterruptedError(
                f"interrupted after {so_far}, which are kept: continue with --resume "
                "(the demo: run it again)"
            ) from None
        # Whatever save_every is, a finished run is known as one and not run again.
        trainer.save_checkpoint(state)


def _prepare(training: Training, config: FitConfig) -> None:
    """Norm momentum and memory layout."""
    least = LEAST_CHANNELS_LAST[config.precision]
    for module in training.modules():
        # The base of 1d, 2d, 3d.
        if config.norm_momentum is not None and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = config.norm_momentum
        # Convolutions on a CPU run about twice as fast on channels-last maps and volumes.
        if isinstance(module, nn.modules.conv._ConvNd):  # not a sparse convolution
            weight = module.weight
            layout = CHANNELS_LAST.get(weight.ndim)
            if layout is not None and min(weight.shape[:2]) >= least:
                weight.data = weight.data.contiguous(memory_format=layout)


def _csv_logger(out_dir: Path, done: int) -> CSVLogger:
    """Lightning's, which would begin an empty file: the rows of steps already done are kept."""
    path = out_dir / "metrics.csv"
    header, *rows = path.read_text().splitlines() if done and path.is_file() else [""]
    logger = CSVLogger(out_dir, name="", version="", prefix="")
    writer = logger.experiment
    if rows:
        writer.metrics_keys = header.split(",")
        step = writer.metrics_keys.index("step")
        kept = [row for row in rows if int(row.split(",")[step]) < done]
        path.write_text("\n".join([header, *kept, ""]))
    return logger


def _trainer(config: FitConfig, csv_logger: CSVLogger, device: str, name: str) -> pl.Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    out_dir = Path(csv_logger.save_dir)
    saved = StateCheckpoint(
        out_dir,
        filename="state",
        every_n_train_steps=config.save_every,
        save_on_train_epoch_end=True,
        save_on_exception=True,
        enable_version_counter=False,
    )
    return pl.Trainer(
        accelerator=device,
        devices=1,
        max_steps=config.steps,
        max_epochs=1,
        accumulate_grad_batches=config.accumulate,
        precision=config.precision,
        gradient_clip_val=config.clip_norm,
        log_every_n_steps=min(config.log_every, config.steps),
        logger=[
            csv_logger,
            TensorBoardLogger(out_dir, name="", version="tensorboard"),
        ],
        callbacks=[
            EMAWeightAveraging(decay=config.average),
            saved,
            StepTimer(),
            StepProgress(name),
        ],
        enable_model_summary=False,
        enable_checkpointing=True,
    )


class StateCheckpoint(ModelCheckpoint):
    """Keeps the last good state: a diverged one is not worth resuming.

    A step that was not ended leaves no trace in it: what its batches have changed besides the
    weights, such as BatchNorm's statistics, is taken back.
    """

    step = -1

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Remember the buffers as a step finds them."""
        if trainer.global_step != self.step:
            self.step = trainer.global_step
            state = pl_module.state_dict()
            own = [name for name, _ in pl_module.named_buffers() if name in state]
            self.buffers = {name: state[name].clone() for name in own}

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Save, unless the loss was not finite."""
        if not isinstance(exception, FloatingPointError):
            if trainer.global_step == self.step:
                state = pl_module.state_dict()
                for name, value in self.buffers.items():
                    state[name].copy_(value)
            super().on_exception(trainer, pl_module, exception)


class StepTimer(pl.Callback):
    """Logs ``step_seconds``, the median time from one step's end to the next over the last 500.

    Loading is in it, as it is in the user's wait.
    """

    def __init__(self) -> None:
        self.step = -1
        self.last: float | None = None
        self.seconds: deque[float] = deque(maxlen=500)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """A resumed run begins with steps behind it."""
        self.step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Perhaps one more step is done."""
        if trainer.global_step == self.step:
            return
        self.step, now = trainer.global_step, time.perf_counter()
        if self.last is not None:
            self.seconds.append(now - self.last)
        self.last = now
        if self.seconds and trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            pl_module.log("step_seconds", statistics.median(self.seconds))


class StepProgress(RichProgressBar):
    """Lightning's rich bar, titled with the run's name."""

    def __init__(self, name: str) -> None:
        super().__init__(leave=True)
        self.name = name

    def _get_train_description(self, current_epoch: int) -> str:  # noqa: ARG002
        return self.name

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """What is shown; not the end of the log folder's name, which Lightning adds."""
        shown: dict[str, Any] = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        return shown
