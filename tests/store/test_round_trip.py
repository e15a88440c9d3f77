from pathlib import Path

import numpy as np
import pytest
import torch

from store.reader import open_cache
from store.rows import CachedRow, RowValues
from store.schema import Coverage
from tests.store.building import build, usual_values


def assert_same(found: CachedRow, given_: RowValues) -> None:
    assert found.token == given_.token
    assert torch.equal(found.gt.values, given_.gt.values)
    assert torch.equal(found.gt.labels, given_.gt.labels)
    assert found.arrays.keys() == given_.arrays.keys()
    for name, array in given_.arrays.items():
        assert found.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays[name], array)


@pytest.mark.parametrize("coverage", list(Coverage))
def test_a_row_comes_back_as_it_was_given(tmp_path: Path, coverage: Coverage):
    cache = open_cache(build(tmp_path / "store", 19, coverage))
    assert len(cache) == 19
    assert cache.tokens == tuple(f"token-{row:04d}" for row in range(19))
    for row in (18, 0, 5, 16, 15):
        token = f"token-{row:04d}"
        assert_same(cache[token], usual_values(cache.fingerprint, row))
