"""SimDistill: a camera student with BEVFusion's topology follows a BEVFusion, branch by branch.

Zhao et al., AAAI 2024; code ViTAE-Transformer/SimDistill, commit 2d0d5eb. Four losses:

- IMD, intra-modal: the student's camera map follows the teacher's, everywhere.
- CMD, cross-modal: its simulated LiDAR map, adapted, follows the LiDAR map, at objects.
- MMD-F, multi-modal fusion: its fused map follows the fused one, everywhere.
- MMD-P, multi-modal prediction: its heatmaps follow the teacher's, and its boxes at objects.

Where the released code does otherwise than it means to, MMD-P can be had in both forms:

- Its class loss takes the student's probability for a logit and puts the teacher's through a second
  sigmoid; its positive cells are all cells, and it is a sum over the batch. ``intended`` is the
  quality focal loss against the teacher's probability, over all cells, divided by the number of
  those where that is above 0.1.
- Its box loss has 500 slots, and those without an object all read the corner cell; it takes the
  sine of yaw for an angle. ``intended`` reads the objects alone.

The released teacher's fuser keeps training; a cached one cannot, and is meant not to.

A student that was trained without the method has channels of its own; ``map_adapter``, a deviation,
leaves it these.

Axes: B batch, M boxes (padded), N or K cells (all, or the foreground's, padded), C channels.
"""

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from frames.anchors import AnchorConfig
from frames.box_code import CODE_SIZE
from frames.boxes import BoxBatch
from frames.heatmap import CENTER_HEAD, on_grid
from nets.blocks import norm_2d
from nets.center_head import CenterMaps, codes_at
from nets.read_at import read_at
from runs.errors import ConfigError
from store.schema import Need, Places, Target
from student_train.methods.adapters import map_adapter
from student_train.methods.base import (
    Method,
    MethodConfig,
    MethodContext,
    MethodResult,
    StudentMaps,
    TeacherTargets,
    TermConfig,
)
from student_train.methods.simdistill_prediction import (
    box_loss,
    class_loss,
    released_box_loss,
    released_class_loss,
)

# What IMD and MMD-F compare.
COMPARED = {"imd": Target.BEV_CAMERA, "mmd_f": Target.BEV_LOW}


class SimDistillConfig(MethodConfig):
    """Switches and weights; the weights are those of the released code.

    Attributes:
        at: Where IMD, MMD-F and MMD-P's classes are compared: everywhere, or at the foreground
            cells alone, equally. The latter is a deviation, for a twentieth of the cache.
        cmd_mask: Weight of a cell's difference in CMD, before it is squared: the sum of its
            classes' Gaussians, or 1 everywhere.
        adapter: From the simulated to the LiDAR map's channels, in CMD alone: ``conv3x3`` with
            normalisation and ReLU (code), a plain ``conv1x1``, or none.
        map_adapter: The same in IMD and MMD-F, of the camera and the fused map: none (code), or a
            plain ``conv1x1``, a deviation.
        prediction: Which form of MMD-P.
        slots: Of the released box loss, for each task of a frame.
        class_weight: Of the heatmaps in MMD-P (code).
        box_weight: Of the boxes in it (code).
        imd: Strength of IMD.
        cmd: Of CMD; unmasked it is 1 unless given (code).
        mmd_f: Of MMD-F.
        mmd_p: Of MMD-P.
    """

    at: Literal["map", "foreground"] = "map"
    cmd_mask: Literal["heatmap", "none"] = "heatmap"
    adapter: Literal["conv3x3", "conv1x1", "none"] = "conv3x3"
    map_adapter: Literal["conv1x1", "none"] = "none"
    prediction: Literal["intended", "released"] = "intended"
    slots: PositiveInt = 500
    class_weight: float = Field(0.25, ge=0)
    box_weight: float = Field(0.25, ge=0)
    imd: TermConfig = TermConfig()
    cmd: TermConfig = TermConfig(weight=100.0)
    mmd_f: TermConfig = TermConfig()
    mmd_p: TermConfig = TermConfig()

    @model_validator(mode="before")
    @classmethod
    def _as_released(cls, values: Any) -> Any:
        """Unmasked, CMD has no factor of 100."""
        if isinstance(values, dict) and values.get("cmd_mask") == "none":
            return {"cmd": TermConfig()} | values
        return values

    @model_validator(mode="after")
    def _possible(self) -> "SimDistillConfig":
        if self.at == "foreground" and (self.cmd_mask, self.prediction) != ("heatmap", "intended"):
            raise ValueError(
                'at = "foreground" reads no whole map, which cmd_mask = "none" and prediction = '
                '"released" need: choose one'
            )
        if "mmd_p" in self.terms and not (self.class_weight or self.box_weight):
            raise ValueError(
                "mmd_p: class_weight and box_weight are 0: set mmd_p = { weight = 0 } instead"
            )
        if shared := [name for name in ("imd", "cmd") if getattr(self, name).share is not None]:
            raise ValueError(
                f"{shared[0]}: a gradient share is measured on the student's fused map, which this "
                "term does not reach: give a weight"
            )
        return self


class SimDistill(Method):
    """Intra-modal, cross-modal and multi-modal distillation."""

    config_type: ClassVar[type[MethodConfig]] = SimDistillConfig
    config: SimDistillConfig

    def __init__(self, config: SimDistillConfig, context: MethodContext) -> None:
        super().__init__(config, context)
        if config.prediction == "released" and "mmd_p" in config.terms and config.box_weight:
            context.require_same_heads(
                "simdistill's released prediction compares the codes of all tasks",
                otherwise='set prediction = "intended"',
            )
        self.adapt: nn.Module = nn.Identity()
        if "cmd" in config.terms:
            self.adapt = _adapter("cmd", config.adapter, Target.BEV_LIDAR, context)
        self.adapt_maps = nn.ModuleDict(
            {
                term: _adapter(term, config.map_adapter, target, context)
                for term, target in COMPARED.items()
                if term in config.terms
            }
        )

    @classmethod
    def needs(
        cls,
        config: MethodConfig,
        anchors: AnchorConfig | None,  # noqa: ARG003
    ) -> frozenset[Need]:
        """Whole maps, or the foreground's cells; codes at boxes, or (released) whole."""
        assert isinstance(config, SimDistillConfig), f"got {type(config).__name__}"
        places = Places.MAP if config.at == "map" else Places.CELLS
        masked, intended = config.cmd_mask == "heatmap", config.prediction == "intended"
        heatmaps = Need(Target.HEATMAP_LOGIT, places)
        codes = Need(Target.BOX_CODE, Places.BOXES if intended else Places.MAP)
        halves = ((heatmaps, config.class_weight), (codes, config.box_weight))
        reads = {
            "imd": [Need(Target.BEV_CAMERA, places)],
            "cmd": [Need(Target.BEV_LIDAR, Places.CELLS if masked else Places.MAP)],
            "mmd_f": [Need(Target.BEV_LOW, places)],
            "mmd_p": [need for need, weight in halves if weight],
        }
        return frozenset(need for term in config.terms for need in reads[term])

    @classmethod
    def student_maps(cls, config: MethodConfig) -> frozenset[Target]:
        """Those of both branches."""
        assert isinstance(config, SimDistillConfig), f"got {type(config).__name__}"
        maps = {"imd": Target.BEV_CAMERA, "cmd": Target.BEV_LIDAR}
        return frozenset(maps[term] for term in config.terms if term in maps)

    def forward(
        self, student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch
    ) -> MethodResult:
        """See :class:`Method`."""
        terms: dict[str, Tensor] = {}
        figures: dict[str, Tensor] = {}
        for name in self.config.terms:
            if name == "mmd_p":
                halves = self._prediction(student, targets, boxes)
                loss = torch.stack([weight * half for weight, half in halves.values()]).sum()
                figures = {f"mmd_p/{half}": value.detach() for half, (_, value) in halves.items()}
            elif name == "cmd":
                loss = self._lidar(student, targets)
            else:
                loss = self._map(name, student, targets)
            terms[name] = getattr(self.config, name).weight * loss
        return MethodResult(terms, figures)

    def _map(self, term: str, student: StudentMaps, targets: TeacherTargets) -> Float[Tensor, ""]:
        target = COMPARED[term]
        adapted = self.adapt_maps[term](student.features[target])
        if self.config.at == "map":
            return map_loss(adapted, targets.maps[target])
        own, weight = self._read(adapted, targets)
        return foreground_loss(own, targets.at_cells[target], weight > 0)

    def _lidar(self, student: StudentMaps, targets: TeacherTargets) -> Float[Tensor, ""]:
        adapted = self.adapt(student.features[Target.BEV_LIDAR])
        if self.config.cmd_mask == "none":
            return map_loss(adapted, targets.maps[Target.BEV_LIDAR])
        own, _ = self._read(adapted, targets)
        assert targets.cell_heatmap is not None, "the loader gives it with the centre head's mask"
        weight, cells = targets.cell_heatmap.sum(-1), self.context.grid.num_cells
        return masked_loss(own, targets.at_cells[Target.BEV_LIDAR], weight, cells)

    def _prediction(
        self, student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch
    ) -> dict[str, tuple[float, Float[Tensor, ""]]]:
        """Weight and value of each half of MMD-P that counts."""
        halves: dict[str, tuple[float, Tensor]] = {}
        if weight := self.config.class_weight:
            halves["class"] = weight, self._classes(student, targets)
        if weight := self.config.box_weight:
            halves["box"] = weight, self._boxes(student, targets, boxes)
        return halves

    def _classes(self, student: StudentMaps, targets: TeacherTargets) -> Float[Tensor, ""]:
        logit, task = student.center.heatmap_logit, student.center.class_task
        if self.config.at == "foreground":
            own, weight = self._read(logit, targets)
            return class_loss(own, targets.at_cells[Target.HEATMAP_LOGIT], weight > 0, task)
        teacher = targets.maps[Target.HEATMAP_LOGIT].flatten(2).mT
        own = logit.flatten(2).mT
        if self.config.prediction == "released":
            return released_class_loss(own, teacher, task)
        return class_loss(own, teacher, own.new_ones(own.shape[:2], dtype=torch.bool), task)

    def _boxes(
        self, student: StudentMaps, targets: TeacherTargets, boxes: BoxBatch
    ) -> Float[Tensor, ""]:
        head, grid = student.center, self.context.grid
        cell = grid.cell_index(boxes.values[..., :2])
        own, present = codes_at(head, boxes.labels, cell), on_grid(boxes, grid)
        task, tasks = head.class_task[boxes.labels], head.box_code.shape[1]
        if self.config.prediction == "released":
            whole = targets.maps[Target.BOX_CODE].float().view(head.box_code.shape)
            said = CenterMaps(head.heatmap_logit, whole, head.class_task)
            teacher = codes_at(said, boxes.labels, cell)
            corner = head.box_code[:, :, :CODE_SIZE, 0, 0], whole[:, :, :CODE_SIZE, 0, 0]
            return released_box_loss((own, teacher), corner, task, present, self.config.slots)
        assert targets.codes is not None, "the loader gives codes to a method that needs them"
        assert targets.coded is not None, "and where they are"
        return box_loss(own, targets.codes, task, present & targets.coded, tasks)

    def _read(
        self, maps: Tensor, targets: TeacherTargets
    ) -> tuple[Float[Tensor, "b k c"], Float[Tensor, "b k"]]:
        """The student's map at the foreground cells, and ground truth's heatmap there."""
        assert targets.cells is not None, "the loader gives cells to a method that needs them"
        points = self.context.grid.to_unit(targets.cells)
        return read_at(maps, points), targets.cell_weight[CENTER_HEAD]


def map_loss(
    student: Float[Tensor, "b c h w"], teacher: Float[Tensor, "b c h w"]
) -> Float[Tensor, ""]:
    """Squared difference, mean over everything (IMD, MMD-F, unmasked CMD).

    Args:
        student: A BEV map.
        teacher: The teacher's, no gradient.
    """
    return (student.float() - teacher.detach().float()).square().mean()


def foreground_loss(
    student: Float[Tensor, "b k c"], teacher: Float[Tensor, "b k c"], valid: Bool[Tensor, "b k"]
) -> Float[Tensor, ""]:
    """Squared difference, mean over channels and a frame's foreground cells, then frames.

    Args:
        student: Features at the cells.
        teacher: The teacher's, no gradient.
        valid: False on padding.
    """
    gap = (student - teacher.detach().float()).square().mean(-1)
    return (torch.where(valid, gap, 0.0).sum(1) / valid.sum(1).clamp(min=1)).mean()


def masked_loss(
    student: Float[Tensor, "b k c"],
    teacher: Float[Tensor, "b k c"],
    weight: Float[Tensor, "b k"],
    cells: int,
) -> Float[Tensor, ""]:
    """Squared weighted difference, mean over all cells of the map (CMD): weights count squared.

    Args:
        student: Adapted features at the cells where the mask is not 0.
        teacher: The teacher's, no gradient.
        weight: The mask there, 0 on padding.
        cells: Of the whole map.
    """
    gap = (student - teacher.detach().float()) * weight[..., None]
    return gap.square().sum() / (len(student) * cells * student.shape[-1])


def _adapter(term: str, kind: str, target: Target, context: MethodContext) -> nn.Module:
    own, other = context.student_channels[target], context.teacher_channels[target]
    if kind == "none" and own != other:
        key = "adapter" if term == "cmd" else "map_adapter"
        raise ConfigError(
            f"simdistill's {term} compares {target}, of which the student has {own} channels, the "
            f'cached teacher {other}: make them equal, or set {key} = "conv1x1" or {term} = '
            "{ weight = 0 }"
        )
    return map_adapter(kind, own, other, bias=False, norm=norm_2d)
