"""Adapters of a student's channels to a teacher's: trained with the student, then dropped."""

from collections.abc import Callable

from torch import nn


def row_adapter(kind: str, in_channels: int, out_channels: int) -> nn.Module:
    """On sampled rows a linear layer is the 1x1 convolution, at a fraction of the cells."""
    if kind == "mlp":
        return nn.Sequential(
            nn.Linear(in_channels, out_channels), nn.ReLU(), nn.Linear(out_channels, out_channels)
        )
    if kind == "where_needed" and in_channels == out_channels:
        return nn.Identity()
    return nn.Linear(in_channels, out_channels)


def map_adapter(
    kind: str,
    in_channels: int,
    out_channels: int,
    *,
    bias: bool,
    norm: Callable[[int], nn.BatchNorm2d],
) -> nn.Module:
    """On whole maps; ``bias`` and ``norm`` are of ``conv3x3``, each paper's own."""
    if kind == "none":
        return nn.Identity()
    if kind == "conv1x1":
        return nn.Conv2d(in_channels, out_channels, 1)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias), norm(out_channels), nn.ReLU()
    )
