"""Gradient shares: how hard each term pulls on the student's BEV features, and holding it there."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from student_train.config import BalanceConfig


class GradientBalance(nn.Module):
    """Measures ratios of gradient norms and turns wanted ratios into factors.

    A term's share is |d term / d features| / |d detection / d features|. It moves by orders of
    magnitude during training, so a weight set by habit is either nothing or too much.

    Args:
        wanted: Wanted share by term name, for the terms that have one.
        config: When to measure and how to smooth.
    """

    smoothed: Tensor

    def __init__(self, wanted: Mapping[str, float], config: BalanceConfig) -> None:
        super().__init__()
        self.config = config
        self.wanted = dict(wanted)
        # Measured share of each wanted term; negative until it has been measured.
        self.register_buffer("smoothed", -torch.ones(len(wanted)))
        self._asked_at = -1

    def due(self, step: int, names: set[str]) -> bool:
        """Whether to measure: every so many steps, and when a term appears for the first time.

        Asked once a batch; of the batches of a step the first is measured.
        """
        again, self._asked_at = step == self._asked_at, step
        new = [
            name
            for k, name in enumerate(self.wanted)
            if name in names and float(self.smoothed[k]) < 0
        ]
        return bool(new) or (step % self.config.every == 0 and not again)

    def measure(
        self,
        features: Float[Tensor, "b c h w"],
        detection: Float[Tensor, ""],
        terms: Mapping[str, Float[Tensor, ""]],
    ) -> dict[str, Float[Tensor, ""]]:
        """Share of every term that reaches the map, before its factor; remembers the wanted ones.

        A term on another map alone has none: 0 would say that it does not pull.
        """
        reference = _gradient_norm(detection, features)
        assert reference is not None, "the head reads what is behind this map"
        norms = {name: _gradient_norm(term, features) for name, term in terms.items()}
        least = reference.clamp(min=1e-12)
        shares = {name: norm / least for name, norm in norms.items() if norm is not None}
        for k, name in enumerate(self.wanted):
            # No gradient says nothing of the term's size: it is measured again.
            if name in shares and shares[name] > 0:
                old = self.smoothed[k]
                keep = self.config.momentum if float(old) >= 0 else 0.0
                self.smoothed[k] = keep * old + (1 - keep) * shares[name]
        return shares

    def factor(self, name: str, unknown: float = 1.0) -> float:
        """What to multiply a term with; 1 for a term without a wanted share.

        Args:
            name: Of the term.
            unknown: The factor while the share has not been measured.
        """
        if name not in self.wanted:
            return 1.0
        measured = float(self.smoothed[list(self.wanted).index(name)])
        if measured < 0:
            return unknown
        # A term whose gradient has all but vanished is not blown up.
        return self.wanted[name] / max(measured, 1e-3)


def _gradient_norm(term: Tensor, features: Tensor) -> Tensor | None:
    """None for a term that does not reach the features."""
    if not term.requires_grad:
        return term.new_zeros(())
    found: Sequence[Tensor | None] = torch.autograd.grad(
        term, features, retain_graph=True, allow_unused=True
    )
    return None if found[0] is None else torch.linalg.vector_norm(found[0].float())
