"""What a procedural world is made of, and which tree it is written as."""

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

VERSION = "v1.0-world"
SPLITS = ("world_train", "world_val")


# Calibration of KITTI's training frame 000107: focal length, principal point (u, v), pixels of an
# image of 375 x 1242.
KITTI_SIZE = (375, 1242)
KITTI_FOCAL, KITTI_PRINCIPAL = 721.5377, (609.5593, 172.8540)

Tree = Literal["nuscenes", "kitti"]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class StreetConfig(BaseModel):
    """What decides a world's bytes, whichever tree it is written as.

    Attributes:
        tree: Which data set's files.
        train_scenes: Scenes of split ``world_train``.
        val_scenes: Scenes of split ``world_val``.
        frames_per_scene: Key frames of a scene, 2 Hz; after more a bent street would meet itself.
        sweeps_per_key: LiDAR sweeps without annotation between two key frames.
        seed: Another seed is another world.
        image_size: (height, width) of every image, pixels.
        beams: LiDAR rows, spread evenly over -30..+10 degrees (KITTI: -24.8..+2).
        azimuth_steps: LiDAR columns of one turn.
        lidar_range: Objects are annotated up to this distance from the ego origin (KITTI: the
            left camera), metres.
        objects_per_frame: Range from which a scene draws how many objects to aim at within
            ``lidar_range``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tree: Tree
    train_scenes: Annotated[int, Field(ge=0)] = 30
    val_scenes: Annotated[int, Field(ge=0)] = 12
    frames_per_scene: Annotated[int, Field(ge=1, le=30)] = 20
    sweeps_per_key: Annotated[int, Field(ge=0, le=9)] = 1
    seed: Annotated[int, Field(ge=0)] = 0
    image_size: tuple[Annotated[int, Field(ge=16)], Annotated[int, Field(ge=16)]] = (96, 264)
    beams: Annotated[int, Field(ge=2)] = 32
    azimuth_steps: Annotated[int, Field(ge=36)] = 540
    lidar_range: Annotated[float, Field(ge=10, le=80)] = 40.0
    objects_per_frame: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(le=200)]] = (40, 58)

    @model_validator(mode="after")
    def _check(self) -> "StreetConfig":
        low, high = self.objects_per_frame
        if low > high:
            raise ValueError(f"objects_per_frame is ({low}, {high}); give (fewest, most)")
        if self.train_scenes + self.val_scenes == 0:
            raise ValueError(
                "a world of 0 train_scenes and 0 val_scenes holds nothing; ask for one"
            )
        return self

    def scene_names(self, split: str) -> list[str]:
        """Names of a split's scenes, in order."""
        count = {"world_train": self.train_scenes, "world_val": self.val_scenes}[split]
        return [f"{split.replace('_', '-')}-{index:04d}" for index in range(count)]


class WorldConfig(StreetConfig):
    """A world as a nuScenes tree: six cameras all around, sweeps between the key frames."""

    tree: Literal["nuscenes"] = "nuscenes"


class KittiWorldConfig(StreetConfig):
    """A world as a KITTI tree: a stereo pair and a LiDAR that look ahead, frame by frame.

    The cameras are rectified and level. Without ``focal`` and ``field`` they have KITTI's field
    of view, whatever the image's size.

    Attributes:
        sweeps_per_key: KITTI has none.
        focal: Focal length, pixels.
        field: Horizontal field of view instead, degrees.
        principal_point: (u, v) as shares of the image's width and height.
        baseline: Between the two cameras, metres.
        camera_height: Above the ground, metres.
        lidar_sector: Degrees about straight ahead that the LiDAR's files hold.
    """

    tree: Literal["kitti"] = "kitti"
    sweeps_per_key: Literal[0] = 0
    image_size: tuple[Annotated[int, Field(ge=16)], Annotated[int, Field(ge=16)]] = KITTI_SIZE
    beams: Annotated[int, Field(ge=2)] = 64
    azimuth_steps: Annotated[int, Field(ge=36)] = 2000
    lidar_range: Annotated[float, Field(ge=10, le=80)] = 70.0
    objects_per_frame: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(le=200)]] = (80, 110)
    focal: Positive | None = None
    field: Annotated[float, Field(gt=0, lt=180)] | None = None
    principal_point: tuple[Share, Share] = (
        KITTI_PRINCIPAL[0] / KITTI_SIZE[1],
        KITTI_PRINCIPAL[1] / KITTI_SIZE[0],
    )
    baseline: Positive = 0.54
    camera_height: Positive = 1.65
    lidar_sector: Annotated[float, Field(gt=0, le=360)] = 100.0

    @model_validator(mode="after")
    def _check_lens(self) -> "KittiWorldConfig":
        if self.focal is not None and self.field is not None:
            raise ValueError(
                f"focal {self.focal} and field {self.field} both say how wide the cameras look; "
                "give one of them"
            )
        return self

    @property
    def focal_length(self) -> float:
        """Of both cameras, pixels."""
        width = self.image_size[1]
        if self.field is not None:
            return width / 2 / math.tan(math.radians(self.field) / 2)
        return self.focal if self.focal is not None else KITTI_FOCAL * width / KITTI_SIZE[1]


class TreeChoice(BaseModel):
    """What of a world's TOML says which tree it is; nuScenes where it says nothing."""

    tree: Tree = "nuscenes"


WORLDS: dict[Tree, type[WorldConfig] | type[KittiWorldConfig]] = {
    "nuscenes": WorldConfig,
    "kitti": KittiWorldConfig,
}


def version_folder(root: Path) -> Path:
    """Where the tables of a world under ``root`` lie."""
    return root / VERSION
