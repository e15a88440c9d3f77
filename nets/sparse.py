"""spconv, imported once, with its warnings silenced and the algorithm that fits a device."""

import logging
import warnings

import torch
from torch import nn

from nets.voxel_encoder_config import Algorithm

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", r"`torch\.cuda\.amp\.custom_(fwd|bwd)", FutureWarning)
    warnings.filterwarnings("ignore", r"'locale\.getdefaultlocale'", DeprecationWarning)
    from spconv import pytorch as spconv
    from spconv.core import ConvAlgo
    from spconv.pytorch.conv import SparseConvolution

# spconv asks torch.fx whether it is traced, in a way that newer torch logs a warning about.
logging.getLogger("torch.fx._symbolic_trace").addFilter(
    lambda record: "is_fx_tracing" not in record.getMessage()
)

__all__ = ["set_algorithm", "spconv"]


def set_algorithm(network: nn.Module, algorithm: Algorithm, device: torch.device) -> None:
    """Give every sparse convolution the algorithm that runs on the device.

    Only the native one runs on a CPU; "auto" is implicit GEMM, spconv's own choice, on CUDA.
    """
    native = algorithm == "native" or device.type == "cpu"
    for module in network.modules():
        if isinstance(module, SparseConvolution):
            module.algo = ConvAlgo.Native if native else ConvAlgo.MaskImplicitGemm
