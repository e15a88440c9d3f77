"""Centre head: class heatmaps and, for each task, a box code at every cell (CenterPoint).

With ``iou`` it is UniDistill's: a box code then has an eleventh number, how well the head thinks
its box overlaps the true one.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Int64
from pydantic import BaseModel, ConfigDict, PositiveInt, field_validator
from torch import Tensor, nn

from frames.box_code import CODE_SIZE
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
        iou: Whether each task also says its box's IoU (UniDistill, Megvii's centre_head_iou_aware).
        conv_bias: Whether convolutions before a BatchNorm have a bias, as UniDistill's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_channels: PositiveInt = 512
    tasks: tuple[tuple[str, ...], ...] = CENTERPOINT_TASKS
    shared_channels: PositiveInt = 64
    head_channels: PositiveInt = 64
    iou: bool = False
    conv_bias: bool = False

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

    @property
    def branches(self) -> dict[str, int]:
        """Widths of a task's regression branches, in the order of the box code; the IoU is last."""
        return {**BRANCHES, "iou": 1} if self.iou else BRANCHES

    @property
    def code_size(self) -> int:
        """Numbers that a task says of a box."""
        return sum(self.branches.values())

    @property
    def code_channels(self) -> int:
        """Of all tasks' box codes together."""
        return len(self.tasks) * self.code_size


@dataclass(frozen=True, slots=True)
class CenterMaps:
    """What a centre head says of a batch.

    Attributes:
        heatmap_logit: Before the sigmoid, classes in the order of ``DETECTION_CLASSES``.
        box_code: One code a task at every cell: the ten numbers of ``frames/box_code.py``, then,
            of an IoU-aware head, 2 IoU - 1.
        class_task: Task of each class.
    """

    heatmap_logit: Float32[Tensor, "b classes h w"]
    box_code: Float32[Tensor, "b tasks code h w"]
    class_task: Int64[Tensor, " classes"]

    def frames(self, index: Int64[Tensor, " k"]) -> "CenterMaps":
        """The same of some frames of the batch."""
        return CenterMaps(self.heatmap_logit[index], self.box_code[index], self.class_task)


class TaskBranches(nn.Module):
    """One task's two-layer branches: those of the box code, and its classes' heatmaps.

    All first layers read the same map, so they are one convolution; its channels are the
    branches' own, in the order of ``names``.
    """

    def __init__(self, config: CenterHeadConfig, num_classes: int) -> None:
        super().__init__()
        widths = {**config.branches, "heatmap": num_classes}
        self.names = tuple(widths)
        width = config.head_channels
        self.hidden = _conv_norm_relu(
            config.shared_channels, width * len(self.names), bias=config.conv_bias
        )
        self.out = nn.ModuleDict(
            {name: nn.Conv2d(width, channels, 3, padding=1) for name, channels in widths.items()}
        )
        # As in CenterPoint's own code: Kaiming but for the heatmap's output, whose bias is set.
        nn.init.normal_(self.hidden[0].weight, std=math.sqrt(2 / (9 * width)))  # type: ignore[arg-type]
        for name in config.branches:
            nn.init.kaiming_normal_(self.out[name].weight, mode="fan_out", nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(self.out[name].bias)  # type: ignore[arg-type]
        nn.init.constant_(self.out["heatmap"].bias, HEATMAP_BIAS)  # type: ignore[arg-type]

    def forward(
        self, shared: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b code h w"], Float[Tensor, "b classes h w"]]:
        """Box code and heatmap logits."""
        parts = self.hidden(shared).chunk(len(self.names), dim=1)
        maps = {name: self.out[name](part) for name, part in zip(self.names, parts, strict=True)}
        heatmap = maps.pop("heatmap")
        return torch.cat(list(maps.values()), dim=1), heatmap


class CenterHead(nn.Module):
    """A shared convolution, then the branches of every task."""

    class_task: Tensor

    def __init__(self, config: CenterHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.shared = _conv_norm_relu(
            config.in_channels, config.shared_channels, bias=config.conv_bias
        )
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
    """Box codes of objects at their cells, each read from its own class's task; no IoU.

    Args:
        maps: Of the same batch.
        labels: Index into ``DETECTION_CLASSES``.
        cell_index: Flat index row * W + col.
    """
    batch = torch.arange(len(labels), device=labels.device)[:, None]
    return maps.box_code[:, :, :CODE_SIZE].flatten(3)[batch, maps.class_task[labels], :, cell_index]


def _conv_norm_relu(in_channels: int, out_channels: int, *, bias: bool) -> nn.Sequential:
    """A plain ConvModule of mmdet: BatchNorm with torch's own eps and momentum."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
