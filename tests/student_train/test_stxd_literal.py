"""STXD's losses against a literal reading."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from student_train.methods.stxd import (
    CorrelationForm,
    TemporalForm,
    correlation_loss,
    temporal_loss,
)
from tests import literal_stxd as literal


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**16),
    hat=st.sampled_from(["centred", "scaled", "rows_first"]),
    count=st.integers(3, 7),
)
def test_cd_is_the_printed_sum(seed: int, hat: str, count: int):
    rng = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(count, 4, generator=rng).double() for _ in range(2))
    form = CorrelationForm.model_validate({"hat": hat})
    expected = literal.correlation(student, teacher, hat, form.off_diagonal)
    found = correlation_loss(student, teacher, form)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**16),
    forms=st.fixed_dictionaries(
        {
            "scores": st.sampled_from(["cosine", "dot"]),
            "softmax": st.sampled_from(["row", "all"]),
            "divergence": st.sampled_from(["student_teacher", "teacher_student"]),
            "rows": st.sampled_from(["mean", "sum"]),
        }
    ),
)
def test_td_is_the_printed_divergence(seed: int, forms: dict[str, str]):
    rng = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(1, 3, 4, generator=rng).double() for _ in range(2))
    past = torch.randn(1, 5, 4, generator=rng).double()
    rows = (torch.ones(1, 3, dtype=torch.bool), torch.ones(1, 5, dtype=torch.bool))
    form = TemporalForm.model_validate({"temperature": 0.7, **forms})
    found = temporal_loss((student, teacher, past), rows, form)
    expected = literal.temporal(student[0], teacher[0], past[0], 0.7, **forms)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
