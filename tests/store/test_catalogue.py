import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

from store.catalogue import Catalogue, Listing, read_catalogue, resolve
from store.catalogue_file import MAX_CATALOGUE_BYTES, CatalogueFile, catalogue_file
from store.copy import copy_store
from store.errors import (
    CatalogueError,
    NotACacheError,
    RemoteError,
    StoreWriteError,
    UnsafeStoreError,
)
from store.merge import plan_merge
from store.reader import open_cache
from store.remote import Remote
from store.summary import summary
from store.verify import finished_store, verify
from tests.store.building import build, tree
from tests.store.merging import piece
from tests.web_server import served


class Quiet(WSGIRequestHandler):
    def log(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """moto's S3, a request at a time: it looks at a condition and writes in two steps."""
    moto, turn = DomainDispatcherApplication(create_backend_app), Lock()

    def one_at_a_time(environ: Any, start_response: Any) -> list[bytes]:
        with turn:
            return list(moto(environ, start_response))

    server = make_server("127.0.0.1", 0, one_at_a_time, threaded=True, request_handler=Quiet)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("built") / "store", 3)


@pytest.fixture
def team(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A team's folder: a catalogue and a store that it lists as ``toy-v1``."""
    folder = tmp_path / "team"
    shutil.copytree(built, folder / "stores/toy")
    monkeypatch.setenv("BEVCACHE_CATALOGUE", str(folder / "catalogue.json"))
    add("toy-v1", folder / "stores/toy")
    return folder


def listing(place: Path | str, description: str = "a toy") -> Listing:
    _, manifest = finished_store(place)
    location = catalogue_file().relative(resolve(place).location)
    return Listing.of(manifest, location, description, "CC BY 4.0")


def add(name: str, place: Path | str, **options: Any) -> None:
    add_listing(catalogue_file(), name, listing(place), **options)


def add_listing(file: CatalogueFile, name: str, listed: Listing, **options: Any) -> None:
    file.change(
        lambda found: Catalogue.parse(found, "c").with_store(name, listed, **options).encode()
    )


def listed() -> dict[str, Listing]:
    return read_catalogue(catalogue_file()).stores


def test_a_name_is_taken_wherever_a_store_is(team: Path, tmp_path: Path):
    toy = open_cache(team / "stores/toy")
    assert open_cache("team:toy-v1").manifest_hash == toy.manifest_hash
    assert verify("team:toy-v1") == []
    copy_store("team:toy-v1", tmp_path / "copy")
    assert tree(tmp_path / "copy") == tree(team / "stores/toy")
    facts = summary("team:toy-v1")
    assert (facts["listed_as"], facts["manifest_hash"]) == ("team:toy-v1", toy.manifest_hash)
    more = piece(tmp_path / "more", range(3, 5), toy.fingerprint.coverage)
    assert plan_merge(["team:toy-v1", more]).fingerprint.sources[0] == toy.manifest_hash
    with pytest.raises(CatalogueError, match="team:toy-v1 is the name of a store to read"):
        copy_store(more, "team:toy-v1")


def test_what_is_listed_of_a_store(team: Path):
    (found,) = listed().values()
    assert found.location == "stores/toy"
    assert (found.teacher, found.dataset, found.split) == ("pillars", "world v1", "train")
    files = tree(team / "stores/toy")
    del files["manifest.json"]
    assert (found.rows, found.bytes) == (3, sum(map(len, files.values())))


def test_a_folder_moved_with_its_catalogue_still_works(
    team: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    team.rename(tmp_path / "elsewhere")
    monkeypatch.setenv("BEVCACHE_CATALOGUE", str(tmp_path / "elsewhere/catalogue.json"))
    assert len(open_cache("team:toy-v1")) == 3
    monkeypatch.chdir(tmp_path / "elsewhere/stores")
    monkeypatch.setenv("BEVCACHE_CATALOGUE", "../catalogue.json")
    assert len(open_cache("team:toy-v1")) == 3


def test_another_store_at_the_listed_place_is_refused(team: Path, tmp_path: Path):
    other = build(tmp_path / "other", 2)
    shutil.rmtree(team / "stores/toy")
    shutil.copytree(other, team / "stores/toy")
    hashes = f"found manifest {open_cache(other).manifest_hash}, expected "
    hashes += listed()["toy-v1"].manifest_hash
    for use in (open_cache, verify, summary, finished_store):
        with pytest.raises(CatalogueError, match=hashes):
            use("team:toy-v1")
    (team / "stores/toy/manifest.json").unlink()
    with pytest.raises(NotACacheError, match="holds neither"):
        open_cache("team:toy-v1")


def test_a_name_is_never_given_to_another_store_unasked(team: Path):
    build(team / "stores/other", 2)
    before = (team / "catalogue.json").read_bytes()
    add("toy-v1", team / "stores/toy")
    assert (team / "catalogue.json").read_bytes() == before, "the same again changes nothing"
    with pytest.raises(CatalogueError, match=r"toy-v1 is listed already .*new name, or --replace"):
        add("toy-v1", team / "stores/other")
    with pytest.raises(CatalogueError, match="listed already"):
        add_listing(catalogue_file(), "toy-v1", listing(team / "stores/toy", "another word"))
    assert (team / "catalogue.json").read_bytes() == before
    add("toy-v1", team / "stores/other", replace=True)
    assert len(open_cache("team:toy-v1")) == 2


def test_a_name_taken_out_is_gone_and_the_store_stays(team: Path):
    catalogue_file().change(lambda d: Catalogue.parse(d, "c").without_store("toy-v1").encode())
    assert listed() == {}
    with pytest.raises(CatalogueError, match="lists no 'toy-v1'; it lists nothing"):
        open_cache("team:toy-v1")
    assert verify(team / "stores/toy") == []


@pytest.mark.parametrize(
    "name", ["", "Toy", "a_b", "-a", ".a", "a/b", "..", "a b", "a" * 65, "a\n"]
)
def test_names_that_are_none_are_refused(team: Path, name: str):
    with pytest.raises(CatalogueError, match=r"cannot be listed: .*A name is of a-z"):
        add(name, team / "stores/toy")


@pytest.mark.parametrize("text", ["two\nlines", "\x1b[31mred", "\u202egnp", "", "x" * 501])
def test_a_description_is_one_printable_line(team: Path, text: str):
    with pytest.raises(CatalogueError, match="cannot be listed: description"):
        listing(team / "stores/toy", text)


def hostile(**changes: Any) -> bytes:
    entry = {
        "location": "stores/toy",
        "manifest_hash": "ab" * 32,
        "teacher": "t",
        "dataset": "d",
        "split": "s",
        "rows": 3,
        "bytes": 4,
        "description": "a",
        "licence": "b",
        "added": "2026-11-21",
    }
    return json.dumps({"catalogue": 1, "stores": {"toy": entry | changes}}).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no catalogue: "),
        (b"\xff\xfe", "is no catalogue: "),
        (b"[1, 2]", "is no catalogue: "),
        (b'{"catalogue": 2, "stores": {}}', "catalogue: Input should be 1"),
        (b'{"stores": {}, "more": 1}', "more: Extra inputs"),
        (b'{"stores": {}, "stores": {}}', r"\['stores'\] come twice"),
        (b"[" * 100_000, "is no catalogue: "),
        (hostile(surprise=1), "stores.toy.surprise: Extra inputs"),
        (hostile(rows="3"), "stores.toy.rows: "),
        (hostile(rows=-1), "stores.toy.rows: "),
        (hostile(rows=10**400), "stores.toy.rows: "),
        (hostile(manifest_hash="AB" * 32), "stores.toy.manifest_hash: "),
        (hostile(added="tomorrow"), "stores.toy.added: "),
        (hostile(description="\x1b]0;gone\x07"), "one line of printable characters"),
        (hostile(location="../../etc"), r"without '\.\.'"),
        (hostile(location="team:toy"), "expected a URL, or a path"),
        (hostile(location="file:///etc"), "cannot be used"),
        (hostile(location="s3://key:secret@bucket/x"), "carries a user"),
        (hostile().replace(b'"toy"', b'"../toy"'), r"stores\..*pattern"),
        (hostile().replace(b'"toy"', b'"\\u001b[31m"'), r"stores\.\\x1b\[31m"),
    ],
)
def test_a_catalogue_that_is_odd_is_refused(team: Path, data: bytes, message: str):
    (team / "catalogue.json").write_bytes(data)
    with pytest.raises(CatalogueError, match=message) as refused:
        open_cache("team:toy-v1")
    assert "secret" not in str(refused.value)
    with pytest.raises(CatalogueError, match=message):
        add("more", team / "stores/toy")
    assert (team / "catalogue.json").read_bytes() == data


def test_a_catalogue_too_large_is_not_read(team: Path):
    with (team / "catalogue.json").open("r+b") as file:
        file.truncate(MAX_CATALOGUE_BYTES + 1)
    with pytest.raises(UnsafeStoreError, match=f"at most {MAX_CATALOGUE_BYTES} fit"):
        open_cache("team:toy-v1")


def test_without_a_catalogue_a_name_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("BEVCACHE_CATALOGUE", raising=False)
    with pytest.raises(CatalogueError, match="BEVCACHE_CATALOGUE is not set"):
        open_cache("team:toy")
    monkeypatch.setenv("BEVCACHE_CATALOGUE", str(tmp_path / "none.json"))
    with pytest.raises(CatalogueError, match=r"none\.json is not there"):
        open_cache("team:toy")
    (tmp_path / "file").touch()
    monkeypatch.setenv("BEVCACHE_CATALOGUE", str(tmp_path / "file/catalogue.json"))
    with pytest.raises(StoreWriteError, match=r"cannot write .*file/catalogue\.json"):
        catalogue_file().change(lambda _found: b"")
    monkeypatch.setenv("BEVCACHE_CATALOGUE", "s3://key:secret@bucket/c.json")
    with pytest.raises(RemoteError, match="carries a user") as refused:
        open_cache("team:toy")
    assert "secret" not in str(refused.value)


def add_at_once(built: Path) -> None:
    """Three people add four names each."""
    toy = listing(built)
    with ThreadPoolExecutor(3) as people:
        work = [
            people.submit(add_listing, catalogue_file(), f"toy-{person}.{number}", toy)
            for number in range(4)
            for person in range(3)
        ]
        for done in work:
            done.result()
    assert sorted(listed()) == [
        f"toy-{person}.{number}" for person in range(3) for number in range(4)
    ]


def test_nobody_who_adds_at_once_is_lost(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BEVCACHE_CATALOGUE", str(tmp_path / "new/catalogue.json"))
    add_at_once(built)


def test_nobody_who_adds_at_once_on_s3_is_lost(
    built: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BEVCACHE_CATALOGUE", f"{bucket}/catalogue.json")
    add_at_once(built)


@pytest.mark.parametrize("first", [True, False])
def test_a_change_between_reading_and_writing_on_s3_is_kept(
    built: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, first: bool
):
    monkeypatch.setenv("BEVCACHE_CATALOGUE", f"{bucket}/catalogue.json")
    toy = listing(built)
    if not first:
        add_listing(catalogue_file(), "before", toy)
    put_version = Remote.put_version

    def late_put(self: Remote, key: str, data: bytes, replaced: dict[str, str]) -> bool:
        monkeypatch.setattr(Remote, "put_version", put_version)
        add_listing(catalogue_file(), "meanwhile", toy)
        return put_version(self, key, data, replaced)

    monkeypatch.setattr(Remote, "put_version", late_put)
    add_listing(catalogue_file(), "late", toy)
    assert listed().keys() == {"meanwhile", "late"} | (set() if first else {"before"})


def test_a_lost_answer_on_s3_is_no_second_change(
    built: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BEVCACHE_CATALOGUE", f"{bucket}/catalogue.json")
    toy = listing(built)
    add_listing(catalogue_file(), "toy", toy)
    put_version = Remote.put_version

    def unheard_put(self: Remote, key: str, data: bytes, replaced: dict[str, str]) -> bool:
        assert put_version(self, key, data, replaced)
        # The client sends it again, and is told that its own first attempt came before.
        return put_version(self, key, data, replaced)

    monkeypatch.setattr(Remote, "put_version", unheard_put)
    catalogue_file().change(lambda found: Catalogue.parse(found, "c").without_store("toy").encode())
    assert listed() == {}


def test_a_catalogue_beside_its_stores_on_s3_is_read_over_http_too(
    built: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    copy_store(built, f"{bucket}/stores/toy")
    monkeypatch.setenv("BEVCACHE_CATALOGUE", f"{bucket}/catalogue.json")
    add("toy", f"{bucket}/stores/toy")
    assert listed()["toy"].location == "stores/toy"
    assert open_cache("team:toy").name == f"{bucket}/stores/toy"
    # The same two lie behind a web server.
    shutil.copytree(built, tmp_path / "web/stores/toy")
    data = Remote(bucket).get("catalogue.json", MAX_CATALOGUE_BYTES)
    assert data is not None
    (tmp_path / "web/catalogue.json").write_bytes(data)
    with served(tmp_path / "web") as url:
        monkeypatch.setenv("BEVCACHE_CATALOGUE", f"{url}/catalogue.json")
        assert open_cache("team:toy").name == f"{url}/stores/toy"
        with pytest.raises(RemoteError, match="is read-only"):
            add("more", built)
