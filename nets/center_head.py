"""Centre head: class heatmaps and, for each task, a box code at every cell (CenterPoint)."""

import math
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
    """One task's two-layer branches: the five of the box code, and its classes' heatmaps.

    All first layers read the same map, so they are one convolution; its channels are the
    branches' own, in the order of ``names``.
    """

    def __init__(self, config: CenterHeadConfig, num_classes: int) -> None:
        super().__init__()
        self.names = (*BRANCHES, "heatmap")
        width = config.head_channels
        self.hidden = _conv_norm_relu(config.shared_channels, width * len(self.names))
        self.out = nn.ModuleDict(
            {
                name: nn.Conv2d(width, channels, 3, padding=1)
                for name, channels in {**BRANCHES, "heatmap": num_classes}.items()
            }
        )
        # As in CenterPoint's own code: Kaiming but for the heatmap's output, whose bias is set.
        nn.init.normal_(self.hidden[0].weight, std=math.sqrt(2 / (9 * width)))  # type: ignore[arg-type]
        for name in BRANCHES:
            nn.init.kaiming_normal_(self.out[name].weight, mode="fan_out", nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(self.out[name].bias)  # type: ignore[arg-type]
        nn.init.constant_(self.out["heatmap"].bias, HEATMAP_BIAS)  # type: ignore[arg-type]

    def forward(
        self, shared: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b 10 h w"], Float[Tensor, "b classes h w"]]:
        """Box code and heatmap logits."""
        parts = self.hidden(shared).chunk(len(self.names), dim=1)
        maps = {name: self.out[name](part) for name, part in zip(self.names, parts, strict=True)}
        return torch.cat([maps[name] for name in BRANCHES], dim=1), maps["heatmap"]


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
        nn.init.kaiming_normal_(self.shared[0].weight, mode="fan_out", nonlinearity="relu")  # type: ignore[arg-type]

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
