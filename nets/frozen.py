"""Networks that another one learns from or through, and that must not change meanwhile."""

from torch import nn


class Frozen(nn.Module):
    """Never leaves eval mode, whatever a trainer does to the module that it is a part of."""

    def train(self, mode: bool = True) -> "Frozen":  # noqa: ARG002, FBT001, FBT002
        """Stay in eval mode."""
        return super().train(mode=False)
