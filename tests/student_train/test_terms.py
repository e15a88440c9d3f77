"""Which terms of a method count, and methods of which none does."""

from pathlib import Path
from typing import Any

import pytest

from runs.errors import ConfigError
from student_train.config import StudentRun
from student_train.methods import METHODS
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
    ],
)
def test_a_term_that_another_switch_leaves_out_does_not_count(
    tmp_path: Path, head: Head, method: str, settings: dict[str, Any]
):
    with pytest.raises(ConfigError, match=f"no term of method {method} counts"):
        needs_of(run_with(tmp_path, head, method, **settings))


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
