"""The data sets, behind one config and one reader: a run says ``dataset = "kitti"``."""

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from frames import nuscenes
from frames.frame import Frame
from frames.kitti import reader as kitti
from frames.kitti.config import KittiConfig
from frames.nuscenes import NuScenesConfig


def _dataset(values: Any) -> Any:
    """What the config says it is; nuScenes where it says nothing, as the first runs did."""
    if isinstance(values, dict):
        return values.get("dataset", "nuscenes")
    return getattr(values, "dataset", None)


DatasetConfig = Annotated[
    Annotated[NuScenesConfig, Tag("nuscenes")] | Annotated[KittiConfig, Tag("kitti")],
    Discriminator(_dataset),
]


def check_classes(network: tuple[str, ...], data: NuScenesConfig | KittiConfig) -> None:
    """Refuse a network that detects other classes than the data have.

    Raises:
        ValueError: They differ, or are in another order.
    """
    if network != data.classes:
        raise ValueError(
            f"the network detects {', '.join(network)}; {data.dataset} gives "
            f"{', '.join(data.classes)}: change data.dataset, data.classes or the network"
        )


def read_frames(config: NuScenesConfig | KittiConfig, limit: int | None = None) -> list[Frame]:
    """The frames of a split of either data set; see the readers.

    Args:
        config: What to read.
        limit: Read only the first so many frames.

    Raises:
        DataError: What is asked for is not there, or damaged.
    """
    if isinstance(config, KittiConfig):
        return [*kitti.read_frames(config, limit)]
    return nuscenes.read_frames(config, limit)
