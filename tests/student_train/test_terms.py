"""Which terms of a method count, and methods of which none does."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from runs.errors import ConfigError
from store.schema import Target
from student_train.config import StudentRun
from student_train.methods import METHODS
from student_train.methods.base import MethodConfig
from student_train.registry import Head
from student_train.train import needs_of
from tests.tiny import student_run
from tests.tiny_kitti_runs import liga_run

EVERY = [(head, name) for head, methods in METHODS.items() for name in methods]
OFF = {"weight": 0.0}


def run_with(folder: Path, head: Head, method: str, **settings: Any) -> StudentRun:
    """A run of the method; nothing of its data is read."""
    run = (student_run if head == "center" else liga_run)(folder, folder)
    config = METHODS[head][method].config_type.model_validate(settings)
    methods = run.methods.model_copy(update={method: config})
    return run.model_copy(update={"method": method, "methods": methods})


def terms_of(head: Head, method: str) -> list[str]:
    return list(METHODS[head][method].config_type().strengths)


@pytest.mark.parametrize(("head", "method"), EVERY)
def test_a_method_without_a_term_is_refused(tmp_path: Path, head: Head, method: str):
    """It would train as none, and say that it was trained with."""
    terms = terms_of(head, method)
    run = run_with(tmp_path, head, method, **dict.fromkeys(terms, OFF))
    weights = ", ".join(f"{term} 0" for term in terms)
    with pytest.raises(
        ConfigError, match=rf"no term of method {method} counts, .* \(weights: {weights}; .* none"
    ):
        needs_of(run)


@pytest.mark.parametrize(("head", "method"), EVERY)
def test_each_term_alone_is_enough(tmp_path: Path, head: Head, method: str):
    terms = terms_of(head, method)
    for left in terms:
        off = {term: OFF for term in terms if term != left}
        config = run_with(tmp_path, head, method, **off).methods
        assert set(getattr(config, method).terms) == {left}
        if method != "simdistill":  # of which this student has not the branches
            assert run_with(tmp_path, head, method, **off).method_configs.keys() == {method}


@pytest.mark.parametrize(
    ("head", "method", "settings"),
    [
        (
            "center",
            "labeldistill",
            {"labels": "none", **dict.fromkeys(("lidar", "heatmap", "box"), OFF)},
        ),
        ("anchor", "liga", {"levels": ["bev_low"], "volume": OFF}),
        (
            "center",
            "xgd",
            {"component_weight": dict.fromkeys(("position", "size", "heading", "velocity"), 0)},
        ),
        ("anchor", "xgd", {"component_weight": {"position": 0, "size": 0, "heading": 0}}),
    ],
)
def test_a_term_that_another_switch_leaves_out_does_not_count(
    tmp_path: Path, head: Head, method: str, settings: dict[str, Any]
):
    with pytest.raises(ConfigError, match=f"no term of method {method} counts"):
        needs_of(run_with(tmp_path, head, method, **settings))


@pytest.mark.parametrize(
    ("head", "method", "term", "reads"),
    [
        ("center", "imitation", "feature", {Target.BEV_HIGH}),
        ("center", "imitation", "heatmap", {Target.HEATMAP_LOGIT}),
        ("center", "unidistill", "relation", {Target.RELATION}),
        ("anchor", "liga", "bev", {Target.BEV_HIGH}),
        ("anchor", "liga", "volume", {Target.BEV_LOW}),
        ("anchor", "response", "box", {Target.ANCHORS}),
    ],
)
def test_what_does_not_count_is_not_read(
    tmp_path: Path, head: Head, method: str, term: str, reads: set[Target]
):
    off = {other: OFF for other in terms_of(head, method) if other != term}
    assert {need.target for need in needs_of(run_with(tmp_path, head, method, **off))} == reads


@pytest.mark.parametrize(("head", "method"), sorted({*EVERY} - {("center", "simdistill")}))
def test_every_target_is_read_by_a_term(tmp_path: Path, head: Head, method: str):
    """This student has not the branches that SimDistill reads."""
    terms = terms_of(head, method)
    alone = [
        needs_of(run_with(tmp_path, head, method, **{t: OFF for t in terms if t != left}))
        for left in terms
    ]
    assert frozenset().union(*alone) == needs_of(run_with(tmp_path, head, method))


def test_a_method_starts_before_the_run_ends():
    """At 1 it would train as none."""
    with pytest.raises(ValidationError, match="less than 1"):
        MethodConfig(start=1.0)


def test_the_overlap_alone_is_a_component(tmp_path: Path):
    none = {"position": 0, "size": 0, "heading": 0}
    assert needs_of(run_with(tmp_path, "anchor", "xgd", component_weight=none, iou=0.5))


def test_one_of_two_methods_is_named(tmp_path: Path):
    run = run_with(tmp_path, "center", "xgd", box=OFF).model_copy(
        update={"method": "imitation+xgd"}
    )
    with pytest.raises(ConfigError, match="no term of method xgd counts"):
        needs_of(run)
    assert needs_of(run.model_copy(update={"method": "imitation"}))


def test_nothing_is_held_at_no_share(tmp_path: Path):
    """A share is reached by a factor on the weighted term."""
    run = run_with(tmp_path, "center", "xgd", box={"weight": 0, "share": 0.2})
    with pytest.raises(ConfigError, match=r"box of method xgd has share = 0\.2 and weight = 0, .*"):
        needs_of(run)
