import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nets.suppression import circle_keep


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 40),
    squared=st.sampled_from([0.175, 1.0, 12.0]),
    limit=st.integers(1, 50),
)
def test_circle_suppression_equals_the_literal_loop(
    seed: int, count: int, squared: float, limit: int
) -> None:
    centres = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * 12
    kept: list[int] = []
    for index in range(count):
        gaps = [((centres[index] - centres[other]) ** 2).sum() for other in kept]
        if all(gap > squared for gap in gaps):
            kept.append(index)
    assert circle_keep(centres, squared, limit).nonzero().squeeze(1).tolist() == kept[:limit]
