"""Centre head: class heatmaps and, for each task, a box code at every cell (CenterPoint)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Int64
from pydantic import BaseModel, ConfigDict, PositiveInt, field_validator
from torch import Tensor, nn

from frames.detection_classes import DETECTION_CLASSES

# Widths of the regression branches, in the order of the box code.
BRANCHES = {"reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2}
HEATMAP_BIAS = -2.19  # sigmoid gives 0.1 (CornerNet)

CENTERPOINT_TASKS = (
    ("car",),
    ("truck", "construction_vehicle"),
    ("bus", "trailer"),
    ("barrier",),
    ("motorcycle", "bicycle"),
    ("pedestrian", "traffic_cone"),
)


class CenterHeadConfig(BaseModel):
    """Sizes; defaults are CenterPoint's.

    Attributes:
        in_channels: Channels of the BEV map.
        tasks: Groups of classes that share one box regression; together all ten classes.
        shared_channels: Width of the convolution before the branches.
        head_channels: Width inside each branch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_channels: PositiveInt = 512
    tasks: tuple[tuple[str, ...], ...] = CENTERPOINT_TASKS
    shared_channels: PositiveInt = 64
    head_channels: PositiveInt = 64

    @field_validator("tasks")
    @classmethod
    def _each_class_once(cls, tasks: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        found = [name for task in tasks for name in task]
        if sorted(found) != sorted(DETECTION_CLASSES) or () in tasks:
            raise ValueError(
                f"tasks hold {found}; expected each of {list(DETECTION_CLASSES)} exactly once "
                "and no empty task"
            )
        return tasks

    @property
    def class_task(self) -> tuple[int, ...]:
        """Task of each class, in the order of ``DETECTION_CLASSES``."""
        task_of = {name: index for index, task in enumerate(self.tasks) for name in task}
        return tuple(task_of[name] for name in DETECTION_CLASSES)


@dataclass(frozen=True, slots=True)
class CenterMaps:
    """What a centre head says of a batch.

    Attributes:
        heatmap_logit: Before the sigmoid, classes in the order of ``DETECTION_CLASSES``.
        box_code: One code a task at every cell (see ``frames/box_code.py``).
        class_task: Task of each class.
    """

    heatmap_logit: Float32[Tensor, "b classes h w"]
    box_code: Float32[Tensor, "b tasks 10 h w"]
    class_task: Int64[Tensor, " classes"]


class TaskBranches(nn.Module):
    """One task's two-layer branches: the five of the box code, and its classes' heatmaps."""

    def __init__(self, config: CenterHeadConfig, num_classes: int) -> None:
        super().__init__()
        inputs, hidden = config.shared_channels, config.head_channels
        self.branches = nn.ModuleDict(
            {
                name: nn.Sequential(
                    _conv_norm_relu(inputs, hidden), nn.Conv2d(hidden, width, 3, padding=1)
                )
                for name, width in {**BRANCHES, "heatmap": num_classes}.items()
            }
        )

    def forward(
        self, shared: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b 10 h w"], Float[Tensor, "b classes h w"]]:
        """Box code and heatmap logits."""
        code = torch.cat([self.branches[name](shared) for name in BRANCHES], dim=1)
        return code, self.branches["heatmap"](shared)


class CenterHead(nn.Module):
    """A shared convolution, then the branches of every task."""

    class_task: Tensor

    def __init__(self, config: CenterHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.shared = _conv_norm_relu(config.in_channels, config.shared_channels)
        self.tasks = nn.ModuleList(TaskBranches(config, len(task)) for task in config.tasks)
        found = [name for task in config.tasks for name in task]
        self._order = [found.index(name) for name in DETECTION_CLASSES]
        self.register_buffer("class_task", torch.tensor(config.class_task), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.constant_(module.bias, HEATMAP_BIAS if "heatmap" in name else 0.0)

    def forward(self, bev: Float[Tensor, "b c h w"]) -> CenterMaps:
        """Maps on the grid of the BEV map, float32 also under autocast."""
        shared = self.shared(bev)
        codes, heatmaps = zip(*(task(shared) for task in self.tasks), strict=True)
        logit = torch.cat(heatmaps, dim=1)[:, self._order]
        return CenterMaps(logit.float(), torch.stack(codes, dim=1).float(), self.class_task)


def codes_at(
    maps: CenterMaps, labels: Int64[Tensor, "b m"], cell_index: Int64[Tensor, "b m"]
) -> Float32[Tensor, "b m 10"]:
    """Box codes of objects at their cells, each read from its own class's task.

    Args:
        maps: Of the same batch.
        labels: Index into ``DETECTION_CLASSES``.
        cell_index: Flat index row * W + col.
    """
    batch = torch.arange(len(labels), device=labels.device)[:, None]
    return maps.box_code.flatten(3)[batch, maps.class_task[labels], :, cell_index]


def _conv_norm_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    """A plain ConvModule of mmdet: BatchNorm with torch's own eps and momentum."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
