"""Plans at the papers' sizes, held against figures worked out from the papers and releases."""

from dataclasses import replace
from pathlib import Path

import pytest

from commands.plans import paper_plans
from store.paper_scale import PAPERS
from student_train.methods.labeldistill import LabelDistill, LabelDistillConfig
from student_train.methods.stxd import Stxd, StxdConfig

PAPER = {paper.method: paper for paper in PAPERS}


def bytes_of(method: str) -> dict[str, float]:
    return {row.array: row.bytes_per_row for row in PAPER[method].plan}


def test_unidistills_whole_maps_weigh_55_and_109_megabytes():
    """256 + 512 + 10 + 66 channels of 180 x 180 cells."""
    assert PAPER["UniDistill"].dense_bytes("float16") == 54_691_200
    assert PAPER["UniDistill"].dense_bytes("float32") == 109_382_400
    # 30 boxes, nine points, 256 channels, two bytes.
    assert bytes_of("UniDistill")["points/bev_low"] == 30 * 9 * 256 * 2
    assert sum(bytes_of("UniDistill").values()) == pytest.approx(169_404)


def test_stereodistills_dense_layout_weighs_12_megabytes():
    """Class, box and direction outputs of six anchors a cell, 304 x 288 cells."""
    assert PAPER["StereoDistill"].dense_bytes("float16") == 12_607_488
    assert bytes_of("StereoDistill")["anchors/box"] == 28 * 93


def test_simdistill_keeps_what_its_dense_terms_read():
    """80 and 256 channels for the two mean squares, 10 for the class term."""
    kept = bytes_of("SimDistill")
    maps = {name: size for name, size in kept.items() if "/" not in name}
    assert maps == {"bev_camera": 5_184_000, "bev_low": 16_588_800, "heatmap_logit": 648_000}


def test_labeldistill_and_stxd_keep_cells():
    features = bytes_of("LabelDistill")
    assert features["cells/stage_0"] == 732 * 128 * 2
    assert features["coarse_cells/stage_1"] == 253 * 256 * 2
    assert not {"cells/label_0", "coarse_cells/label_1"} & features.keys()
    assert sum(features.values()) < 350_000
    cached = bytes_of("LabelDistill, labels cached")
    assert cached["cells/label_0"] == features["cells/stage_0"]
    assert cached["coarse_cells/label_1"] == features["coarse_cells/stage_1"]
    assert bytes_of("STXD")["cells/bev_high"] == 900 * 256 * 2


def test_labeldistills_plans_are_what_the_method_declares():
    for labels, name in (("none", "LabelDistill"), ("cache", "LabelDistill, labels cached")):
        config = LabelDistillConfig.model_validate({"labels": labels})
        assert LabelDistill.needs(config, None) == frozenset(PAPER[name].needs)


def test_stxds_plan_is_what_the_method_declares():
    """Past rows are other frames' own."""
    needs = Stxd.needs(StxdConfig(), None)
    assert {need.offset for need in needs} == {0, -1, -2, -3}
    assert {replace(need, offset=0) for need in needs} == set(PAPER["STXD"].needs)


def test_the_page_has_the_printed_table():
    page = Path(__file__).parents[2] / "docs" / "plans.md"
    assert paper_plans() in page.read_text()
