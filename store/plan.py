"""From what the methods read to the arrays a dump writes, and what these will weigh."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from frames.grid import BEVGrid
from store.errors import PlanError
from store.schema import (
    CELL_INDEX,
    GT_LABELS,
    GT_VALUES,
    ArraySpec,
    Coverage,
    DTypeName,
    Need,
    Places,
    Target,
)

# CenterPoint's regression heads: offset 2, height 1, size 3, sin and cos of yaw 2, velocity 2.
BOX_CODE_SIZE = 10
# Half a unit in the last of float16's 11 significant bits.
FLOAT16_ERROR = 2.0**-11

_BOX_PARTS: tuple[tuple[str, tuple[int, ...], DTypeName], ...] = (
    ("centre", (3,), "float32"),
    ("size", (3,), "float32"),
    ("yaw", (), "float32"),
    ("velocity", (2,), "float32"),
    ("score", (), "float32"),
    ("label", (), "int64"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherShapes:
    """What a teacher's tensors measure.

    Attributes:
        bev_low: Channels of the map before the BEV backbone.
        bev_high: Channels after it.
        classes: Channels of the heat map.
        tasks: Heads, each with its own box code.
        grid: Grid of all maps.
    """

    bev_low: int
    bev_high: int
    classes: int
    tasks: int
    grid: BEVGrid

    def channels(self, target: Target) -> int:
        """Channels of a target's map."""
        return {
            Target.BEV_LOW: self.bev_low,
            Target.BEV_HIGH: self.bev_high,
            Target.HEATMAP_LOGIT: self.classes,
            Target.BOX_CODE: self.tasks * BOX_CODE_SIZE,
        }[target]


def plan_arrays(
    needs: Iterable[Need], coverage: Coverage, shapes: TeacherShapes
) -> tuple[ArraySpec, ...]:
    """The arrays that serve all needs; one array a target, ordered by target.

    A target needed at places of more than one kind is stored as its whole map, which holds all
    of them. Dense coverage turns values at cells into whole maps. The cell index is stored
    wherever anyone reads cells.

    Raises:
        PlanError: Decoded boxes were asked for elsewhere than at the true boxes.
    """
    wanted: defaultdict[Target, set[Places]] = defaultdict(set)
    for need in needs:
        wanted[need.target].add(need.places)
    if not wanted.get(Target.BOXES, {Places.BOXES}) == {Places.BOXES}:
        raise PlanError(
            f"boxes are read at places {sorted(wanted[Target.BOXES])}; a decoded box exists only "
            "at a true box: declare Need(Target.BOXES, Places.BOXES)"
        )
    specs = [
        spec
        for target in Target
        if target in wanted
        for spec in _arrays_of(target, _merged(wanted[target], coverage), shapes)
    ]
    if any(Places.CELLS in places for places in wanted.values()):
        specs.append(ArraySpec(name=CELL_INDEX, places=Places.CELLS, shape=(), dtype="int32"))
    return tuple(specs)


def _merged(places: set[Places], coverage: Coverage) -> Places:
    if len(places) > 1 or (coverage is Coverage.DENSE and Places.CELLS in places):
        return Places.MAP
    return next(iter(places))


def _arrays_of(target: Target, places: Places, shapes: TeacherShapes) -> list[ArraySpec]:
    if target is Target.BOXES:
        return [
            ArraySpec(name=f"boxes/{part}", places=places, shape=shape, dtype=dtype)
            for part, shape, dtype in _BOX_PARTS
        ]
    channels = shapes.channels(target)
    if target is Target.BOX_CODE and places is Places.BOXES:
        # Only the head that knows the box's class speaks of it.
        channels = BOX_CODE_SIZE
    shape = (channels, *shapes.grid.shape) if places is Places.MAP else (channels,)
    lossless = target is Target.BOX_CODE
    return [
        ArraySpec(
            name=str(target),
            places=places,
            shape=shape,
            dtype="float32" if lossless else "float16",
            max_error=0.0 if lossless else FLOAT16_ERROR,
        )
    ]


def unmet(needs: Iterable[Need], arrays: Sequence[ArraySpec]) -> list[str]:
    """The needs that the arrays do not serve, as ``bev_high at cells``.

    A whole map serves a need at any places; values at cells also need the cell index.
    """
    held = {spec.name: spec.places for spec in arrays}

    def served(need: Need) -> bool:
        if need.places is Places.CELLS and CELL_INDEX not in held:
            return False
        name = "boxes/centre" if need.target is Target.BOXES else str(need.target)
        return held.get(name) in (need.places, Places.MAP)

    return [f"{need.target} at {need.places}" for need in sorted(set(needs)) if not served(need)]


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateRow:
    """What one array will weigh, before compression.

    Attributes:
        array: Name.
        shape: Of one value, with its leading places: ``cells x 128``.
        dtype: Stored number type.
        bytes_per_frame: Mean.
        total: Bytes of the whole dump.
    """

    array: str
    shape: str
    dtype: str
    bytes_per_frame: float
    total: int


def estimate(
    specs: Sequence[ArraySpec], *, frames: int, boxes_total: int, cells_total: int
) -> list[EstimateRow]:
    """One row an array, ground truth included.

    Args:
        specs: The plan.
        frames: Rows of the dump, at least 1.
        boxes_total: True boxes of all frames, after the filter.
        cells_total: Foreground cells of all frames.
    """
    places = {Places.MAP: frames, Places.BOXES: boxes_total, Places.CELLS: cells_total}
    return [
        EstimateRow(
            array=spec.name,
            shape=" x ".join([str(spec.places), *map(str, spec.shape)]),
            dtype=spec.dtype,
            bytes_per_frame=places[spec.places] * spec.value_bytes / frames,
            total=places[spec.places] * spec.value_bytes,
        )
        for spec in (*specs, GT_VALUES, GT_LABELS)
    ]
