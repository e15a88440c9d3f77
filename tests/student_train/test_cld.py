import math

import pytest
import torch

from student_train.methods.base import TermConfig
from student_train.methods.cld import CldConfig, cld_loss, cld_per_cell

# Golden vectors, worked out apart from this code.
ZT = torch.tensor(
    [
        [2, -3, -4, 0.5, -3, -4, -5, -1, -5, -6, -2, -5, -5, -5, -2, -6, -5, -3],
        [-5, -6, -6, -5.5, -6, -6, -6, -5, -6, -6, -4, -6, -6, -6, -5, -6, -6, -5],
    ],
    dtype=torch.float64,
).view(2, 6, 3)
ZS = torch.tensor(
    [
        [0.5, -2.5, -4, 0.3, -3, -4, -4, -1.5, -5, -5, -2, -5, -5, -5, -2.5, -5, -5, -3],
        [-4.5, -5, -6, -4, -6, -6, -5, -5, -6, -5, -5, -6, -6, -6, -5, -6, -6, -6],
    ],
    dtype=torch.float64,
).view(2, 6, 3)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (CldConfig(), [0.194858, 0.282009]),
        (CldConfig(temperature=2), [0.066153, 0.059485]),
        (CldConfig(temperature=4), [0.014417, 0.013472]),
        (CldConfig(probability="softmax_with_nothing"), [0.229021, 0.021822]),
        (CldConfig(probability="sigmoid"), [0.024146, 0.276682]),
        (
            CldConfig(flatten="per_class"),
            [0.166440 + 0.056610 + 0.030997, 0.139138 + 0.218068 + 0.087058],
        ),
    ],
)
def test_clds_golden_vectors(config: CldConfig, expected: list[float]):
    assert cld_per_cell(ZS, ZT, config).tolist() == pytest.approx(expected, abs=2e-6)


def test_clds_term_by_hand():
    # Two cells count as ten.
    found = cld_loss(ZS, ZT, 1, CldConfig(temperature=2, logit=TermConfig(weight=3)))
    assert found.item() == pytest.approx(3 * 4 * (0.066153 + 0.059485) / 10, abs=1e-5)


def test_own_class_reads_each_anchor_for_its_own():
    own = [0, 0, 1, 1, 2, 2]
    found = cld_per_cell(ZS, ZT, CldConfig(flatten="own_class"))
    ours = torch.stack([ZS[:, a, c] for a, c in enumerate(own)], 1).log_softmax(1)
    theirs = torch.stack([ZT[:, a, c] for a, c in enumerate(own)], 1).log_softmax(1)
    assert torch.allclose(found, (theirs.exp() * (theirs - ours)).sum(1))


def test_the_likeliest_class_stands_for_its_anchor():
    found = cld_per_cell(ZS, ZT, CldConfig(flatten="max_class"))
    ours, theirs = ZS.amax(2).log_softmax(1), ZT.amax(2).log_softmax(1)
    assert torch.allclose(found, (theirs.exp() * (theirs - ours)).sum(1))


def test_jensen_shannon_is_symmetric_and_bounded():
    config = CldConfig(divergence="js")
    there, back = cld_per_cell(ZS, ZT, config), cld_per_cell(ZT, ZS, config)
    assert torch.allclose(there, back)
    assert (there < math.log(2)).all()
    assert (there > 0).all()


@pytest.mark.parametrize("flatten", ["all", "per_class", "own_class", "max_class"])
@pytest.mark.parametrize("probability", ["softmax", "softmax_with_nothing", "sigmoid"])
@pytest.mark.parametrize("divergence", ["kl", "js"])
def test_a_perfect_student_is_at_clds_minimum(flatten: str, probability: str, divergence: str):
    config = CldConfig.model_validate(
        {"flatten": flatten, "probability": probability, "divergence": divergence}
    )
    student, teacher = ZT.clone().requires_grad_(), ZT.clone().requires_grad_()
    loss = cld_loss(student, teacher, 1, config)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-12
    assert teacher.grad is None
    assert cld_loss(ZS, ZT, 1, config) > 1e-4


def test_certain_cells_count_more():
    # Largest logits 2 and -4: probabilities 0.880797 and 0.017986.
    found = cld_loss(ZS, ZT, 1, CldConfig(certain=True))
    expected = (0.880797 * 0.194858 + 0.017986 * 0.282009) / 10
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_a_batch_is_the_mean_of_its_frames():
    both = cld_loss(torch.cat([ZS, ZS]), torch.cat([ZT, ZT]), 2, CldConfig())
    assert both.item() == pytest.approx(cld_loss(ZS, ZT, 1, CldConfig()).item())


def test_no_positive_cells_no_loss():
    logits = torch.zeros(0, 6, 3, requires_grad=True)
    loss = cld_loss(logits, torch.zeros(0, 6, 3), 2, CldConfig())
    loss.backward()
    assert loss.item() == 0
