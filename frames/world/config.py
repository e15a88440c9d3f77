"""What a procedural world is made of."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

VERSION = "v1.0-world"
SPLITS = ("world_train", "world_val")


class WorldConfig(BaseModel):
    """Everything that decides a world's bytes.

    Attributes:
        train_scenes: Scenes of split ``world_train``.
        val_scenes: Scenes of split ``world_val``.
        frames_per_scene: Key frames of a scene, 2 Hz; after more a bent street would meet itself.
        sweeps_per_key: LiDAR sweeps without annotation between two key frames.
        seed: Another seed is another world.
        image_size: (height, width) of every image, pixels.
        beams: LiDAR rows, spread evenly over -30..+10 degrees.
        azimuth_steps: LiDAR columns of one turn.
        lidar_range: Objects are annotated up to this distance from the ego origin, metres.
        objects_per_frame: Range from which a scene draws how many objects to aim at within
            ``lidar_range``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

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
    def _check(self) -> "WorldConfig":
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


def version_folder(root: Path) -> Path:
    """Where the tables of a world under ``root`` lie."""
    return root / VERSION
