"""What the five papers' losses read at the papers' own sizes, in the types a plan is made of.

Grids, channels and counts are the papers' or their released code's; mean numbers of boxes and cells
a frame are assumptions where they say so. A dump of real data counts its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from frames.anchors import AnchorConfig
from frames.cell_masks import AnchorMask, FootprintMask, RandomMask
from frames.grid import BEVGrid
from frames.heatmap import CENTER_HEAD, UNIDISTILL
from store.choices import Coverage
from store.plan import EstimateRow, TeacherShapes, estimate, plan_arrays
from store.schema import ITEM_BYTES, Need, Places, Target

NUSCENES_TRAIN_FRAMES = 28_130
KITTI_TRAIN_FRAMES = 3_712

_NUSCENES_180 = BEVGrid(x_min=-54.0, y_min=-54.0, cell_size=0.6, shape=(180, 180))
_NUSCENES_128 = BEVGrid(x_min=-51.2, y_min=-51.2, cell_size=0.8, shape=(128, 128))
_LIGA = AnchorConfig()
_POSITIVE = AnchorMask(anchors=_LIGA)


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperScale:
    """One paper's cache, described.

    Attributes:
        method: The paper.
        dataset: Its training frames.
        frames: How many.
        shapes: Its teacher's tensors.
        needs: What its losses read.
        per_frame: Mean number of places in a frame, by kind.
        dense: The maps an implementation without places would keep, with their channels.
    """

    method: str
    dataset: str
    frames: int
    shapes: TeacherShapes
    needs: tuple[Need, ...]
    per_frame: Mapping[Places, float]
    dense: Mapping[Target, int]

    @property
    def plan(self) -> list[EstimateRow]:
        """The arrays of a foreground cache and their bytes."""
        lengths = {places: round(mean * self.frames) for places, mean in self.per_frame.items()}
        arrays = plan_arrays(self.needs, Coverage.FOREGROUND, self.shapes)
        return estimate(arrays, {**lengths, Places.ROWS: self.frames})

    def dense_bytes(self, dtype: str) -> int:
        """Bytes a frame of the whole maps in a number type."""
        cells = {target: self.shapes.grid_of(target).num_cells for target in self.dense}
        return sum(self.dense[t] * cells[t] for t in self.dense) * ITEM_BYTES[dtype]


def _labeldistill(method: str, *, labels_cached: bool) -> PaperScale:
    """With its label features embedded in every step, or from the cache as well."""
    lidar = {Target.STAGE_0: Places.CELLS, Target.STAGE_1: Places.COARSE_CELLS}
    label = {Target.LABEL_0: Places.CELLS, Target.LABEL_1: Places.COARSE_CELLS}
    channels = {Target.STAGE_0: 128, Target.STAGE_1: 256, Target.LABEL_0: 128, Target.LABEL_1: 256}
    read = {**lidar, **(label if labels_cached else {}), Target.HEATMAP_LOGIT: Places.CELLS}
    return PaperScale(
        method=method,
        dataset="nuScenes train",
        frames=NUSCENES_TRAIN_FRAMES,
        shapes=TeacherShapes(
            bev_low=256, bev_high=512, classes=10, tasks=6, grid=_NUSCENES_128, further=channels
        ),
        needs=(
            *(Need(target, places, mask=CENTER_HEAD) for target, places in read.items()),
            Need(Target.BOX_CODE, Places.BOXES),
        ),
        # 35 boxes drawn from each of the 81 mini_val frames cover 732 cells, 253 at half
        # resolution, on average.
        per_frame={Places.BOXES: 35, Places.CELLS: 732, Places.COARSE_CELLS: 253},
        dense={
            **{target: channels[target] for target in read if target in channels},
            Target.HEATMAP_LOGIT: 10,
            Target.BOX_CODE: 60,
        },
    )


PAPERS = (
    PaperScale(
        method="StereoDistill",
        dataset="KITTI train",
        frames=KITTI_TRAIN_FRAMES,
        shapes=TeacherShapes(
            bev_low=64,
            bev_high=64,
            classes=3,
            tasks=0,
            grid=_LIGA.grid,
            # Six anchors a cell: three classes, two headings; each has three class logits.
            further={Target.ANCHOR_LOGIT: 18},
        ),
        needs=(
            Need(Target.ANCHORS, Places.ANCHORS, mask=_POSITIVE),
            Need(Target.ANCHOR_LOGIT, Places.CELLS, mask=_POSITIVE),
            Need(Target.ANCHOR_LOGIT, Places.CELLS, mask=FootprintMask(margin=0.5)),
        ),
        # 18,651 objects, 93 positive anchors a frame. With half a metre about it a car covers 318
        # cells, a pedestrian 72, a cyclist 110: there are 4.2, 0.6 and 0.2 of them.
        per_frame={Places.BOXES: 5.02, Places.ANCHORS: 93, Places.CELLS: 1400},
        # Class logits, box codes and direction logits of six anchors.
        dense={Target.ANCHOR_LOGIT: 18 + 42 + 12},
    ),
    PaperScale(
        method="UniDistill",
        dataset="nuScenes train",
        frames=NUSCENES_TRAIN_FRAMES,
        # An IoU branch makes eleven numbers of a box code.
        shapes=TeacherShapes(
            bev_low=256, bev_high=512, classes=10, tasks=6, grid=_NUSCENES_180, code_size=11
        ),
        needs=(
            Need(Target.BEV_LOW, Places.POINTS),
            Need(Target.RELATION, Places.BOXES),
            Need(Target.HEATMAP_LOGIT, Places.CELLS, mask=UNIDISTILL),
            Need(Target.BOX_CODE, Places.CELLS, mask=UNIDISTILL),
        ),
        # 30 boxes (assumed), 5.8 cells a box: 3,611 boxes of nuScenes' mini_val, on this grid.
        per_frame={Places.BOXES: 30, Places.CELLS: 174},
        dense={
            Target.BEV_LOW: 256,
            Target.BEV_HIGH: 512,
            Target.HEATMAP_LOGIT: 10,
            Target.BOX_CODE: 66,
        },
    ),
    PaperScale(
        method="SimDistill",
        dataset="nuScenes train",
        frames=NUSCENES_TRAIN_FRAMES,
        shapes=TeacherShapes(
            bev_low=256,
            bev_high=256,
            classes=10,
            tasks=6,
            grid=_NUSCENES_180,
            further={Target.BEV_CAMERA: 80, Target.BEV_LIDAR: 256},
        ),
        needs=(
            Need(Target.BEV_CAMERA, Places.MAP),
            Need(Target.BEV_LIDAR, Places.CELLS, mask=CENTER_HEAD),
            Need(Target.BEV_LOW, Places.MAP),
            Need(Target.HEATMAP_LOGIT, Places.MAP),
            Need(Target.BOX_CODE, Places.BOXES),
        ),
        # 30 boxes (assumed), 25 cells a box, 49 for buses and trailers.
        per_frame={Places.BOXES: 30, Places.CELLS: 820},
        dense={
            Target.BEV_CAMERA: 80,
            Target.BEV_LIDAR: 256,
            Target.BEV_LOW: 256,
            Target.HEATMAP_LOGIT: 10,
            Target.BOX_CODE: 60,
        },
    ),
    PaperScale(
        method="STXD",
        dataset="nuScenes train",
        frames=NUSCENES_TRAIN_FRAMES,
        shapes=TeacherShapes(
            bev_low=256, bev_high=256, classes=10, tasks=6, grid=_NUSCENES_128, detections=300
        ),
        needs=(
            Need(Target.BEV_HIGH, Places.CELLS, mask=CENTER_HEAD),
            Need(Target.BEV_HIGH, Places.CELLS, mask=RandomMask(count=512)),
            Need(Target.DETECTIONS, Places.DETECTIONS),
        ),
        # 900 samples, 300 queries; past frames are other rows of the same cache.
        per_frame={Places.BOXES: 30, Places.CELLS: 900, Places.DETECTIONS: 300},
        dense={Target.BEV_HIGH: 256},
    ),
    _labeldistill("LabelDistill", labels_cached=False),
    _labeldistill("LabelDistill, labels cached", labels_cached=True),
)
