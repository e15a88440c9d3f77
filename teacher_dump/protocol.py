"""What a teacher must be able to do. Bring your own: ``--teacher package.module:factory``.

The factory is called as ``factory(checkpoint, device)`` with the path given by ``--checkpoint`` (or
None) and a torch device; it returns an object that fulfils :class:`Teacher`. Its output is written
to the cache as it comes: metres, radians, logits before any sigmoid, in the frame it was shown.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from frames.anchors import AnchorConfig
from frames.augment import BevAugment
from frames.boxes import BoxBatch
from frames.detections import Detections
from frames.frame import Frame
from store.fingerprint import TeacherIdentity
from store.plan import TeacherShapes
from store.schema import Target
from teacher_dump.errors import TeacherError


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorOutput:
    """What a teacher says at every anchor, in the order of ``frames/anchors.py``.

    Attributes:
        logit: Of each class, before the sigmoid.
        box: x y z l w h yaw, metres, gravity centre, the yaw before the direction classifier.
        direction: The half turn in which the heading lies (``nets/anchor_loss.py``), 0 or 1.
    """

    logit: Float[Tensor, "b n classes"]
    box: Float[Tensor, "b n 7"]
    direction: Int64[Tensor, "b n"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundBoxes:
    """What a teacher detects in one frame, ground truth unknown.

    Attributes:
        boxes: Best first, x y z l w h yaw vx vy, in the frame it was shown.
        scores: By which they are ordered, in [0, 1].
        probability: Of each class, after the sigmoid.
    """

    boxes: Float[Tensor, "n 9"]
    scores: Float[Tensor, " n"]
    probability: Float[Tensor, "n classes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherInfo:
    """Who the teacher is and what it gives.

    Attributes:
        identity: Name, modality, sha256 of its weights (64 hex digits), config: goes into the
            fingerprint.
        shapes: Channels and grid of its maps.
        classes: Class names in the order of its heatmap channels.
        sweeps: LiDAR sweeps it reads per frame.
        anchors: Those it speaks of; None without an anchor head.
        label_encoder: sha256 of the checkpoint whose maps it gives beside its own.
    """

    identity: TeacherIdentity
    shapes: TeacherShapes
    classes: tuple[str, ...]
    sweeps: int
    anchors: AnchorConfig | None = None
    label_encoder: str | None = None

    @property
    def decides(self) -> dict[str, Any]:
        """The fields of a cache's fingerprint that are the teacher's."""
        return {
            "teacher": self.identity,
            "grid": self.shapes.grid,
            "classes": self.classes,
            "label_encoder": self.label_encoder,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherOutput:
    """What a teacher says of a batch of frames.

    Attributes:
        maps: BEV maps (b, c, H, W) on its grid, for each target that is a map.
        boxes: Its box for each ground-truth box given; how it finds it is its own business (a
            centre head reads its maps at the centre cell).
        scores: Its probability of that ground-truth box's class.
        labels: Its most probable class there.
        answered: False where it has no box, and on padding.
        codes: What its head says at the centre cell of each ground-truth box, for that box's class
            (``frames/box_code.py``), as it comes: sine and cosine need not be of unit length. None:
            the codes of ``boxes`` stand for it.
        anchors: At every anchor of ``info.anchors``.
        found: Its detections in each frame, at most ``info.shapes.detections`` of one; called only
            where a method reads them.
    """

    maps: Mapping[Target, Float[Tensor, "b _ h w"]]
    boxes: Float[Tensor, "b m 9"]
    scores: Float[Tensor, "b m"]
    labels: Tensor
    answered: Bool[Tensor, "b m"]
    codes: Float[Tensor, "b m _"] | None = None
    anchors: AnchorOutput | None = None
    found: Callable[[], Sequence[FoundBoxes]] | None = None


@runtime_checkable
class Teacher(Protocol):
    """A frozen detector in eval mode."""

    info: TeacherInfo

    def __call__(
        self, frames: Sequence[Frame], boxes: BoxBatch, augments: Sequence[BevAugment]
    ) -> TeacherOutput:
        """Run on frames, each in its augmented BEV frame.

        Args:
            frames: As the data set has them; a frame may come several times.
            boxes: Their ground truth, augmented already.
            augments: One a frame, to be applied to what the teacher reads: ``augment.points`` to
                points, ``augment.matrix4`` to the geometry of cameras. The identity unless the
                dump stores several views.
        """
        ...

    def detect(self, frames: Sequence[Frame]) -> list[Detections]:
        """Decoded boxes of each frame, for scoring."""
        ...


def load_teacher(factory: str, checkpoint: Path | None, device: torch.device) -> Teacher:
    """Build a teacher from ``package.module:factory``.

    Raises:
        TeacherError: No such module or name, or the result does not fulfil the protocol.
    """
    module_name, _, name = factory.partition(":")
    if not (module_name and name):
        raise TeacherError(f"--teacher {factory!r}: expected package.module:factory")
    try:
        make = cast(
            "Callable[[Path | None, torch.device], object]",
            getattr(importlib.import_module(module_name), name),
        )
    except ModuleNotFoundError as error:
        raise TeacherError(f"--teacher {factory!r}: {error}; is it on PYTHONPATH?") from error
    except AttributeError:
        raise TeacherError(f"--teacher {factory!r}: {module_name} has no {name!r}") from None
    if not callable(make):
        raise TeacherError(f"--teacher {factory!r} is a {type(make).__name__}, not a function")
    try:
        inspect.signature(make).bind(checkpoint, device)
    except (TypeError, ValueError) as error:
        raise TeacherError(
            f"--teacher {factory!r}: expected a function of a checkpoint's path and a device "
            f"({error})"
        ) from error
    teacher = make(checkpoint, device)
    if not isinstance(teacher, Teacher) or not isinstance(teacher.info, TeacherInfo):
        raise TeacherError(
            f"--teacher {factory!r} returned a {type(teacher).__name__}, which lacks info, "
            "detect() or __call__(); see teacher_dump/protocol.py"
        )
    return teacher
