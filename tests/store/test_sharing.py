import os
import pickle
import re
import shutil
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from store.choices import Coverage
from store.copy import copy_store
from store.errors import (
    DamagedStoreError,
    MirrorError,
    NotACacheError,
    RemoteError,
    StoreExistsError,
    UnsafeStoreError,
)
from store.location import LocalFolder
from store.reader import Cache, open_cache
from store.remote import Remote, Version
from store.source import evict, mirror_bytes
from store.verify import verify
from tests.store.building import build, tree
from tests.web_server import served


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed store of three parts with maps."""
    return build(tmp_path_factory.mktemp("shared") / "store", 40, Coverage.DENSE)


def read_all(cache: Cache) -> list[dict[str, np.ndarray]]:
    return [cache[token].arrays for token in cache.tokens]


def assert_same(found: Cache, expected: Cache) -> None:
    assert found.manifest_hash == expected.manifest_hash
    for ours, theirs in zip(read_all(found), read_all(expected), strict=True):
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours)


def test_a_copy_through_s3_and_back_is_the_same_to_the_byte(
    store: Path, bucket: str, tmp_path: Path
):
    copy_store(store, f"{bucket}/team/centerpoint")
    assert verify(f"{bucket}/team/centerpoint") == []
    copy_store(f"{bucket}/team/centerpoint/", tmp_path / "back")
    assert tree(tmp_path / "back") == tree(store)
    assert verify(tmp_path / "back") == []


def test_a_store_on_s3_reads_like_the_local_one(store: Path, bucket: str, tmp_path: Path):
    copy_store(store, f"{bucket}/store")
    cache = open_cache(f"{bucket}/store")
    mirror = tmp_path / "mirror" / "bevcache-mirror" / cache.manifest_hash
    assert not list(mirror.glob("bev_high/c/*")), "a map is fetched when it is read, not before"
    cache[cache.tokens[0]]
    assert [path.name for path in (mirror / "bev_high/c").iterdir()] == ["0"]
    assert_same(cache, open_cache(store))


def test_a_worker_process_reads_from_s3_too(store: Path, bucket: str):
    copy_store(store, f"{bucket}/store")
    cache = open_cache(f"{bucket}/store")
    first = cache[cache.tokens[0]].arrays["bev_high"]
    with ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as pool:
        found = pool.submit(_bev_high, pickle.dumps(cache), cache.tokens[0]).result()
    assert np.array_equal(found, first)


def _bev_high(pickled: bytes, token: str) -> np.ndarray:
    cache: Cache = pickle.loads(pickled)
    return cache[token].arrays["bev_high"]


def test_what_is_in_the_mirror_is_not_fetched_again(
    store: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
):
    copy_store(store, f"{bucket}/store")
    read_all(open_cache(f"{bucket}/store"))
    asked: list[str] = []
    get = Remote.get

    def noted_get(self: Remote, key: str, limit: int) -> bytes | None:
        asked.append(key)
        return get(self, key, limit)

    monkeypatch.setattr(Remote, "get", noted_get)
    read_all(open_cache(f"{bucket}/store"))
    assert asked == ["manifest.json"]


def test_the_mirror_stays_within_its_bound(
    store: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    copy_store(store, f"{bucket}/store")
    whole = sum(len(data) for data in tree(store).values())
    largest = max(len(data) for data in tree(store).values())
    monkeypatch.setenv("BEVCACHE_MIRROR_BYTES", str(largest))
    cache = open_cache(f"{bucket}/store")
    assert_same(cache, open_cache(store))
    assert sum(len(data) for data in tree(tmp_path / "mirror").values()) < whole / 2


def test_an_altered_file_on_s3_is_refused(store: Path, bucket: str):
    copy_store(store, f"{bucket}/store")
    key = "bev_high/c/1/0/0/0"
    data = bytearray((store / key).read_bytes())
    data[100] ^= 1
    Remote(f"{bucket}/store").put(key, bytes(data))
    cache = open_cache(f"{bucket}/store")
    cache["token-0003"]
    with pytest.raises(DamagedStoreError, match=f"{key} is not as it was written"):
        cache["token-0016"]
    assert verify(f"{bucket}/store") == [f"{key} is not as it was written (rows 16 to 31)"]
    Remote(f"{bucket}/store").put(key, bytes(data) * 2)
    with pytest.raises(UnsafeStoreError, match="bytes; at most"):
        cache["token-0016"]


def test_verify_names_every_fault(store: Path, tmp_path: Path):
    path = shutil.copytree(store, tmp_path / "store")
    (path / "bev_low/c/2/0/0/0").unlink()
    (path / "gt/values/c/0/0").write_bytes(b"short")
    faults = verify(path)
    assert len(faults) == 2
    assert faults[0] == "bev_low/c/2/0/0/0 is missing (rows 32 to 39)"
    assert faults[1].startswith("gt/values/c/0/0 has 5 bytes, expected ")


def test_an_interrupted_copy_goes_on(store: Path, bucket: str, monkeypatch: pytest.MonkeyPatch):
    sent: list[str] = []
    allowed = [20]
    put = Remote.put_version

    def counted_put(self: Remote, key: str, data: bytes, replaced: Version) -> bool:
        if len(sent) == allowed[0]:
            raise RemoteError("the line is cut")
        sent.append(key)
        return put(self, key, data, replaced)

    monkeypatch.setattr(Remote, "put_version", counted_put)
    with pytest.raises(RemoteError, match="the line is cut"):
        copy_store(store, f"{bucket}/store")
    with pytest.raises(NotACacheError, match=r"holds no manifest\.json"):
        open_cache(f"{bucket}/store")
    allowed[0] = -1
    copy_store(store, f"{bucket}/store")
    assert len(set(sent)) == len(sent) == len(tree(store)), "what had arrived was not sent again"
    assert sent[-1] == "manifest.json"
    assert verify(f"{bucket}/store") == []


def test_a_destination_that_holds_something_else_is_refused(
    store: Path, bucket: str, tmp_path: Path
):
    other = build(tmp_path / "other", 3)
    copy_store(other, f"{bucket}/store")
    with pytest.raises(StoreExistsError, match="holds another store"):
        copy_store(store, f"{bucket}/store")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("mine")
    with pytest.raises(StoreExistsError, match=r"no copy of this store \(\['thesis.tex'\]\)"):
        copy_store(store, tmp_path / "full")


def test_a_copy_never_spoils_what_another_has_written(
    store: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = build(tmp_path / "other", 40)
    put = Remote.put_version
    begun: list[str] = []

    def overtaken(self: Remote, key: str, data: bytes, replaced: Version) -> bool:
        """While the first copy is at it, another store is copied there, or tried to be."""
        if key == "manifest.json" and not begun:
            begun.append(key)
            with pytest.raises(StoreExistsError, match="is a file of another store, or another"):
                copy_store(other, f"{bucket}/store")
        return put(self, key, data, replaced)

    monkeypatch.setattr(Remote, "put_version", overtaken)
    copy_store(store, f"{bucket}/store")
    assert begun
    assert verify(f"{bucket}/store") == []
    assert open_cache(f"{bucket}/store").manifest_hash == open_cache(store).manifest_hash


def test_copies_of_two_stores_to_one_place_at_once_end_in_one_store_or_none(
    store: Path, bucket: str, tmp_path: Path
):
    def copied(source: Path) -> str | None:
        try:
            return copy_store(source, f"{bucket}/store").root_hash
        except StoreExistsError:
            return None

    with ThreadPoolExecutor(2) as pool:
        done = [*filter(None, pool.map(copied, (store, build(tmp_path / "other", 40))))]
    try:
        found = [open_cache(f"{bucket}/store").manifest_hash]
        assert verify(f"{bucket}/store") == []
    except NotACacheError:
        found = []
    assert found == done


def test_copying_again_mends_a_finished_copy(store: Path, bucket: str):
    copy_store(store, f"{bucket}/store")
    Remote(f"{bucket}/store").put("bev_high/c/1/0/0/0", b"spoilt")
    (fault,) = verify(f"{bucket}/store")
    assert "bev_high/c/1/0/0/0 has 6 bytes, expected" in fault
    Remote(f"{bucket}/store").put("boxes/score/c/0", bytes(100_000))
    assert re.fullmatch(r"boxes/score/c/0 has more than \d+ bytes", verify(f"{bucket}/store")[1])
    copy_store(store, f"{bucket}/store")
    assert verify(f"{bucket}/store") == []


def test_a_store_behind_a_web_server_reads_like_the_local_one(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BEVCACHE_MIRROR", str(tmp_path / "mirror"))
    with served(store.parent) as url:
        assert_same(open_cache(f"{url}/store"), open_cache(store))
        with pytest.raises(RemoteError, match="is read-only"):
            copy_store(store, f"{url}/store-copy")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://user:secret@host/store", "expected one of"),
        ("s3://key:secret@bucket/store", "carries a user"),
        ("https://host/store?token=secret", "carries a user, a query"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_and_its_secret_not_repeated(url: str, message: str):
    with pytest.raises(RemoteError, match=message) as refused:
        open_cache(url)
    assert "secret" not in str(refused.value)


def test_an_aws_profile_is_read(
    bucket: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    copy_store(store, f"{bucket}/store")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    keys = tmp_path / "credentials"
    keys.write_text("[default]\naws_access_key_id = me\naws_secret_access_key = mine\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    assert open_cache(f"{bucket}/store").manifest_hash == open_cache(store).manifest_hash


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_does_not_exist_is_an_error_without_credentials():
    with pytest.raises((RemoteError, NotACacheError), match="nowhere-at-all") as refused:
        open_cache("s3://nowhere-at-all/store")
    assert "secret" not in str(refused.value)


def test_a_second_copy_into_the_same_folder_is_refused_until_the_first_is_done(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    put = LocalFolder.put
    refused: list[str] = []

    def slow_put(self: LocalFolder, key: str, data: bytes) -> None:
        if key == "manifest.json":
            with pytest.raises(StoreExistsError, match="another process is copying into") as caught:
                copy_store(store, tmp_path / "copy")
            refused.append(str(caught.value))
        put(self, key, data)

    monkeypatch.setattr(LocalFolder, "put", slow_put)
    copy_store(store, tmp_path / "copy")
    assert len(refused) == 1
    assert tree(tmp_path / "copy") == tree(store)
    monkeypatch.setattr(LocalFolder, "put", put)
    copy_store(store, tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(store)


def test_the_mirrors_bound_is_a_size(bucket: str, store: Path, monkeypatch: pytest.MonkeyPatch):
    copy_store(store, f"{bucket}/store")
    monkeypatch.setenv("BEVCACHE_MIRROR_BYTES", "20 GB")
    assert mirror_bytes() == 20_000_000_000
    monkeypatch.setenv("BEVCACHE_MIRROR_BYTES", "plenty")
    with pytest.raises(MirrorError, match="BEVCACHE_MIRROR_BYTES='plenty' is no size: expected"):
        open_cache(f"{bucket}/store")


def test_a_mirror_that_cannot_be_written_names_its_variables(
    bucket: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    copy_store(store, f"{bucket}/store")
    (tmp_path / "file").touch()
    monkeypatch.setenv("BEVCACHE_MIRROR", str(tmp_path / "file"))
    with pytest.raises(MirrorError, match="set BEVCACHE_MIRROR to another folder, or BEVCACHE_MI"):
        open_cache(f"{bucket}/store")


def test_what_a_killed_process_left_in_the_mirror_is_swept(tmp_path: Path):
    for name, hours in (("old.1-2.tmp", 2), ("new.1-2.tmp", 0)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - 3600 * hours,) * 2)
    evict(tmp_path, 1 << 30, keep=set())
    assert [path.name for path in tmp_path.iterdir()] == ["new.1-2.tmp"]
