"""The mirror of a store behind a URL: each file comes once, whole, and again if it is spoilt."""

import fcntl
import os
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

import store.source as store_source
from runs import sampler
from runs.sampler import Blocks, StepSampler
from store.choices import Coverage
from store.copy import copy_store
from store.dataset import CacheDataset
from store.errors import (
    DamagedRowError,
    MirrorError,
    RemoteError,
)
from store.files import FileEntry
from store.manifest import Manifest
from store.reader import open_cache
from store.remote import CONNECTIONS, Remote
from store.source import STALE_SECONDS, evict, in_turn
from tests.store.building import build, tree
from tests.store.faulty_proxy import faulty_proxy

ROWS = 40


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed store of three parts with maps."""
    return build(tmp_path_factory.mktemp("concurrent") / "store", ROWS, Coverage.DENSE)


def test_a_spoilt_file_of_the_mirror_comes_again(store: Path, bucket: str, tmp_path: Path):
    copy_store(store, f"{bucket}/store")
    cache = open_cache(f"{bucket}/store")
    cache.read_many(cache.tokens)
    expected = open_cache(store).read_many(cache.tokens)
    mirror = tmp_path / "mirror" / "bevcache-mirror" / cache.manifest_hash
    for key in ("bev_high/c/1/0/0/0", "boxes/score/c/0", "index/digest/c/0/0", "rows/zarr.json"):
        data = bytearray((mirror / key).read_bytes())
        data[len(data) // 2] ^= 1
        (mirror / key).write_bytes(data)
        for reader in (cache, open_cache(f"{bucket}/store")):
            for ours, theirs in zip(reader.read_many(cache.tokens), expected, strict=True):
                assert all(np.array_equal(ours.arrays[k], v) for k, v in theirs.arrays.items())
        assert (mirror / key).read_bytes() == (store / key).read_bytes()


def test_what_is_no_file_in_the_mirror_is_replaced_and_not_followed(
    store: Path, bucket: str, tmp_path: Path
):
    copy_store(store, f"{bucket}/store")
    cache = open_cache(f"{bucket}/store")
    cache.read_many(cache.tokens)
    expected = open_cache(store).read_many(cache.tokens)
    mirror = tmp_path / "mirror" / "bevcache-mirror" / cache.manifest_hash
    outside = shutil.copytree(mirror / "bev_low", tmp_path / "outside")
    (outside / "zarr.json").unlink()
    shutil.rmtree(mirror / "bev_low")
    (mirror / "bev_low").symlink_to(outside)
    before = tree(outside)
    for key in ("bev_high/c/0/0/0/0", "index/digest/c/0/0", "boxes/score/c/0"):
        (tmp_path / Path(key).parts[1]).write_bytes((mirror / key).read_bytes())
        (mirror / key).unlink()
        (mirror / key).symlink_to(tmp_path / Path(key).parts[1])
    (mirror / "bev_high/c/1/0/0/0").unlink()
    (mirror / "bev_high/c/1/0/0/0/folder").mkdir(parents=True)
    for reader in (cache, open_cache(f"{bucket}/store")):
        for ours, theirs in zip(reader.read_many(cache.tokens), expected, strict=True):
            assert all(np.array_equal(ours.arrays[k], v) for k, v in theirs.arrays.items())
    assert tree(outside) == before
    assert tree(mirror).items() <= tree(store).items()
    assert not [path for path in mirror.rglob("*") if path.is_symlink()]


def test_a_row_that_is_spoilt_at_its_source_is_an_error(store: Path, bucket: str, tmp_path: Path):
    """Its files are as the manifest says, so fetching them again would mend nothing."""
    spoilt = shutil.copytree(store, tmp_path / "spoilt")
    manifest = Manifest.load(spoilt)
    key = "boxes/score/c/0"
    data = bytearray((spoilt / key).read_bytes())
    data[0] ^= 1
    (spoilt / key).write_bytes(data)
    files = manifest.files | {key: FileEntry.of(bytes(data))}
    (spoilt / "manifest.json").write_bytes(manifest.model_copy(update={"files": files}).encode())
    copy_store(spoilt, f"{bucket}/store")
    with pytest.raises(DamagedRowError, match="array 'boxes/score' of row 'token-0001' is damaged"):
        open_cache(f"{bucket}/store")["token-0001"]


def test_a_batchs_files_come_once_for_all_and_side_by_side(
    store: Path, bucket: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
):
    copy_store(store, f"{bucket}/store")
    with faulty_proxy(endpoint, 0, latency=0.1) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        caches = [open_cache(f"{bucket}/store") for _ in range(2)]
        opened = proxy.requests
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda cache: cache.read_many(cache.tokens), caches))
        files = {key for key in tree(store) if "/c/" in key and not is_index(key)}
        assert proxy.requests - opened == len(files)
        assert CONNECTIONS <= proxy.most_at_once <= CONNECTIONS * len(caches)


def test_in_a_mirror_of_two_windows_a_pass_fetches_each_shard_once(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = build(tmp_path / "store", 16 * 8, Coverage.DENSE)
    copy_store(store, f"{bucket}/store")
    maps, rest = 0, 0
    for name, data in tree(store).items():
        if name.startswith(("bev_high/c/", "bev_low/c/", "heatmap_logit/c/")):
            maps += len(data)
        else:
            rest += len(data)
    monkeypatch.setenv("BEVCACHE_MIRROR_BYTES", str(rest + maps // 2))
    monkeypatch.setattr(sampler, "WINDOW", 2)
    asked: Counter[str] = Counter()
    get = Remote.get

    def noted_get(self: Remote, key: str, limit: int) -> bytes | None:
        asked[key] += 1
        return get(self, key, limit)

    monkeypatch.setattr(Remote, "get", noted_get)
    cache = open_cache(f"{bucket}/store")
    of = cache.shards(cache.tokens)
    assert of == [row // 16 for row in range(16 * 8)]
    assert open_cache(store).shards(cache.tokens) is None
    blocks = Blocks(of, lambda rows: cache.fetch((cache.tokens[row], 0) for row in rows))
    for index, _ in StepSampler(len(cache), 2 * len(cache), 0, blocks):
        assert cache[cache.tokens[index]].token == cache.tokens[index]
    shards = [count for key, count in asked.items() if key.startswith("bev_high/c/")]
    assert len(shards) == 8
    # Two passes; the second begins with what the first has left.
    assert max(shards) <= 2


def is_index(key: str) -> bool:
    return key.startswith(("rows/", "index/", "offsets/"))


def test_who_waits_for_a_stopped_process_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store_source, "LONGEST_TURN", 0.2)
    lock = tmp_path / "file.lock"
    began = time.monotonic()
    with lock.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with in_turn(lock):
            assert 0.2 <= time.monotonic() - began < 10


def test_what_killed_processes_left_is_swept(tmp_path: Path):
    old, new = time.time() - 2 * STALE_SECONDS, time.time()
    for name, written in [("a.1-1.tmp", old), ("b.lock", old), ("c.2-2.tmp", new), ("d", old)]:
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (written, written))
    evict(tmp_path, max_bytes=1000, keep=set())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.2-2.tmp", "d"]


def test_a_forked_process_is_refused_instead_of_hanging(store: Path, bucket: str):
    copy_store(store, f"{bucket}/store")
    rows = CacheDataset(f"{bucket}/store")
    assert rows[0].token == "token-0000"
    loader = DataLoader(
        rows, num_workers=1, collate_fn=list, multiprocessing_context="fork", timeout=60
    )
    with pytest.raises(RemoteError, match=r"(?s)forked from one .*'forkserver' or 'spawn'"):
        list(loader)


@pytest.mark.usefixtures("bucket")
def test_a_mirror_that_cannot_be_written_says_what_to_do(
    store: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    copy_store(store, f"{bucket}/store")
    (tmp_path / "mirror").write_text("not a folder")
    with pytest.raises(MirrorError, match=r"Not a directory.* make room, set BEVCACHE_MIRROR to"):
        open_cache(f"{bucket}/store")
    monkeypatch.setenv("BEVCACHE_MIRROR_BYTES", "plenty")
    with pytest.raises(MirrorError, match="'plenty' is no size: expected bytes, or 20GB"):
        open_cache(f"{bucket}/store")
