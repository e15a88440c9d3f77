"""The stereo student: LIGA-Stereo, which StereoDistill trains."""

from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from frames.anchors import AnchorConfig
from frames.boxes import CENTRE, BoxBatch
from frames.camera_view import project_by, projected_bboxes
from frames.detections import Detections
from frames.grid import BEVGrid
from nets.anchor_decode import AnchorDecodeConfig, decode
from nets.anchor_loss import AnchorLossConfig, detection_loss
from nets.atss import ImageObjects
from nets.aux_head_2d import AuxHead2D, AuxHead2DConfig
from nets.aux_loss_2d import AuxLoss2DConfig, image_loss
from nets.depth_volume import stereo_depth_loss
from nets.liga import LigaConfig, LigaStereo
from nets.stereo_backbone import STRIDE
from store.schema import Target
from student_train.methods.base import StudentMaps
from student_train.students.base import Student, StudentOutput
from student_train.students.stereo_input import StereoInput

# A quarter of the resolution, halved twice.
IMAGE_MULTIPLE = 16
# Of ImageNet's pixels, 0..255.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


class StereoStudentConfig(LigaConfig):
    """LIGA-Stereo; defaults are its KITTI configuration.

    Attributes:
        network: Tells students apart in a TOML.
        image_size: (height, width) that the network sees: KITTI's lower 320 rows, padded.
        image_scale: Pixels that it sees for one of the image.
        loss: Weights of the detection loss.
        decode: Maps to detections.
        depth_loss_weight: Weight of LiDAR depth supervision in training; 0 opens no LiDAR file.
        image_head: Of boxes in the left image, in training only; LIGA-Stereo has it, None leaves
            it out.
        image_loss: Weights of its loss.
    """

    network: Literal["liga"] = "liga"
    image_size: tuple[PositiveInt, PositiveInt] = (320, 1248)
    image_scale: PositiveFloat = 1.0
    loss: AnchorLossConfig = AnchorLossConfig()
    decode: AnchorDecodeConfig = AnchorDecodeConfig()
    depth_loss_weight: float = Field(1.0, ge=0)
    image_head: AuxHead2DConfig | None = None
    image_loss: AuxLoss2DConfig = AuxLoss2DConfig()

    @model_validator(mode="after")
    def _image_fits(self) -> "StereoStudentConfig":
        least = STRIDE * max(self.backbone.pools)
        if any(size % IMAGE_MULTIPLE or size < least for size in self.image_size):
            raise ValueError(
                f"image_size {self.image_size}: expected multiples of {IMAGE_MULTIPLE} pixels, at "
                f"least {least} for the largest of backbone.pools"
            )
        return self

    @property
    def grid(self) -> BEVGrid:
        """Of all BEV maps."""
        return self.anchors.grid

    @property
    def anchors(self) -> AnchorConfig:
        """Of its head."""
        return self.bev.anchors

    @property
    def channels(self) -> Mapping[Target, int]:
        """Channels of the BEV maps that methods may read."""
        return {
            Target.BEV_LOW: self.voxels.out_channels,
            Target.BEV_HIGH: self.bev.head.channels,
        }

    @property
    def classes(self) -> tuple[str, ...]:
        """What it detects, in the order of labels."""
        return tuple(kind.name for kind in self.anchors.classes)

    def without_pretraining(self) -> "StereoStudentConfig":
        """The same network: nothing of it is fetched."""
        return self


class StereoStudent(Student):
    """The stereo detector.

    ``bev_low`` is its 3D geometric volume, heights merged into channels; ``bev_high`` what the
    head reads.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: StereoStudentConfig) -> None:
        super().__init__()
        self.config = config
        self.network = LigaStereo(config)
        # After the network, whose initial weights must not depend on it.
        self.image_head = None
        if config.image_head is not None:
            self.image_head = AuxHead2D(
                config.image_head, config.backbone.semantic[1], len(config.classes)
            )
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, seen: StereoInput) -> StudentOutput:
        """See :class:`Student`."""
        left, right = self._normalised(seen).unbind(1)
        maps = self.network(left, right, seen.focal_baseline, seen.image_from_voxel)
        features = {Target.BEV_LOW: maps.volume, Target.BEV_HIGH: maps.bev.high}
        image = None
        if self.training and self.image_head is not None:
            image = self.image_head(maps.semantic)
        return StudentOutput(StudentMaps(features, maps.bev.anchors), maps.plane_logit, image)

    def detection_terms(self, output: StudentOutput, boxes: BoxBatch) -> dict[str, Tensor]:
        """See :class:`Student`."""
        table = self.network.bev.table
        return detection_loss(
            output.maps.anchors, boxes, self.config.anchors, table, self.config.loss
        )

    def auxiliary_terms(
        self, output: StudentOutput, seen: StereoInput, boxes: BoxBatch
    ) -> dict[str, Tensor]:
        """See :class:`Student`."""
        terms = {}
        if seen.depth is not None and output.depth_logit is not None:
            depth = stereo_depth_loss(output.depth_logit, seen.depth, self.config.depth.bins)
            terms["depth"] = self.config.depth_loss_weight * depth
        if output.image is not None:
            image = image_loss(output.image, image_objects(seen, boxes), self.config.image_loss)
            terms |= {f"image_{name}": term for name, term in image.items()}
        return terms

    def detections(self, output: StudentOutput) -> list[Detections]:
        """See :class:`Student`."""
        return decode(output.maps.anchors, self.network.bev.table, self.config.decode)

    def _normalised(self, seen: StereoInput) -> Float[Tensor, "b 2 3 h w"]:
        """ImageNet's statistics; the padding stays 0, as in LIGA-Stereo."""
        rows, cols = (torch.arange(n, device=seen.size.device) for n in seen.images.shape[3:])
        inside = (rows < seen.size[:, :1])[:, :, None] & (cols < seen.size[:, 1:])[:, None]
        return (seen.images - self.mean) / self.std * inside[:, None, None]


def image_objects(seen: StereoInput, boxes: BoxBatch) -> list[ImageObjects]:
    """The objects that are in each left image as the student sees it: cut, maybe mirrored.

    Their 2D boxes are hulls of the projected 3D boxes, as LIGA-Stereo's are
    (stereo_dataset_template.py), not the labels' own: so they stay right under the flip, in which
    another camera becomes the left one.
    """
    found = []
    for row, valid in enumerate(boxes.valid):
        values, labels = boxes.values[row, valid].double(), boxes.labels[row, valid]
        matrix = seen.image_from_voxel[row].double()
        hulls, visible = projected_bboxes(matrix, seen.size[row], values)
        centres, _ = project_by(matrix, values[:, CENTRE])
        found.append(
            ImageObjects(hulls[visible].float(), centres[visible].float(), labels[visible])
        )
    return found
