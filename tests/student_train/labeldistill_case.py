"""A teacher, a student's maps and cached rows for the tests of LabelDistill."""

import torch
from torch import Tensor

from frames.augment import BevAugment
from frames.boxes import Boxes3D
from frames.frame import Frame
from frames.geometry import SE3
from frames.grid import BEVGrid
from nets.center_head import CenterHeadConfig, CenterMaps
from store.choices import Coverage, Encoding
from store.fingerprint import DatasetIdentity, Fingerprint
from store.plan import masks_of, plan_arrays
from store.rows import CachedRow, token_hash
from store.schema import Target
from store.values import RowDecoder, checked_row
from student_train.methods.base import MethodContext, StudentMaps, TeacherTargets
from student_train.methods.labeldistill import LabelDistill, LabelDistillConfig
from student_train.targets import frame_targets, pad_targets
from teacher_dump.teacher_rows import teacher_rows
from tests.map_teacher import MapTeacher

GRID = BEVGrid(x_min=-6.0, y_min=-8.0, cell_size=1.0, shape=(16, 12))
WIDTH, FRAMES = 4, 2
LOW, HALF = 6 * FRAMES, 9
# Of two tasks, unlike the teacher's six.
CLASS_TASK = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
TEACHER = MapTeacher(GRID, WIDTH)
CONTEXT = MethodContext(
    grid=GRID,
    classes=TEACHER.info.classes,
    student_channels={Target.BEV_LOW: LOW, Target.STAGE_1: HALF},
    teacher_channels=TEACHER.info.shapes.further,
    student_frames=FRAMES,
    teacher_sha256=TEACHER.info.identity.checkpoint_sha256,
)
TOKENS = ("one", "two")
TRUTHS = [
    Boxes3D(
        torch.tensor(
            [[1.2, 0.3, 0, 4, 2, 1.5, 0.7, 0, 0], [-4, 5.4, 0, 9, 3, 2, 0, 0, 0], [30.0] * 9]
        ),
        torch.tensor([0, 3, 4]),
    ),
    Boxes3D(torch.tensor([[2.5, -4.1, 1, 2, 1, 1.0, 1, 0, 0]]), torch.tensor([8])),
]
IDENTITY = BevAugment.identity()


def method_of(**settings: object) -> LabelDistill:
    torch.manual_seed(0)
    return LabelDistill(LabelDistillConfig.model_validate(settings), CONTEXT)


def student_of(seed: int) -> StudentMaps:
    rng = torch.Generator().manual_seed(seed)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(len(TOKENS), *shape, generator=rng).requires_grad_()

    rows, cols = GRID.shape
    features = {
        Target.BEV_LOW: leaf(LOW, rows, cols),
        Target.STAGE_1: leaf(HALF, rows // 2, cols // 2),
    }
    head = CenterMaps(leaf(10, rows, cols), leaf(2, 10, rows, cols), CLASS_TASK)
    return StudentMaps(features, head)


def leaves(student: StudentMaps) -> dict[str, Tensor]:
    head = student.center
    features = {str(target): map_ for target, map_ in student.features.items()}
    return {**features, "heatmap_logit": head.heatmap_logit, "box_code": head.box_code}


def frame_of(boxes: Boxes3D, token: str) -> Frame:
    return Frame(
        token=token,
        scene="scene",
        timestamp_us=1,
        global_from_ego=SE3.identity(),
        cameras=(),
        sweeps=(),
        boxes=boxes,
        prev="",
        next="",
    )


def rows_of(
    method: LabelDistill,
    truths: list[Boxes3D],
    augment: BevAugment,
    encoding: Encoding | None = None,
) -> list[CachedRow]:
    """What a store of the teacher's views gives back, but for the disk."""
    needs = method.needs(method.config, None)
    made_for = Fingerprint(
        teacher=TEACHER.info.identity,
        dataset=DatasetIdentity(
            name="d", version="v", split="s", token_hash=token_hash(TOKENS), ground_truth_filter={}
        ),
        grid=GRID,
        classes=TEACHER.info.classes,
        coverage=Coverage.FOREGROUND,
        masks=masks_of(needs),
        arrays=plan_arrays(needs, Coverage.FOREGROUND, TEACHER.info.shapes, encoding),
        code_revision="r",
    )
    frames = [frame_of(truth, token) for truth, token in zip(truths, TOKENS, strict=True)]
    given_rows = teacher_rows(
        TEACHER, frames, made_for.given, made_for.masks, [augment] * len(frames)
    )
    names = [spec.name for spec in made_for.stored]
    found = []
    for row in given_rows:
        stored = dict(zip(names, checked_row(row, row.token, made_for), strict=True))
        arrays = RowDecoder("store", made_for)(stored, row.token)
        found.append(CachedRow(token=row.token, view=0, augment=augment, gt=row.gt, arrays=arrays))
    return found


def targets_of(
    method: LabelDistill, rows: list[CachedRow], carried: BevAugment | None = None
) -> TeacherTargets:
    carried = carried or BevAugment.identity()
    needs = method.needs(method.config, None)
    return pad_targets([frame_targets(row, needs, GRID, carried) for row in rows])


def targets_for(method: LabelDistill, truths: list[Boxes3D] = TRUTHS) -> TeacherTargets:
    return targets_of(method, rows_of(method, truths, IDENTITY))


def teacher_head() -> CenterMaps:
    heads = [TEACHER.head(token) for token in TOKENS]
    return CenterMaps(
        torch.cat([head.heatmap_logit for head in heads]),
        torch.cat([head.box_code for head in heads]),
        torch.tensor(CenterHeadConfig().class_task),
    )
