"""Bring your own teacher: a PointPillars trained on KITTI, for a student with other anchors.

    python cli.py dump-teacher STUDENT.toml --out store --methods stereodistill \
        --teacher examples.kitti_pointpillars:pointpillars --checkpoint FOLDER

``FOLDER`` holds the weights (``examples/pointpillars_net.py``). Its pillar encoder was refitted
from recorded activations: say so wherever its numbers are quoted.

The network sees the Velodyne frame, has its own range and cells of 0.64 m; students see the
pseudo-LiDAR frame ("ego") and have anchors of their own. So each of these is told what the network
says in the same slot (class, rotation) of the cell nearest to it: ``onto_anchors``. Boxes are
absolute, hence they do not suffer from the distance.

Axes: B frames, N the student's anchors.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from examples.pointpillars_net import BACKBONE_FILE, ENCODER_FILE, PILLARS, STRIDE, PointPillars
from frames.anchor_assign import anchor_table
from frames.anchor_code import decode_at_anchors
from frames.anchors import BOX_CODE, AnchorConfig
from frames.augment import BevAugment
from frames.boxes import YAW, BoxBatch
from frames.detection_classes import KITTI_CLASSES
from frames.detections import Detections
from frames.frame import Frame
from frames.geometry import SE3
from frames.grid import BEVGrid
from frames.loading import load_points
from nets.anchor_decode import AnchorDecodeConfig, decode
from nets.anchor_head import AnchorMaps
from nets.anchor_loss import directed, direction
from store.fingerprint import TeacherIdentity
from store.plan import TeacherShapes
from store.schema import Target
from teacher_dump.anchor_answers import answers_at_anchors
from teacher_dump.errors import TeacherError
from teacher_dump.protocol import AnchorOutput, TeacherInfo, TeacherOutput

# The student's: LIGA-Stereo's on KITTI, and those of configs/demo_kitti_student.toml.
ANCHORS = AnchorConfig()
DEMO_ANCHORS = AnchorConfig(grid=BEVGrid(x_min=2.0, y_min=-16.0, cell_size=0.4, shape=(80, 80)))
# OpenPCDet, pointpillar.yaml: the same sizes and rotations, cells of four by four pillars.
OWN_ANCHORS = AnchorConfig(
    grid=BEVGrid(
        x_min=PILLARS.x_min,
        y_min=PILLARS.y_min,
        cell_size=STRIDE * PILLARS.cell_size,
        shape=(PILLARS.shape[0] // STRIDE, PILLARS.shape[1] // STRIDE),
    )
)
# OpenPCDet, pointpillar.yaml: SCORE_THRESH, NMS_THRESH.
DECODE = AnchorDecodeConfig(score_threshold=0.1, overlap=0.01)
# Lower than any logit of the network, whose bytes end at -128 times 0.069.
NOTHING = -10.0


def pointpillars(checkpoint: Path | None, device: torch.device) -> "PointPillarsTeacher":
    """What ``--teacher`` names, for a student of LIGA-Stereo's size.

    Args:
        checkpoint: Folder that holds both files of weights.
        device: To run on.

    Raises:
        TeacherError: No folder was given, or a file is not as it should be.
    """
    return PointPillarsTeacher(checkpoint, device, ANCHORS)


def demo_pointpillars(checkpoint: Path | None, device: torch.device) -> "PointPillarsTeacher":
    """The same for the demo's student, whose anchors are fewer."""
    return PointPillarsTeacher(checkpoint, device, DEMO_ANCHORS)


class PointPillarsTeacher:
    """Fulfils ``teacher_dump.protocol.Teacher``.

    Args:
        folder: Holds both files of weights.
        device: To run on.
        anchors: Of the student; sizes and rotations are the network's.

    Raises:
        TeacherError: No folder was given, or a file is not as it should be.
    """

    def __init__(self, folder: Path | None, device: torch.device, anchors: AnchorConfig) -> None:
        if folder is None:
            raise TeacherError(
                "this teacher has weights, and none were given; expected --checkpoint FOLDER, with "
                f"{BACKBONE_FILE} and {ENCODER_FILE} in it"
            )
        self.device, self.anchors = device, anchors
        self.network = PointPillars(folder).to(device).eval()
        self.own_anchors = OWN_ANCHORS.boxes().to(device)
        weights = b"".join((folder / name).read_bytes() for name in (BACKBONE_FILE, ENCODER_FILE))
        self.info = TeacherInfo(
            identity=TeacherIdentity(
                name="kitti_pointpillars",
                kind="lidar",
                checkpoint_sha256=hashlib.sha256(weights).hexdigest(),
                config={
                    "pillar_encoder": "refitted from recorded activations",
                    "own_anchors": OWN_ANCHORS.model_dump(mode="json"),
                },
            ),
            shapes=TeacherShapes(
                bev_low=0,
                bev_high=0,
                classes=len(KITTI_CLASSES),
                tasks=0,
                grid=anchors.grid,
                further={Target.ANCHOR_LOGIT: anchors.per_cell * len(KITTI_CLASSES)},
            ),
            classes=KITTI_CLASSES,
            sweeps=1,
            anchors=anchors,
        )

    def __call__(
        self, frames: Sequence[Frame], boxes: BoxBatch, augments: Sequence[BevAugment]
    ) -> TeacherOutput:
        """What it says at the student's anchors; no maps."""
        maps = self._run(frames, augments)
        own = AnchorOutput(
            logit=maps.logit,
            box=decode_at_anchors(maps.code, self.own_anchors.expand_as(maps.code)),
            direction=maps.direction.argmax(-1),
        )
        poses = [frame.sweeps[0].ego_from_lidar for frame in frames]
        anchors = onto_anchors(own, OWN_ANCHORS, self.anchors, poses)
        answers = answers_at_anchors(anchors, boxes, self.anchors)
        return TeacherOutput(
            maps={},
            boxes=answers.boxes,
            scores=answers.scores,
            labels=answers.labels,
            answered=answers.answered,
            anchors=anchors,
        )

    @torch.inference_mode()
    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """Its own detections, from its own anchors."""
        maps = self._run(frames, [BevAugment.identity()] * len(frames))
        found = decode(maps, self.own_anchors, DECODE)
        return [
            Detections(
                moved(one.boxes, frame.sweeps[0].ego_from_lidar), one.labels, one.scores
            ).cpu()
            for one, frame in zip(found, frames, strict=True)
        ]

    def _run(self, frames: Sequence[Frame], augments: Sequence[BevAugment]) -> AnchorMaps:
        clouds = [
            velodyne_points(frame, augment).to(self.device)
            for frame, augment in zip(frames, augments, strict=True)
        ]
        maps: AnchorMaps = self.network(clouds)
        return maps


def velodyne_points(frame: Frame, augment: BevAugment) -> Float[Tensor, "n 4"]:
    """A frame's points as the network knows them: x y z of the Velodyne frame, and reflectance.

    Points are augmented in the ego frame; the sensor stays where it is.
    """
    points = augment.points(load_points(frame, min_distance=0.0))
    lidar_from_ego = frame.sweeps[0].ego_from_lidar.inverse()
    return torch.cat([_applied(points[:, :3], lidar_from_ego), points[:, 3:4]], 1)


def moved(boxes: Float[Tensor, "*n d"], ego_from_lidar: SE3) -> Float[Tensor, "*n d"]:
    """Boxes of the Velodyne frame, seen from the ego frame: still upright, turned by its yaw."""
    centre, yaw = _applied(boxes[..., :3], ego_from_lidar), boxes[..., 6:7] + ego_from_lidar.yaw
    return torch.cat([centre, boxes[..., 3:6], yaw, boxes[..., 7:]], -1)


def onto_anchors(
    said: AnchorOutput, own: AnchorConfig, wanted: AnchorConfig, poses: Sequence[SE3]
) -> AnchorOutput:
    """What is said at anchors of the Velodyne frame, told to anchors of the ego frame.

    Each takes what its slot says in the nearest cell. Beyond the outermost cells it is told its
    own box, and that nothing is there.

    Args:
        said: At the anchors ``own``; boxes in the Velodyne frame.
        own: Of the network.
        wanted: Of the student; the same classes and rotations.
        poses: ``ego_from_lidar`` of each frame.
    """
    table = anchor_table(wanted).to(said.box)
    logit, box, half_turn = [], [], []
    for b, pose in enumerate(poses):
        index, inside = nearest_anchors(own, wanted, pose)
        index, inside = index.to(table.device), inside.to(table.device)
        theirs = said.box[b, index]
        heading = directed(theirs[:, YAW], said.direction[b, index]) + pose.yaw
        logit.append(said.logit[b, index].where(inside[:, None], NOTHING))
        box.append(moved(theirs, pose).where(inside[:, None], table))
        half_turn.append(direction(heading.where(inside, table[:, YAW])))
    return AnchorOutput(
        logit=torch.stack(logit), box=torch.stack(box), direction=torch.stack(half_turn)
    )


def nearest_anchors(
    own: AnchorConfig, wanted: AnchorConfig, ego_from_lidar: SE3
) -> tuple[Int64[Tensor, " n"], Bool[Tensor, " n"]]:
    """For each wanted anchor, the index of the nearest own one of its slot, and whether in range.

    The range ends half a cell beyond the outermost anchors.
    """
    assert own.classes == wanted.classes, "slots of the same classes"
    assert own.rotations == wanted.rotations, "slots of the same rotations"
    rows, cols = own.grid.shape
    lattice = anchor_table(own).view(rows, cols, own.per_cell, BOX_CODE)
    place = _applied(anchor_table(wanted)[:, :3], ego_from_lidar.inverse())
    col, in_cols = _nearest(place[:, 0], lattice[0, :, 0, 0])
    row, in_rows = _nearest(place[:, 1], lattice[:, 0, 0, 1])
    slot = torch.arange(len(place)) % own.per_cell
    return (row * cols + col) * own.per_cell + slot, in_cols & in_rows


def _applied(points: Float[Tensor, "*n 3"], pose: SE3) -> Float[Tensor, "*n 3"]:
    rotation = torch.from_numpy(pose.rotation).to(points.device)
    translation = torch.from_numpy(pose.translation).to(points.device)
    return (points.double() @ rotation.mT + translation).to(points)


def _nearest(
    values: Float[Tensor, " n"], line: Float[Tensor, " k"]
) -> tuple[Int64[Tensor, " n"], Bool[Tensor, " n"]]:
    """Index of the nearest of evenly spaced places, and whether it is within half a step."""
    index = ((values - line[0]) / (line[1] - line[0])).round().long()
    return index.clamp(0, len(line) - 1), (index >= 0) & (index < len(line))
