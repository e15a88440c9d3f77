"""A trained PointPillars that was published for a fixed-point chip, as a plain float network.

Weights: ``backbone_head_int8.onnx`` (duxuan321/pointpillar_with_germ b9dcd04) and
``pfn_fitted.npz``, a pillar encoder that was *refitted* to recorded activations, as the published
one does not belong to the rest. What a chip computes in integers is computed in floats here, in
the same units: a shift by s bits is a division by 2^s, and values saturate as they do there. They
are not rounded, so that results differ a little from the chip's.

Axes: B frames, N points, P pillars, C channels.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from examples.onnx_file import OnnxNode, read_onnx
from frames.anchors import BOX_CODE
from frames.detection_classes import KITTI_CLASSES
from frames.grid import BEVGrid
from nets.anchor_head import DIRECTIONS, AnchorMaps, flat_slots
from teacher_dump.errors import TeacherError

BACKBONE_FILE, ENCODER_FILE = "backbone_head_int8.onnx", "pfn_fitted.npz"
# OpenPCDet, pointpillar.yaml: POINT_CLOUD_RANGE, VOXEL_SIZE, MAX_POINTS_PER_VOXEL.
PILLARS = BEVGrid(x_min=0.0, y_min=-39.68, cell_size=0.16, shape=(496, 432))
Z_RANGE = (-3.0, 1.0)
POINTS_OF_PILLAR = 32
# Pillars along a side of the head's cells.
STRIDE = 4
POINT_FEATURES, CHANNELS = 10, 64
# Largest values of the chip's unsigned and signed bytes.
UNSIGNED, SIGNED = (0.0, 255.0), (-128.0, 127.0)
OPERATORS = (
    "QuantizeLinear",
    *["Conv"] * 10,
    *["ConvTranspose", "Concat", "Conv"] * 2,
    *["Conv", "DequantizeLinear"] * 3,
)


class Saturating(nn.Module):
    """A convolution whose results stay within limits."""

    def __init__(self, convolution: nn.Module, limits: tuple[float, float]) -> None:
        super().__init__()
        self.convolution, self.limits = convolution, limits

    def forward(self, maps: Float[Tensor, "b _ _ _"]) -> Float[Tensor, "b _ _ _"]:
        """The limited results."""
        limited: Tensor = self.convolution(maps).clamp(*self.limits)
        return limited


class PointPillars(nn.Module):
    """Points to anchors, both in the Velodyne frame.

    Args:
        folder: Holds both files of weights.

    Raises:
        TeacherError: A file is missing, or is another network's.
    """

    point_weight: Tensor
    point_bias: Tensor

    def __init__(self, folder: Path) -> None:
        super().__init__()
        weight, bias = _read_encoder(folder / ENCODER_FILE)
        self.register_buffer("point_weight", weight)
        self.register_buffer("point_bias", bias)
        nodes = iter(_read_backbone(folder / BACKBONE_FILE))
        next(nodes)  # Features come in the chip's units already.
        self.down_fine = nn.Sequential(*(_layer(next(nodes)) for _ in range(6)))
        self.down_middle = nn.Sequential(*(_layer(next(nodes)) for _ in range(2)))
        self.down_coarse = nn.Sequential(*(_layer(next(nodes)) for _ in range(2)))
        self.up_middle, self.merge_middle = _merging(nodes)
        self.up_fine, self.merge_fine = _merging(nodes)
        self.logit, self.code, self.direction = (_layer(next(nodes), next(nodes)) for _ in range(3))
        self.requires_grad_(requires_grad=False)

    def forward(self, clouds: list[Float[Tensor, "_ 4"]]) -> AnchorMaps:
        """Predictions at all anchors.

        Args:
            clouds: x y z, metres, and reflectance (0..1) of each frame's points.
        """
        fine = self.down_fine(torch.stack([self.pillar_map(cloud) for cloud in clouds]))
        middle = self.down_middle(fine)
        coarse = self.down_coarse(middle)
        merged = self.merge_middle(torch.cat([self.up_middle(coarse), middle], 1))
        merged = self.merge_fine(torch.cat([self.up_fine(merged), fine], 1))
        return AnchorMaps(
            flat_slots(self.logit(merged), len(KITTI_CLASSES)),
            flat_slots(self.code(merged), BOX_CODE),
            flat_slots(self.direction(merged), DIRECTIONS),
        )

    def pillar_map(self, cloud: Float[Tensor, "n 4"]) -> Float[Tensor, "c h w"]:
        """Encoded pillars on the ground, in the chip's units; 0 where there is none."""
        points, cell, pillar = gather_pillars(cloud)
        count = torch.bincount(pillar, minlength=len(cell))
        encoded = point_features(points, cell, pillar) @ self.point_weight
        best = encoded.new_zeros(len(cell), CHANNELS).scatter_reduce(
            0, pillar[:, None].expand_as(encoded), encoded, "amax", include_self=False
        )
        # Empty places of a pillar are zeros, and take part in the maximum.
        free = (count < POINTS_OF_PILLAR)[:, None]
        best = torch.where(free, best.clamp(min=0), best)
        flat = best.new_zeros(CHANNELS, PILLARS.num_cells)
        flat[:, cell] = (best + self.point_bias).clamp(*UNSIGNED).mT
        return flat.view(CHANNELS, *PILLARS.shape)


def gather_pillars(
    cloud: Float[Tensor, "n 4"],
) -> tuple[Float[Tensor, "k 4"], Int64[Tensor, " p"], Int64[Tensor, " k"]]:
    """The first points of each pillar, in their order: points, cells of pillars, pillar of each."""
    # In float64: which pillar a point near an edge belongs to would else depend on rounding.
    exact = cloud[:, :3].double()
    inside = PILLARS.contains(exact[:, :2])
    inside &= (exact[:, 2] >= Z_RANGE[0]) & (exact[:, 2] < Z_RANGE[1])
    cells, order = PILLARS.cell_index(exact[inside, :2]).sort(stable=True)
    count = torch.bincount(cells, minlength=PILLARS.num_cells)
    cell = count.nonzero().squeeze(1)
    pillar, first = torch.searchsorted(cell, cells), (count.cumsum(0) - count)[cell]
    kept = torch.arange(len(cells), device=cloud.device) - first[pillar] < POINTS_OF_PILLAR
    return cloud[inside][order][kept], cell, pillar[kept]


def point_features(
    points: Float[Tensor, "k 4"], cell: Int64[Tensor, " p"], pillar: Int64[Tensor, " k"]
) -> Float[Tensor, "k 10"]:
    """PointPillars' ten numbers of each point, scaled as the refitted encoder wants them.

    Place in the range and reflectance about 0; offsets from the mean of the pillar's points and
    from its middle in the pillar's size (the former halved).
    """
    xyz = points[:, :3]
    count = torch.bincount(pillar, minlength=len(cell))[:, None]
    mean = xyz.new_zeros(len(cell), 3).index_add(0, pillar, xyz) / count
    middle = torch.cat(
        [PILLARS.cell_centres(cell), torch.full_like(mean[:, :1], sum(Z_RANGE) / 2)], 1
    )
    rows, cols = PILLARS.shape
    height = Z_RANGE[1] - Z_RANGE[0]
    size = xyz.new_tensor([PILLARS.cell_size, PILLARS.cell_size, height])
    span = size * xyz.new_tensor([cols, rows, 1])
    low = xyz.new_tensor([PILLARS.x_min, PILLARS.y_min, Z_RANGE[0]])
    place, reflectance = (xyz - low) / span - 0.5, points[:, 3:] - 0.5
    return torch.cat(
        [
            place,
            reflectance,
            (xyz - mean[pillar]) / (2 * size),
            (xyz - middle[pillar]) / size,
        ],
        1,
    )


def _read_encoder(path: Path) -> tuple[Float[Tensor, "10 64"], Float[Tensor, "64"]]:
    try:
        with np.load(path) as arrays:
            weight, bias = arrays["W"], arrays["B"]
    except (OSError, KeyError, ValueError) as error:
        raise TeacherError(
            f"cannot read {path} ({error!r}); expected the pillar encoder's W and B: copy it again"
        ) from error
    expected = (POINT_FEATURES, CHANNELS), (CHANNELS,)
    if (weight.shape, bias.shape) != expected:
        raise TeacherError(
            f"{path} has W {weight.shape} and B {bias.shape}; expected {expected[0]} and "
            f"{expected[1]}: it is another network's"
        )
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()


def _read_backbone(path: Path) -> list[OnnxNode]:
    nodes = read_onnx(path)
    found = tuple(node.operator for node in nodes)
    if found != OPERATORS:
        raise TeacherError(
            f"{path} has the operators {' '.join(found)}; expected {' '.join(OPERATORS)}: it is "
            "another network's"
        )
    return nodes


def _merging(nodes: Iterator[OnnxNode]) -> tuple[Saturating, Saturating]:
    """A transposed convolution up, and the one after its result is joined to a finer map."""
    up, join = next(nodes), next(nodes)
    return _layer(up, join), _layer(next(nodes))


def _layer(node: OnnxNode, after: OnnxNode | None = None) -> Saturating:
    """A convolution, its results multiplied by what the operator after it multiplies by."""
    weight, bias = (torch.tensor(array).float() for array in node.constants.values())
    attributes = node.attributes
    scale = _scale(after) / 2.0 ** torch.tensor(attributes["offset"]).float()
    # Weights are stored (out, height, width, in).
    weight = weight.permute(0, 3, 1, 2) * scale.view(-1, 1, 1, 1)
    bias = bias * 2.0 ** torch.tensor(attributes["bias_offset"]).float() * scale
    kernel, stride, padding = (
        _pair(attributes[name]) for name in ("kernel_size", "stride", "padding")
    )
    kind = nn.ConvTranspose2d if node.operator == "ConvTranspose" else nn.Conv2d
    convolution = kind(weight.shape[1], weight.shape[0], kernel, stride, padding)
    if node.operator == "ConvTranspose":
        # Stored as the kernel of the convolution that does the same: turned by half a turn.
        weight = weight.flip(2, 3).transpose(0, 1)
    convolution.load_state_dict({"weight": weight, "bias": bias})
    low, high = UNSIGNED if attributes.get("nonlinear") == (1,) else SIGNED
    return Saturating(convolution, (low * _scale(after), high * _scale(after)))


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    down, across = values
    return down, across


def _scale(after: OnnxNode | None) -> float:
    if after is None:
        return 1.0
    if after.operator == "Concat":
        # The coarser map is the first of two; the finer one is joined as it is.
        return after.attributes["input_scale"][0] / 2.0 ** after.attributes["input_offset"][0]
    return float(after.constants[after.inputs[1]])
