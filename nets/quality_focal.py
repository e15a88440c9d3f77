"""The quality focal loss: classes against probabilities (Li et al., Generalized Focal Loss)."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def quality_focal(logit: Float[Tensor, "*n"], target: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Cross entropy times the squared gap of the probabilities, each cell and class by itself."""
    entropy = F.binary_cross_entropy_with_logits(logit, target, reduction="none")
    return entropy * (target - logit.sigmoid()).square()
