"""Which stages of a BEV backbone are targets: the first on the grid, the first at half of it."""

from collections.abc import Mapping, Sequence

from store.schema import Target

# By a stage's stride against the grid.
STAGES: Mapping[int, Target] = {1: Target.STAGE_0, 2: Target.STAGE_1}
LABELS: Mapping[int, Target] = {1: Target.LABEL_0, 2: Target.LABEL_1}


def of_stages(targets: Mapping[int, Target], strides: Sequence[int]) -> list[tuple[Target, int]]:
    """The targets that there are, each with the number of its stage.

    Args:
        targets: ``STAGES`` of a teacher, or ``LABELS`` of its label encoder.
        strides: Of each stage.
    """
    return [(t, strides.index(stride)) for stride, t in targets.items() if stride in strides]
