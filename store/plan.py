"""From what the methods read to the arrays a dump writes, and what these will weigh."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from frames.box_code import CODE_SIZE
from frames.box_points import NUM_POINTS
from frames.cell_masks import CellMask
from frames.grid import BEVGrid
from store.choices import Coverage, Encoding
from store.errors import PlanError
from store.schema import (
    CELL_PLACES,
    GT_LABELS,
    GT_VALUES,
    MASKED_PLACES,
    ArraySpec,
    DTypeName,
    FeatureDType,
    Need,
    Places,
    Target,
)

FLOAT16_ERROR = Encoding.FLOAT16.max_error

# Upper triangle of the nine points' cosine matrix, diagonal included.
RELATION_SIZE = NUM_POINTS * (NUM_POINTS + 1) // 2

# Name, shape and number type; None: the one its need asks for.
_Part = tuple[str, tuple[int, ...], DTypeName | None]
_BOX: tuple[_Part, ...] = (
    ("centre", (3,), "float32"),
    ("size", (3,), "float32"),
    ("yaw", (), "float32"),
    ("velocity", (2,), "float32"),
)
# Targets that are not maps: where they exist, and their parts.
_RECORDS: dict[Target, tuple[Places, tuple[_Part, ...]]] = {
    Target.BOXES: (Places.BOXES, (*_BOX, ("score", (), "float32"), ("label", (), "int64"))),
    # Which anchor of the mask's, for which true box; x y z l w h and yaw before the direction fix,
    # the half turn in which the heading lies, and the score of the true box's class.
    Target.ANCHORS: (
        Places.ANCHORS,
        (
            *(("index", (), "int32"), ("object", (), "int32")),
            *(("box", (7,), "float32"), ("direction", (), "uint8"), ("score", (), "float32")),
        ),
    ),
    # Best first; the true box that each overlaps most, -1 for none, and their 3D IoU.
    Target.DETECTIONS: (
        Places.DETECTIONS,
        (*_BOX, ("score", (), "float32"), ("object", (), "int32"), ("iou", (), "float32")),
    ),
    Target.RELATION: (Places.BOXES, (("relation", (RELATION_SIZE,), None),)),
}
# One of the detections' arrays is as wide as there are classes.
PROBABILITY = f"{Places.DETECTIONS}/probability"
# What a lossy encoding may touch.
FEATURES = frozenset(
    {Target.BEV_LOW, Target.BEV_HIGH, Target.BEV_CAMERA, Target.BEV_LIDAR}
    | {Target.STAGE_0, Target.STAGE_1, Target.LABEL_0, Target.LABEL_1}
)
HALF_RESOLUTION = frozenset({Target.STAGE_1, Target.LABEL_1})


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherShapes:
    """What a teacher's tensors measure.

    Attributes:
        bev_low: Channels of the map before the BEV backbone; 0: it gives none.
        bev_high: Channels after it; likewise.
        classes: Channels of the heat map.
        tasks: Heads, each with its own box code; 0: no centre head.
        grid: Grid of all maps.
        code_size: Numbers in a cell's box code, of which the first ten make a box.
        further: Channels of any other map the teacher gives.
        detections: How many of a frame it tells at most; 0: it tells none.
    """

    bev_low: int
    bev_high: int
    classes: int
    tasks: int
    grid: BEVGrid
    code_size: int = CODE_SIZE
    further: Mapping[Target, int] = field(default_factory=dict)
    detections: int = 0

    def channels(self, target: Target) -> int:
        """Channels of a target's map.

        Raises:
            PlanError: This teacher has no such map.
        """
        own = {Target.BEV_LOW: self.bev_low, Target.BEV_HIGH: self.bev_high}
        if self.tasks:
            own[Target.HEATMAP_LOGIT] = self.classes
            own[Target.BOX_CODE] = self.tasks * self.code_size
        channels = {name: count for name, count in {**own, **self.further}.items() if count}
        if target not in channels:
            raise PlanError(
                f"a method reads {target}, which this teacher does not give; it gives "
                f"{sorted(map(str, channels))}: dump another teacher, or for other --methods"
            )
        return channels[target]

    def grid_of(self, target: Target) -> BEVGrid:
        """Grid of a target's map."""
        return self.grid.coarser if target in HALF_RESOLUTION else self.grid


def plan_arrays(
    needs: Iterable[Need],
    coverage: Coverage,
    shapes: TeacherShapes,
    encoding: Encoding | None = None,
) -> tuple[ArraySpec, ...]:
    """The arrays that serve all needs, ordered by target.

    A target has an array for each kind of places it is read at, unless it is needed as a whole
    map, which holds all of them but what is said at boxes. Dense coverage turns values at cells
    and points into whole maps. The cell index is stored wherever anyone reads cells. ``encoding``
    is that of features; logits, codes and boxes stay as their methods want them.

    Raises:
        PlanError: A target was asked for where it does not exist, or the teacher has none.
    """
    wanted: defaultdict[Target, dict[Places, FeatureDType]] = defaultdict(dict)
    # float32 comes first, so that the more exact of two wishes holds.
    for need in sorted(needs, key=lambda need: need.dtype, reverse=True):
        _check_place(need)
        wanted[need.target].setdefault(need.places, need.dtype)
    specs = [
        spec
        for target in Target
        for places, dtype in _merged(wanted.get(target, {}), coverage).items()
        for spec in _arrays_of(target, places, dtype, shapes)
    ]
    asked = {places for kinds in wanted.values() for places in kinds}
    specs += [
        ArraySpec(name=places.index_array, places=places, shape=(), dtype="int32")
        for places in CELL_PLACES
        if places in asked
    ]
    if encoding is not None:
        if not any(_is_feature(spec) for spec in specs):
            raise PlanError(
                f"encoding {encoding} is of features, and of those nothing is stored "
                f"({sorted(spec.name for spec in specs)}): leave it out"
            )
        specs = [part for spec in specs for part in _packed(spec, encoding)]
    return tuple(specs)


def _is_feature(spec: ArraySpec) -> bool:
    return spec.name.split("/")[-1] in FEATURES


def _packed(spec: ArraySpec, encoding: Encoding) -> list[ArraySpec]:
    if not _is_feature(spec):
        return [spec]
    changes = {
        "dtype": encoding.payload_dtype,
        "encoding": None if encoding in get_args(FeatureDType) else encoding,
        "max_error": encoding.max_error,
    }
    packed = spec.model_copy(update=changes)
    return [packed, packed.ranges] if packed.ranges else [packed]


def masks_of(needs: Iterable[Need]) -> tuple[CellMask, ...]:
    """The masks whose cells are stored, each once, in a fixed order."""
    masks = {need.mask for need in needs if need.places in MASKED_PLACES}
    return tuple(sorted(masks, key=lambda mask: mask.model_dump_json()))


def _check_place(need: Need) -> None:
    if need.target in _RECORDS:
        expected: tuple[Places, ...] = (_RECORDS[need.target][0],)
    elif need.target in HALF_RESOLUTION:
        expected = (Places.MAP, Places.COARSE_CELLS)
    elif need.target is Target.BOX_CODE:
        expected = (Places.MAP, Places.CELLS, Places.BOXES)
    else:
        expected = (Places.MAP, Places.CELLS, Places.POINTS)
    if need.places not in expected:
        kinds = " or ".join(f"Places.{places.name}" for places in expected)
        raise PlanError(f"{need}: it exists only at {kinds}; declare the need there")


def _merged(
    places: Mapping[Places, FeatureDType], coverage: Coverage
) -> Mapping[Places, FeatureDType]:
    sampled = {*CELL_PLACES, Places.POINTS} & places.keys()
    if Places.MAP in places or (coverage is Coverage.DENSE and sampled):
        # Which of a map's heads speaks for a box is the teacher's knowledge.
        own = {kind: places[kind] for kind in (Places.BOXES,) if kind in places}
        return {Places.MAP: max(places.values()), **own}
    return {kind: places[kind] for kind in Places if kind in places}


def array_name(target: Target, places: Places) -> str:
    """Path of a map target's array: its name, in a folder named after the places."""
    return str(target) if places is Places.MAP else f"{places}/{target}"


def _arrays_of(
    target: Target, places: Places, dtype: FeatureDType, shapes: TeacherShapes
) -> list[ArraySpec]:
    if target in _RECORDS:
        parts = _RECORDS[target][1]
        if target is Target.DETECTIONS:
            _check_told(shapes)
            parts = (*parts, (PROBABILITY.split("/")[1], (shapes.classes,), "float16"))
        return [
            ArraySpec(
                name=f"{places}/{part}",
                places=places,
                shape=shape,
                dtype=kind or dtype,
                max_error=FLOAT16_ERROR if (kind or dtype) == "float16" else 0.0,
            )
            for part, shape, kind in parts
        ]
    # At a box only the head that knows its class speaks; that head's IoU is no part of the box.
    channels = CODE_SIZE if places is Places.BOXES else shapes.channels(target)
    shape = {
        Places.MAP: (channels, *shapes.grid_of(target).shape),
        Places.POINTS: (NUM_POINTS, channels),
    }.get(places, (channels,))
    return [
        ArraySpec(
            name=array_name(target, places),
            places=places,
            shape=shape,
            dtype=dtype,
            max_error=FLOAT16_ERROR if dtype == "float16" else 0.0,
        )
    ]


def _check_told(shapes: TeacherShapes) -> None:
    if not shapes.detections:
        raise PlanError(
            "a method reads detections, of which this teacher tells none: give "
            "TeacherOutput.found and info.shapes.detections, or dump for other --methods"
        )


def unmet(
    needs: Iterable[Need], arrays: Sequence[ArraySpec], masks: Sequence[CellMask]
) -> list[str]:
    """The needs that the arrays do not serve, as ``bev_high at cells``; whose cells, if others are.

    A whole map serves a need at any places but boxes; values at cells also need the cell index,
    with the cells of the method's mask among them.
    """

    def lacking(need: Need) -> str | None:
        if not arrays_read([need], arrays):
            return str(need)
        if need.places not in MASKED_PLACES or need.mask in masks:
            return None
        held = "; ".join(_told(mask) for mask in masks) or "none"
        return f"{need} ({_told(need.mask)}; it holds those of: {held})"

    return sorted({text for need in needs if (text := lacking(need))})


def _told(mask: CellMask) -> str:
    """A mask as ``random count=512``; what an anchor mask's anchors are is not spelt out."""
    values = mask.model_dump(exclude={"kind", "anchors"})
    return " ".join([mask.kind, *(f"{name}={value}" for name, value in values.items())])


def arrays_read(needs: Iterable[Need], arrays: Sequence[ArraySpec]) -> frozenset[str]:
    """Which of the arrays serve these needs, by name; none for a need that is not served."""
    held = {spec.name for spec in arrays}
    read: set[str] = set()
    for need in needs:
        names = _arrays_for(need, held)
        if names <= held:
            read |= names
    return frozenset(read)


def _arrays_for(need: Need, held: Collection[str]) -> set[str]:
    if need.target in _RECORDS:
        parts = {f"{need.places}/{part}" for part, _, _ in _RECORDS[need.target][1]}
        return parts | ({PROBABILITY} if need.target is Target.DETECTIONS else set())
    at_places = array_name(need.target, need.places)
    index = {need.places.index_array} if need.places in CELL_PLACES else set()
    apart = at_places in held or need.places is Places.BOXES
    return index | {at_places if apart else str(need.target)}


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateRow:
    """What one array will weigh, before compression.

    Attributes:
        array: Name.
        shape: Of one value, with its leading places: ``cells x 128``.
        dtype: Stored number type, or its encoding.
        max_error: Bound of the array's error; 0 is lossless.
        bytes_per_row: Mean.
        total: Bytes of the whole dump.
    """

    array: str
    shape: str
    dtype: str
    max_error: float
    bytes_per_row: float
    total: int


def estimate(specs: Sequence[ArraySpec], lengths: Mapping[Places, int]) -> list[EstimateRow]:
    """One row an array, ground truth included.

    Args:
        specs: The plan.
        lengths: How many places the whole dump has of each kind; rows (at least 1) under
            ``Places.ROWS``. Kinds that are not listed have none.
    """
    rows = lengths[Places.ROWS]
    counts = {**lengths, Places.MAP: rows, Places.POINTS: lengths.get(Places.BOXES, 0)}
    return [
        EstimateRow(
            array=spec.name,
            shape=" x ".join([str(spec.places.counted_as), *map(str, spec.shape)]),
            dtype=spec.encoding or spec.dtype,
            max_error=spec.max_error,
            bytes_per_row=counts.get(spec.places, 0) * spec.value_bytes / rows,
            total=counts.get(spec.places, 0) * spec.value_bytes,
        )
        for spec in (*specs, GT_VALUES, GT_LABELS)
    ]
