import json
import pickle
import random
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

import store.writer as store_writer
from store.choices import Coverage
from store.copy import copy_store
from store.dump_plan import Plan
from store.errors import (
    CacheError,
    DamagedRowError,
    DamagedStoreError,
    FormatVersionError,
    SealedStoreError,
    UnsafeStoreError,
)
from store.files import FileEntry, publish, read_sealed_json, sealed_json
from store.manifest import Manifest
from store.reader import Cache, open_cache
from store.seal import pack
from store.verify import verify
from store.writer import StoreWriter
from tests.store.building import build, fingerprint, identities, tree, write_pending

SHARDS = re.compile(r"(bev_low|bev_high|heatmap_logit)/c/")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed store of two parts with maps."""
    return build(tmp_path_factory.mktemp("pristine") / "store", 19, Coverage.DENSE)


@pytest.fixture
def store(pristine: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return shutil.copytree(pristine, tmp_path / "store")


def read_all(path: Path) -> list[dict[str, bytes]]:
    cache = open_cache(path)
    return [
        {name: values.tobytes() for name, values in cache[token].arrays.items()}
        for token in cache.tokens
    ]


def resign(path: Path) -> None:
    """Make the manifest vouch for whatever the files hold now, as an attacker would."""
    document = read_sealed_json(path / "manifest.json")
    del document["sha256"]
    for key in document["files"]:
        document["files"][key] = FileEntry.of((path / key).read_bytes()).model_dump()
    (path / "manifest.json").write_bytes(sealed_json(document))


def test_a_flipped_bit_in_any_file_is_found_by_verify_and_never_read(store: Path):
    rng = random.Random(0)
    files, right = tree(store), read_all(store)
    assert len(files) > 40
    for name, data in files.items():
        places = [0, len(data) - 1, rng.randrange(len(data))]
        for place in places if SHARDS.match(name) else places[-1:]:
            spoilt = bytearray(data)
            spoilt[place] ^= 1 << rng.randrange(8)
            (store / name).write_bytes(spoilt)
            if name == "manifest.json":
                with pytest.raises(CacheError, match="store"):
                    read_all(store)
                continue
            assert [fault.split()[0] for fault in verify(store)] == [name]
            # A chunk's padding and its checksum are no row's values: altering them does no harm.
            with suppress(CacheError):
                assert read_all(store) == right
        (store / name).write_bytes(data)
    read_all(store)


def test_a_flipped_bit_in_a_small_target_names_its_row(store: Path):
    shard = store / "boxes/centre/c/0/0"
    data = bytearray(shard.read_bytes())
    # Rows hold 0, 1, 2, ... boxes of 12 bytes: the second row's only box comes first.
    data[5] ^= 1
    shard.write_bytes(data)
    cache = open_cache(store)
    cache["token-0000"]
    with pytest.raises(DamagedRowError, match=r"'boxes/centre' of row 'token-0001'"):
        cache["token-0001"]


def delete(shards: Path) -> None:
    (shards / "0/0/0/0").unlink()


def truncate(shards: Path) -> None:
    shard = shards / "0/0/0/0"
    shard.write_bytes(shard.read_bytes()[:-10])


def empty(shards: Path) -> None:
    (shards / "0/0/0/0").write_bytes(b"")


def swap(shards: Path) -> None:
    (shards / "0").rename(shards / "2")
    (shards / "1").rename(shards / "0")
    (shards / "2").rename(shards / "1")


@pytest.mark.parametrize("spoil", [delete, truncate, empty, swap])
def test_a_spoilt_shard_is_an_error_that_names_row_and_array(
    store: Path, spoil: Callable[[Path], None]
):
    spoil(store / "bev_high/c")
    cache = open_cache(store)
    with pytest.raises(DamagedRowError, match=r"'bev_high' of row 'token-0003' is damaged"):
        cache["token-0003"]


def test_shards_and_manifest_entries_swapped_together_are_noticed(store: Path):
    swap(store / "bev_high/c")
    resign(store)
    with pytest.raises(DamagedRowError, match="its bytes do not have their digest"):
        open_cache(store)["token-0000"]


@pytest.mark.parametrize("name", ["gt/values/c/0/0", "rows/token/c/0/0", "offsets/cells/zarr.json"])
def test_a_small_file_cut_short_or_gone_is_noticed_at_open(store: Path, name: str):
    (store / name).write_bytes((store / name).read_bytes()[:-1])
    with pytest.raises(CacheError, match=name):
        open_cache(store)
    (store / name).unlink()
    with pytest.raises(DamagedStoreError, match=name):
        open_cache(store)


def change_metadata(path: Path, change: Callable[[dict[str, object]], None]) -> None:
    document = json.loads((path / "bev_high/zarr.json").read_text())
    change(document)
    (path / "bev_high/zarr.json").write_text(json.dumps(document))
    resign(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("codecs", [{"name": "numcodecs.pickle", "configuration": {}}]),
        ("data_type", "object"),
        ("shape", [1 << 50, 4, 6, 8]),
        ("chunk_grid", {"name": "regular", "configuration": {"chunk_shape": [1 << 40, 4, 6, 8]}}),
        ("storage_transformers", [{"name": "run-this"}]),
        ("fill_value", 0),
    ],
)
def test_metadata_that_format_1_never_writes_is_not_opened(store: Path, key: str, value: object):
    change_metadata(store, lambda document: document.update({key: value}))
    with pytest.raises(UnsafeStoreError, match=rf"bev_high/zarr.json.*{key}"):
        open_cache(store)


def test_a_symbolic_link_is_not_followed(store: Path, tmp_path: Path):
    secret = tmp_path / "secret"
    (store / "bev_high").rename(secret)
    (store / "bev_high").symlink_to(secret)
    with pytest.raises(UnsafeStoreError, match="bev_high is a symbolic link"):
        open_cache(store)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "gt/values/c/9/0"])
def test_a_manifest_that_lists_other_files_is_refused(store: Path, name: str):
    document = read_sealed_json(store / "manifest.json")
    del document["sha256"]
    document["files"][name] = {"size": 1, "sha256": "0" * 64}
    (store / "manifest.json").write_bytes(sealed_json(document))
    with pytest.raises(UnsafeStoreError, match="disagree on files"):
        open_cache(store)


@pytest.mark.parametrize("name", ["../escape", "/absolute", "a/../b", "gt/values", "rows/token"])
def test_an_array_name_cannot_leave_the_store(store: Path, name: str):
    document = read_sealed_json(store / "manifest.json")
    del document["sha256"]
    document["fingerprint"]["arrays"][0]["name"] = name
    (store / "manifest.json").write_bytes(sealed_json(document))
    with pytest.raises(DamagedStoreError, match="is not a manifest"):
        open_cache(store)


def test_another_format_is_refused(store: Path):
    document = read_sealed_json(store / "manifest.json")
    del document["sha256"]
    (store / "manifest.json").write_bytes(sealed_json(document | {"format": 2}))
    with pytest.raises(FormatVersionError, match="is of format 2, expected 1"):
        open_cache(store)


def test_the_manifest_hash_is_the_identity_of_the_content(pristine: Path, tmp_path: Path):
    again = open_cache(build(tmp_path / "again", 19, Coverage.DENSE))
    assert again.manifest_hash == open_cache(pristine).manifest_hash
    other = open_cache(build(tmp_path / "other", 18, Coverage.DENSE))
    assert other.manifest_hash != again.manifest_hash
    assert re.fullmatch("[0-9a-f]{64}", again.manifest_hash)


def test_nothing_is_written_through_a_link_in_a_temporarys_place(pristine: Path, tmp_path: Path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for folder, name in (("copy", "manifest.json.tmp"), ("dump", "plan.json.tmp")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).symlink_to(victim)
    copy_store(pristine, tmp_path / "copy")
    with pytest.raises(UnsafeStoreError, match=r"plan\.json\.tmp is a symbolic link"):
        build(tmp_path / "dump", 3)
    publish(tmp_path / "dump/plan.json", b"plan")
    assert victim.read_text() == "precious"
    assert tree(tmp_path / "copy") == tree(pristine)


def test_a_link_in_a_destination_is_not_followed(pristine: Path, tmp_path: Path):
    rows = identities(19)
    made_for = fingerprint(rows)
    StoreWriter.open(tmp_path / "dump", made_for, rows)
    (tmp_path / "copy").mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    for folder in ("dump", "copy"):
        (tmp_path / folder / "rows").symlink_to(outside)
    with pytest.raises(UnsafeStoreError, match="rows is a symbolic link"):
        copy_store(pristine, tmp_path / "copy")
    with pytest.raises(UnsafeStoreError, match="rows is a symbolic link"):
        StoreWriter.open(tmp_path / "dump", made_for, rows, resume=True)
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked/dump.lock").symlink_to(outside / "lock")
    with pytest.raises(UnsafeStoreError, match=r"dump\.lock is a symbolic link"):
        build(tmp_path / "locked", 3)
    assert not list(outside.iterdir())


def test_damage_before_sealing_makes_the_part_pending_again(tmp_path: Path, pristine: Path):
    path = tmp_path / "store"
    rows = identities(19)
    made_for = fingerprint(rows, Coverage.DENSE)
    writer = StoreWriter.open(path, made_for, rows)
    write_pending(writer, made_for)
    shard = path / "bev_high/c/1/0/0/0"
    shard.write_bytes(bytes(reversed(shard.read_bytes())))
    with pytest.raises(DamagedStoreError, match=r"token-0016.*Rows 16 to 18 are pending again"):
        writer.finalise()
    assert writer.pending_parts == [range(16, 19)]
    write_pending(writer, made_for)
    writer.finalise()
    assert tree(path) == tree(pristine)


def test_damage_while_sealing_costs_no_part(
    tmp_path: Path, pristine: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "store"
    rows = identities(19)
    made_for = fingerprint(rows, Coverage.DENSE)
    writer = StoreWriter.open(path, made_for, rows)
    write_pending(writer, made_for)

    def packed_badly(root: Path, plan: Plan) -> Manifest:
        manifest = pack(root, plan)
        data = (root / "boxes/centre/c/0/0").read_bytes()
        (root / "boxes/centre/c/0/0").write_bytes(bytes([data[0] ^ 1, *data[1:]]))
        return manifest

    monkeypatch.setattr(store_writer, "pack", packed_badly)
    with pytest.raises(DamagedRowError, match="'boxes/centre' of row 'token-0001'"):
        writer.finalise()
    assert writer.pending_parts == []
    monkeypatch.undo()
    writer.finalise()
    assert tree(path) == tree(pristine)


def spoil_record(path: Path) -> None:
    record = path / "parts/00000000.part"
    data = bytearray(record.read_bytes())
    data[len(data) // 2] ^= 4
    record.write_bytes(data)


def cut_record(path: Path) -> None:
    record = path / "parts/00000000.part"
    record.write_bytes(record.read_bytes()[:-40])


def delete_shard(path: Path) -> None:
    delete(path / "bev_low/c")


def truncate_shard(path: Path) -> None:
    truncate(path / "bev_low/c")


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_record,
        cut_record,
        delete_shard,
        truncate_shard,
    ],
)
def test_a_part_that_is_not_whole_is_written_again(
    tmp_path: Path, spoil: Callable[[Path], None], pristine: Path
):
    path = tmp_path / "store"
    rows = identities(19)
    made_for = fingerprint(rows, Coverage.DENSE)
    write_pending(StoreWriter.open(path, made_for, rows), made_for)
    spoil(path)
    writer = StoreWriter.open(path, made_for, rows, resume=True)
    assert writer.pending_parts == [range(16)]
    write_pending(writer, made_for)
    writer.finalise()
    assert tree(path) == tree(pristine)


def test_leftovers_of_a_dump_killed_after_sealing_are_swept(store: Path, pristine: Path):
    (store / "parts").mkdir()
    (store / "parts/00000000.part").write_bytes(b"left over")
    (store / "plan.json").write_bytes(b"left over")
    read_all(store)
    rows = identities(19)
    with pytest.raises(SealedStoreError, match="finished store"):
        StoreWriter.open(store, fingerprint(rows, Coverage.DENSE), rows, resume=True)
    assert tree(store) == tree(pristine)


def test_a_damaged_row_error_survives_a_worker_process(store: Path):
    delete(store / "bev_low/c")
    cache: Cache = open_cache(store)
    with pytest.raises(DamagedRowError, match="bev_low") as caught:
        cache["token-0000"]
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert (again.token, again.array) == ("token-0000", "bev_low")
