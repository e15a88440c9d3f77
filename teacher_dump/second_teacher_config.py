"""SECOND as a teacher: the network, its loss, its detections."""

from typing import Literal

from nets.anchor_decode import AnchorDecodeConfig
from nets.anchor_loss import AnchorLossConfig
from nets.second_config import SecondConfig


class SecondTeacherConfig(SecondConfig):
    """The anchor teacher, chosen by ``network = "second"``.

    Attributes:
        network: Tells teachers apart in a TOML.
        loss: Weights of the detection loss.
        decode: Maps to detections.
    """

    network: Literal["second"] = "second"
    loss: AnchorLossConfig = AnchorLossConfig()
    decode: AnchorDecodeConfig = AnchorDecodeConfig()
