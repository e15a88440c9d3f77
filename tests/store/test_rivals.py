"""Several writers of one store: each part is one writer's alone, and the first one's."""

import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from store.dump_plan import Plan
from store.errors import FingerprintError, SealedStoreError, StoreExistsError
from store.fingerprint import Fingerprint
from store.layout import ROWS_PER_PART
from store.reader import open_cache
from store.writer import StoreWriter
from tests.store.building import fingerprint, identities, tree, usual_values, write_pending

REPOSITORY = Path(__file__).parents[2]


def test_rivals_leave_each_part_to_one_of_them(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.store.rivals", str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    rounds = sorted(tmp_path.iterdir())
    assert len(rounds) == 6
    for folder in rounds:
        assert not {"parts", "plan.json"} & {path.name for path in folder.iterdir()}
        assert not [name for name in tree(folder) if name.endswith((".tmp", ".lock"))]
        cache = open_cache(folder)
        rows = [cache[token].arrays for token in cache.tokens]
        for start in range(0, len(rows), ROWS_PER_PART):
            part = rows[start : start + ROWS_PER_PART]
            (writer,) = {int(value) for row in part for value in np.unique(row["bev_high"])}
            assert all((row["boxes/score"] == writer).all() for row in part)


def test_a_committed_part_stays_as_it_is(tmp_path: Path):
    rows = identities(3)
    made_for = fingerprint(rows)
    writer = StoreWriter.open(tmp_path / "store", made_for, rows)
    write_pending(writer, made_for)
    before = tree(tmp_path / "store")
    late = StoreWriter.join(tmp_path / "store", writer.plan_hash)
    others = [
        replace(usual_values(made_for, row + 3), token=f"token-{row:04d}") for row in range(3)
    ]
    late.write_part(range(3), others)
    assert tree(tmp_path / "store") == before
    assert late.pending_parts == []


def test_a_writer_too_late_leaves_the_sealed_store_alone(tmp_path: Path):
    rows = identities(3)
    made_for = fingerprint(rows)
    writer = StoreWriter.open(tmp_path / "store", made_for, rows)
    late = StoreWriter.join(tmp_path / "store", writer.plan_hash)
    write_pending(writer, made_for)
    writer.finalise()
    before = tree(tmp_path / "store")
    values = [usual_values(made_for, row) for row in range(3)]
    with pytest.raises(SealedStoreError, match="never changed"):
        late.write_part(range(3), values)
    assert tree(tmp_path / "store") == before


def test_two_may_seal_at_once(tmp_path: Path):
    rows = identities(40)
    made_for = fingerprint(rows)
    writer = StoreWriter.open(tmp_path / "store", made_for, rows)
    write_pending(writer, made_for)
    writers = [StoreWriter.join(tmp_path / "store", writer.plan_hash) for _ in range(3)]
    hashes: list[str] = []
    threads = [
        threading.Thread(target=lambda one=one: hashes.append(one.finalise())) for one in writers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert hashes == [open_cache(tmp_path / "store").manifest_hash] * 3


def of_teacher(made_for: Fingerprint, number: int) -> Fingerprint:
    teacher = made_for.teacher.model_copy(update={"checkpoint_sha256": f"{number:064d}"})
    return made_for.model_copy(update={"teacher": teacher})


def test_of_dumps_that_begin_at_once_one_has_the_folder(tmp_path: Path):
    rows = identities(400)
    barrier = threading.Barrier(4)

    def begin(number: int) -> str | None:
        made_for = of_teacher(fingerprint(rows), number)
        barrier.wait(60)
        try:
            return StoreWriter.open(tmp_path / "store", made_for, rows).plan_hash
        except StoreExistsError:
            return None

    with ThreadPoolExecutor(4) as pool:
        begun = [plan for plan in pool.map(begin, range(4)) if plan]
    assert begun == [Plan.load(tmp_path / "store").hash]


def test_a_part_of_another_plan_is_not_committed_and_not_sealed(tmp_path: Path):
    rows = identities(19)
    made_for = fingerprint(rows)
    ours = StoreWriter.open(tmp_path / "ours", made_for, rows)
    other = StoreWriter.open(tmp_path / "other", of_teacher(made_for, 1), rows)
    write_pending(ours, made_for)
    write_pending(other, made_for)
    record = "parts/00000000.part"
    (tmp_path / "other" / record).replace(tmp_path / "ours" / record)
    assert ours.pending_parts == [range(16)]
    write_pending(ours, made_for)
    (tmp_path / "other/plan.json").replace(tmp_path / "ours/plan.json")
    with pytest.raises(FingerprintError, match="Another dump has begun there"):
        ours.finalise()


def test_another_dumps_sealed_store_is_not_taken_for_ones_own(tmp_path: Path):
    rows = identities(3)
    made_for = fingerprint(rows)
    writer = StoreWriter.open(tmp_path / "store", made_for, rows)
    write_pending(writer, made_for)
    shutil.rmtree(tmp_path / "store")
    other = of_teacher(made_for, 1)
    theirs = StoreWriter.open(tmp_path / "store", other, rows)
    write_pending(theirs, other)
    sealed = theirs.finalise()
    with pytest.raises(FingerprintError, match=r"teacher.checkpoint_sha256: found.*\n  Another"):
        writer.finalise()
    assert theirs.finalise() == sealed


def test_another_dumps_plan_is_not_joined(tmp_path: Path):
    rows = identities(3)
    writer = StoreWriter.open(tmp_path / "store", fingerprint(rows), rows)
    with pytest.raises(FingerprintError, match=r"plan: found \w{12}, expected 0{12}"):
        StoreWriter.join(tmp_path / "store", "0" * 64)
    assert StoreWriter.join(tmp_path / "store", writer.plan_hash).parts == [range(3)]
