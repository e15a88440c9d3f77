"""spconv, imported once, with its warnings silenced and its CPU algorithm chosen."""

import logging
import warnings

import torch

from nets.voxel_encoder_config import Algorithm

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", r"`torch\.cuda\.amp\.custom_(fwd|bwd)", FutureWarning)
    warnings.filterwarnings("ignore", r"'locale\.getdefaultlocale'", DeprecationWarning)
    from spconv import pytorch as spconv
    from spconv.core import ConvAlgo

# spconv asks torch.fx whether it is traced, in a way that newer torch logs a warning about.
logging.getLogger("torch.fx._symbolic_trace").addFilter(
    lambda record: "is_fx_tracing" not in record.getMessage()
)

__all__ = ["conv_algorithm", "spconv"]


def conv_algorithm(algorithm: Algorithm) -> ConvAlgo | None:
    """Spconv's ``algo`` argument; "auto" is "native" where there is no CUDA device.

    Only "native" runs on a CPU; None lets spconv take its implicit GEMM, which needs CUDA.
    """
    if algorithm == "native" or (algorithm == "auto" and not torch.cuda.is_available()):
        return ConvAlgo.Native
    return None
