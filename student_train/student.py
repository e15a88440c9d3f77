"""The multi-camera student, BEVDepth's shape: images, depth, lift-splat, BEV backbone, head."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from frames.grid import BEVGrid
from nets.bev_backbone import BEVBackbone, BEVBackboneConfig, BEVNeck
from nets.center_decode import CenterDecodeConfig
from nets.center_head import CenterHead, CenterHeadConfig
from nets.center_loss import CenterLossConfig
from nets.depth_net import DepthNet, DepthNetConfig
from nets.image_backbone import ImageBackbone, ImageBackboneConfig
from nets.view_transform import LiftSplat, LiftSplatConfig
from store.schema import Target
from student_train.methods.base import StudentMaps
