"""The student's features in the teacher's channels."""

from torch import nn


def projector(kind: str, in_channels: int, out_channels: int) -> nn.Module:
    """On sampled rows a linear layer is the 1x1 convolution, at a fraction of the cells."""
    if kind == "mlp":
        return nn.Sequential(
            nn.Linear(in_channels, out_channels), nn.ReLU(), nn.Linear(out_channels, out_channels)
        )
    if kind == "where_needed" and in_channels == out_channels:
        return nn.Identity()
    return nn.Linear(in_channels, out_channels)
