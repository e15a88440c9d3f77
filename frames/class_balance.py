"""CBGS: as many frames are drawn for a rare class as for a common one.

Zhu et al., Class-balanced Grouping and Sampling for Point Cloud 3D Object Detection, 2019; the
draws are those of mmdet3d's ``CBGSDataset``: made once, for the whole run.
"""

from collections.abc import Sequence

import numpy as np

from frames.errors import DataError
from frames.frame import Frame


def class_balanced(frames: Sequence[Frame], seed: int) -> list[Frame]:
    """Frames with repetitions: as many are drawn for each class, among those that show it.

    In all there are as many as pairs of a frame and a class that it shows, less what is rounded
    down. A frame without boxes is never drawn, and where one class is in nearly all frames many of
    its frames are not either. A common class still shows in more of them than a rare one.

    Args:
        frames: Of a split.
        seed: Of the draws.

    Raises:
        DataError: No frame has a box.
    """
    shown = [set(frame.boxes.labels.tolist()) for frame in frames]
    classes = sorted(set().union(*shown))
    if not classes:
        raise DataError(f"fit.class_balanced: none of {len(frames)} frames has a box; leave it out")
    each = sum(map(len, shown)) // len(classes)
    rng = np.random.default_rng(seed)
    drawn = [
        rng.choice([index for index, own in enumerate(shown) if label in own], each)
        for label in classes
    ]
    return [frames[index] for index in np.concatenate(drawn)]
