import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from store.choices import Coverage
from store.dataset import CacheDataset
from store.errors import NotACacheError, UnknownTokenError
from store.reader import open_cache
from store.rows import CachedRow
from tests.store.building import build

PAGE = Path(__file__).parents[2] / "docs" / "streaming.md"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("dataset") / "store", 20, Coverage.DENSE)


def same(ours: CachedRow, theirs: CachedRow) -> bool:
    return (
        ours.token == theirs.token
        and ours.gt.values.equal(theirs.gt.values)
        and ours.arrays.keys() == theirs.arrays.keys()
        and all(np.array_equal(ours.arrays[key], theirs.arrays[key]) for key in ours.arrays)
    )


def test_a_row_is_found_by_number_and_by_token(store: Path):
    rows, cache = CacheDataset(store), open_cache(store)
    assert len(rows) == 20
    assert same(rows[17], cache["token-0017"])
    assert same(rows["token-0017"], rows[-3])
    assert [row.token for row in rows] == list(cache.tokens)  # type: ignore[attr-defined]
    with pytest.raises(UnknownTokenError, match="has no row 'token-0020' among its 20"):
        rows["token-0020"]


def test_several_rows_come_in_the_order_asked_for(store: Path):
    rows = CacheDataset(open_cache(store))
    keys: list[int | str] = [3, "token-0019", 3]
    found = rows.__getitems__(keys)
    assert len(found) == 3
    assert all(same(row, rows[key]) for row, key in zip(found, keys, strict=True))


def test_it_is_opened_when_it_is_first_used(tmp_path: Path):
    rows = CacheDataset(tmp_path / "later")
    with pytest.raises(NotACacheError, match="expected the folder of a store"):
        len(rows)
    build(tmp_path / "later", 2)
    assert len(rows) == 2


@pytest.mark.parametrize("method", ["forkserver", "spawn", "fork"])
def test_workers_of_every_kind_read_a_local_store(store: Path, method: str):
    rows = CacheDataset(store)
    here = [rows[index] for index in range(len(rows))]
    loader = DataLoader(
        rows, batch_size=8, num_workers=1, collate_fn=list, multiprocessing_context=method
    )
    there = [row for batch in loader for row in batch]
    assert len(there) == 20
    assert all(same(a, b) for a, b in zip(here, there, strict=True))


def test_the_pages_example_runs(store: Path):
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    scope: dict[str, Any] = {"location": store}
    exec(compile(block, str(PAGE), "exec"), scope)
    token, values, centres = scope["seen"]
    assert centres.shape == (len(values), 3)
    assert token in open_cache(store)
