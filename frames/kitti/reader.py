"""The KITTI reader: the tree of the object benchmark -> frames.

A KITTI frame is a ``Frame`` whose ego frame is pseudo-LiDAR (the rectified camera frame, only
turned), so that teachers, dumps and caches take it as it is: a projection matrix is K [I | t]
exactly, which is what a ``Camera`` holds, and the Velodyne file is the frame's one sweep. The
benchmark's frames are single: without time, pose (identity) or neighbours, the folder as their
scene. All labels, also those that are no ground truth, are in ``KittiFrame.objects`` for scoring.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from frames.errors import DataError
from frames.frame import Camera, Frame, Sweep
from frames.geometry import SE3
from frames.kitti.calibration import Calibration, read_calibration
from frames.kitti.config import KittiCamera, KittiConfig
from frames.kitti.ground_truth import ground_truth
from frames.kitti.labels import KittiObject, read_objects

TRAINING, TESTING = "training", "testing"
# The one list of ImageSets whose frames lie in the testing folder.
TEST_SPLIT = "test"
VIEW: KittiCamera = "image_2"
CAMERA_INDEX: dict[KittiCamera, int] = {"image_2": 2, "image_3": 3}
LIDAR_FLOATS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class KittiFrame(Frame):
    """One frame of KITTI's object benchmark. "Ego" is the pseudo-LiDAR frame.

    Attributes:
        view: The left camera (P2), whether or not its image is read or here: labels and results
            have their 2D boxes in it.
        objects: All labels, in their file's order; empty in testing, or if they are hidden.
    """

    view: Camera
    objects: tuple[KittiObject, ...]

    @property
    def labelled(self) -> bool:
        """Whether there are labels to score against; the testing folder has none."""
        return self.scene != TESTING and not self.unlabelled


def read_frames(config: KittiConfig, limit: int | None = None) -> list[KittiFrame]:
    """The frames of a split, in its order; see ``iterate_frames``.

    Args:
        config: What to read.
        limit: Read only the first so many frames.

    Raises:
        DataError: A file is missing or damaged, or the split is unknown.
    """
    return list(itertools.islice(iterate_frames(config), limit))


def iterate_frames(config: KittiConfig) -> Iterator[KittiFrame]:
    """The frames of a split, each read when it is asked for.

    Reads calibration, labels and the images' sizes, neither points nor pixels.

    Raises:
        DataError: A file is missing or damaged, or the split is unknown.
    """
    folder, tokens = tokens_of_split(config)
    return (_frame(config, folder, token) for token in tokens)


def tokens_of_split(config: KittiConfig) -> tuple[Path, list[str]]:
    """The folder of a split and its tokens, in the order of its list.

    Raises:
        DataError: The tree has no such split, or its list is empty or damaged.
    """
    root, split = config.root, config.split
    if not root.is_dir():
        raise DataError(f"no KITTI folder at {root}; set root to where the tree lies")
    listed = root / "ImageSets" / f"{split}.txt"
    if listed.is_file():
        tokens = listed_tokens(listed)
        folder = root / (TESTING if split == TEST_SPLIT else TRAINING)
    else:
        folder = root / (split if split in (TRAINING, TESTING) else TRAINING)
        found = sorted(path.stem for path in (folder / "calib").glob("*.txt"))
        tokens = found if split == folder.name else [name for name in found if name == split]
    if not tokens:
        lists = sorted(path.stem for path in (root / "ImageSets").glob("*.txt"))
        raise DataError(
            f"{root} has no frames of split {split!r}: neither {listed} with tokens nor "
            f"calibrations in {folder / 'calib'}. It has the lists {lists or 'none'}; name one of "
            f"these, {TRAINING}, {TESTING} or the token of a training frame"
        )
    return folder, tokens


def listed_tokens(path: Path) -> list[str]:
    """The frames that a list of ``ImageSets`` names, in its order.

    Raises:
        DataError: It cannot be read, or names a frame twice.
    """
    try:
        tokens = path.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read {path} ({error}); give a list of frames, a token a line"
        ) from error
    if again := [token for token, count in Counter(tokens).items() if count > 1]:
        raise DataError(
            f"{path} names frames more than once ({len(again)}: {', '.join(again[:3])}); "
            "name each frame once"
        )
    return tokens


def _frame(config: KittiConfig, folder: Path, token: str) -> KittiFrame:
    calibration = read_calibration(folder / "calib" / f"{token}.txt")
    score = config.hidden_score(token)
    blind = folder.name == TESTING or score is not None
    objects = () if blind else read_objects(folder / "label_2" / f"{token}.txt")
    cameras = {name: _camera(calibration, folder, name, token) for name in config.cameras}
    view = cameras.get(VIEW) or _unread_view(config, calibration, folder, token)
    return KittiFrame(
        token=token,
        scene=folder.name,
        timestamp_us=0,
        global_from_ego=SE3.identity(),
        cameras=tuple(cameras.values()),
        sweeps=(
            Sweep(
                path=_lidar_path(folder / config.lidar, token),
                ego_from_lidar=calibration.ego_from_lidar,
                time_lag=0.0,
                floats=LIDAR_FLOATS,
                seen_by=view if config.in_view else None,
            ),
        ),
        boxes=ground_truth(objects, config),
        prev="",
        next="",
        teacher_score=score,
        view=view,
        objects=objects,
    )


def _camera(calibration: Calibration, folder: Path, name: KittiCamera, token: str) -> Camera:
    path = _image_path(folder, name, token)
    if not path.is_file():
        raise DataError(
            f"no file {path}; unpack data_object_{name}.zip, choose a split whose frames have it, "
            f"or leave {name} out of cameras"
        )
    return calibration.camera(CAMERA_INDEX[name], path, _image_size(path))


def _unread_view(config: KittiConfig, calibration: Calibration, folder: Path, token: str) -> Camera:
    """The left camera of a frame whose left image is not read."""
    path = _image_path(folder, VIEW, token)
    size = _image_size(path) if path.is_file() else config.image_size
    if size is None:
        raise DataError(
            f"no file {path}, so the size of the left image is not known; unpack "
            "data_object_image_2.zip, or set image_size to its (height, width)"
        )
    return calibration.camera(CAMERA_INDEX[VIEW], path, size)


def _image_path(folder: Path, name: KittiCamera, token: str) -> Path:
    return folder / name / f"{token}.png"


def _lidar_path(folder: Path, token: str) -> Path:
    plain, zipped = folder / f"{token}.bin", folder / f"{token}.bin.gz"
    return zipped if zipped.is_file() and not plain.is_file() else plain


def _image_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError) as error:  # Pillow's own two for a damaged file
        raise DataError(f"cannot read {path} ({error}); unpack that image again") from error
