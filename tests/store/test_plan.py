import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from frames.cell_masks import RandomMask
from frames.grid import BEVGrid
from frames.heatmap import CENTER_HEAD
from store.choices import Coverage
from store.errors import FingerprintError, MissingTargetError, PlanError
from store.fingerprint import Fingerprint
from store.match import require_match
from store.plan import TeacherShapes, estimate, plan_arrays, unmet
from store.reader import open_cache
from store.schema import ArraySpec, Need, Places, Target
from tests.store.building import CLASSES, GRID, NEEDS, build, fingerprint, identities

SHAPES = TeacherShapes(bev_low=64, bev_high=128, classes=10, tasks=6, grid=GRID)
CELLS = Need(Target.BEV_HIGH, Places.CELLS)


def brief(specs: tuple[ArraySpec, ...]) -> list[tuple[str, str, tuple[int, ...], str]]:
    return [(spec.name, str(spec.places), spec.shape, spec.dtype) for spec in specs]


def test_foreground_keeps_cells_and_boxes():
    needs = [
        CELLS,
        Need(Target.HEATMAP_LOGIT, Places.CELLS),
        Need(Target.BOX_CODE, Places.BOXES, "float32"),
        Need(Target.BOXES, Places.BOXES),
    ]
    assert brief(plan_arrays(needs, Coverage.FOREGROUND, SHAPES)) == [
        ("cells/bev_high", "cells", (128,), "float16"),
        ("cells/heatmap_logit", "cells", (10,), "float16"),
        ("boxes/box_code", "boxes", (10,), "float32"),
        ("boxes/centre", "boxes", (3,), "float32"),
        ("boxes/size", "boxes", (3,), "float32"),
        ("boxes/yaw", "boxes", (), "float32"),
        ("boxes/velocity", "boxes", (2,), "float32"),
        ("boxes/score", "boxes", (), "float32"),
        ("boxes/label", "boxes", (), "int64"),
        ("cells/index", "cells", (), "int32"),
    ]


def test_dense_stores_whole_maps_and_still_the_cell_index():
    assert brief(plan_arrays([CELLS], Coverage.DENSE, SHAPES)) == [
        ("bev_high", "map", (128, 6, 8), "float16"),
        ("cells/index", "cells", (), "int32"),
    ]


def test_a_whole_map_serves_every_place_but_boxes():
    """A box's code is that of its class's head, and which head that is the map does not say."""
    cells, boxes = (Need(Target.BOX_CODE, p, "float32") for p in (Places.CELLS, Places.BOXES))
    needs = [cells, Need(Target.BOX_CODE, Places.MAP, "float32")]
    specs = plan_arrays(needs, Coverage.FOREGROUND, SHAPES)
    index = ("cells/index", "cells", (), "int32")
    assert brief(specs) == [("box_code", "map", (60, 6, 8), "float32"), index]
    assert unmet(needs, specs, [CENTER_HEAD]) == []
    assert unmet([boxes], specs, [CENTER_HEAD]) == ["box_code at boxes"]
    specs = plan_arrays([*needs, boxes], Coverage.FOREGROUND, SHAPES)
    assert ("boxes/box_code", "boxes", (10,), "float32") in brief(specs)
    assert unmet([*needs, boxes], specs, [CENTER_HEAD]) == []


def test_decoded_boxes_exist_only_at_boxes():
    with pytest.raises(PlanError, match=r"boxes at map: it exists only at Places\.BOXES"):
        plan_arrays([Need(Target.BOXES, Places.MAP)], Coverage.DENSE, SHAPES)


def test_cells_without_their_index_are_unmet():
    specs = plan_arrays([Need(Target.BEV_HIGH, Places.MAP)], Coverage.DENSE, SHAPES)
    assert unmet([CELLS], specs, [CENTER_HEAD]) == ["bev_high at cells"]
    assert unmet([Need(Target.BOXES, Places.BOXES)], specs, [CENTER_HEAD]) == ["boxes at boxes"]


def test_every_plan_serves_its_needs():
    for coverage in Coverage:
        assert unmet(NEEDS, plan_arrays(NEEDS, coverage, SHAPES), [CENTER_HEAD]) == []


def test_the_estimate_counts_places():
    specs = plan_arrays([CELLS, Need(Target.BEV_LOW, Places.MAP)], Coverage.FOREGROUND, SHAPES)
    table = {
        row.array: (row.shape, row.bytes_per_row, row.total)
        for row in estimate(specs, {Places.ROWS: 10, Places.BOXES: 25, Places.CELLS: 100})
    }
    assert table == {
        "bev_low": ("map x 64 x 6 x 8", 64 * 48 * 2, 64 * 48 * 2 * 10),
        "cells/bev_high": ("cells x 128", 2560, 25600),
        "cells/index": ("cells", 40, 400),
        "gt/values": ("boxes x 9", 90, 900),
        "gt/labels": ("boxes", 20, 200),
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../up"}, "pattern"),
        ({"shape": (3,)}, r"a map is \(C, H, W\)"),
        ({"shape": (3, 1 << 20, 1 << 20)}, "absurd"),
        ({"places": "cells", "shape": (3, 6, 8)}, r"one value is \(9, C\), \(C,\) or \(\)"),
        ({"dtype": "object"}, "dtype"),
        ({"max_error": -1.0}, "max_error"),
    ],
)
def test_a_spec_is_checked(changes: dict[str, object], message: str):
    good = {"name": "bev", "places": "map", "shape": (3, 6, 8), "dtype": "float16"}
    ArraySpec.model_validate(good)
    with pytest.raises(ValidationError, match=message):
        ArraySpec.model_validate(good | changes)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "a"], "twice"),
        (["a", "a/b"], "arrays inside arrays"),
        (["rows/token"], "are the store's"),
        (["a"], "need the array 'cells/index'"),
    ],
)
def test_arrays_must_fit_together(names: list[str], message: str):
    document = fingerprint(identities(1)).model_dump(mode="json")
    document["arrays"] = [
        {"name": name, "places": "cells", "shape": [], "dtype": "int32"} for name in names
    ]
    with pytest.raises(ValidationError, match=message):
        Fingerprint.model_validate(document)


def test_a_fingerprint_survives_json_and_matches_itself():
    made_for = fingerprint(identities(2))
    again = Fingerprint.model_validate_json(made_for.model_dump_json())
    assert again == made_for
    assert again.mismatches(made_for) == []


def test_a_student_gets_what_fits_it_and_only_that(tmp_path: Path):
    cache = open_cache(build(tmp_path / "store", 2))
    fitting: dict[str, Any] = {
        "needs": NEEDS,
        "tokens": ["token-0001"],
        "grid": GRID,
        "classes": CLASSES,
        "ground_truth_filter": {"min_points": 1},
    }
    require_match(cache, **fitting)
    other: BEVGrid = GRID.model_copy(update={"cell_size": 0.8})
    wrong: dict[str, Any] = {
        "tokens": ["token-0001", "x"],
        "grid": other,
        "classes": ("car",),
        "ground_truth_filter": {"min_points": 5},
    }
    with pytest.raises(FingerprintError, match="does not match") as caught:
        require_match(cache, **(fitting | wrong))
    assert [line.split(":")[0] for line in caught.value.mismatches] == [
        "classes",
        "dataset.ground_truth_filter.min_points",
        "grid.cell_size",
        "dataset tokens",
    ]
    assert "grid.cell_size: found 1.0, expected 0.8" in caught.value.mismatches
    missing = [*NEEDS, Need(Target.HEATMAP_LOGIT, Places.MAP)]
    with pytest.raises(MissingTargetError, match=re.escape("heatmap_logit at map; it holds")):
        require_match(cache, **(fitting | {"needs": missing}))


def test_a_teacher_without_maps_says_so():
    shapes = TeacherShapes(
        bev_low=0, bev_high=0, classes=3, tasks=0, grid=GRID, further={Target.ANCHOR_LOGIT: 18}
    )
    with pytest.raises(PlanError, match=r"reads bev_high, which .* it gives \['anchor_logit'\]"):
        plan_arrays([CELLS], Coverage.FOREGROUND, shapes)


def test_cells_of_another_mask_are_named():
    """Else the array would be said to be missing that is there."""
    need = replace(CELLS, mask=RandomMask(count=9))
    specs = plan_arrays([CELLS], Coverage.FOREGROUND, SHAPES)
    (found,) = unmet([need, CELLS], specs, [CENTER_HEAD, RandomMask(count=8)])
    assert found == (
        "bev_high at cells (random count=9; it holds those of: gaussian min_overlap=0.1 "
        "min_radius=2; random count=8)"
    )


def test_a_past_frame_adds_no_array():
    """It is another row; what it lacks, the present one lacks."""
    past = replace(CELLS, offset=-2)
    specs = plan_arrays([CELLS], Coverage.FOREGROUND, SHAPES)
    assert plan_arrays([CELLS, past], Coverage.FOREGROUND, SHAPES) == specs
    assert unmet([past], specs, [CENTER_HEAD]) == []
    assert unmet([past], specs[:-1], [CENTER_HEAD]) == ["bev_high at cells"]
    with pytest.raises(ValueError, match="has the offset 1: expected 0, or past frames"):
        replace(CELLS, offset=1)


def test_detections_are_planned_of_a_teacher_that_tells_them():
    need = Need(Target.DETECTIONS, Places.DETECTIONS)
    specs = plan_arrays([need], Coverage.DENSE, replace(SHAPES, detections=300))
    assert brief(specs) == [
        ("detections/centre", "detections", (3,), "float32"),
        ("detections/size", "detections", (3,), "float32"),
        ("detections/yaw", "detections", (), "float32"),
        ("detections/velocity", "detections", (2,), "float32"),
        ("detections/score", "detections", (), "float32"),
        ("detections/object", "detections", (), "int32"),
        ("detections/iou", "detections", (), "float32"),
        ("detections/probability", "detections", (10,), "float16"),
    ]
    with pytest.raises(PlanError, match=r"of which this teacher tells none: give TeacherOutput"):
        plan_arrays([need], Coverage.FOREGROUND, SHAPES)
