"""The durable folder in one process: what is written is there again, bit for bit."""

from __future__ import annotations

import gc
import os
import tracemalloc
from typing import Any

import numpy as np
import pytest
from graph_sets import clustered
from store_sets import DIM, LONG, assert_same, bytes_of, files, names, rows, sample, write

import omendb
from omendb import DB, store

each_kind = pytest.mark.parametrize("kind", ["row", "int", "str"])


# ---- opening --------------------------------------------------------------------------------------------------------


def test_life(tmp_path):
    folder = tmp_path / "db"
    with DB.open(folder, dim=2, metric="cosine") as db:
        assert db.add_batch([[3, 4], [5, 6]], ids=["a", "b"], metadata=[{"x": 1}, None]).tolist() == ["a", "b"]
        assert db.upsert([[1, 0]], ids=["a"]).tolist() == ["a"]
        assert db.delete("b") == 1
    with DB.open(folder) as db:
        assert (db.ids.tolist(), db.metric, db.dim, db.get("a").metadata) == (["a"], "cosine", 2, None)
        assert db.stats().path == str(folder)
        assert db.stats().file_bytes == sum(map(len, files(folder).values()))
    assert sorted(files(folder)) == ["omen.lock", "omen.sqlite", "snapshot-000001.omen"]
    assert DB.load(folder).ids.tolist() == ["a"]


def test_modes(tmp_path):
    folder = tmp_path / "db"
    with pytest.raises(omendb.NotFound):
        DB.open(folder, "r")
    assert not folder.exists()
    DB.open(folder, "create", dim=3).close()
    with pytest.raises(omendb.AlreadyExists):
        DB.open(folder, "create")
    with DB.open(folder, "rw"), DB.open(folder, "r") as reader:
        for act in (
            lambda: reader.add_batch([[1, 2, 3]]),
            lambda: reader.upsert([[1, 2, 3]], ids=[1]),
            lambda: reader.delete([]),
            lambda: reader.build([[1, 2, 3]]),
            lambda: reader.build_index(),
            lambda: reader.compact(),
        ):
            with pytest.raises(omendb.ReadOnly, match="mode='rw'"):
                act()
    with pytest.raises(omendb.NotFound):
        DB.open(tmp_path / "no" / "such")


@pytest.mark.parametrize("wrong", [{"mode": "w"}, {"durability": "none"}, {"dim": 4}, {"metric": "ip"}, {"dtype": "int8"}])
def test_what_the_folder_is_not(tmp_path, wrong):
    DB.open(tmp_path / "db", dim=3, dtype="float32").close()
    with pytest.raises(omendb.InvalidParameter, match=next(iter(wrong))):
        DB.open(tmp_path / "db", **wrong)
    DB.open(tmp_path / "db", dim=3, metric="l2", dtype="float32").close()  # and nothing is left locked


def test_no_folder_among_other_files(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    for mode in ("rw", "create"):
        with pytest.raises(omendb.AlreadyExists, match=r"letter\.txt"):
            DB.open(tmp_path, mode)
    assert os.listdir(tmp_path) == ["letter.txt"]
    with pytest.raises(omendb.AlreadyExists):
        DB.open(tmp_path / "letter.txt")
    with pytest.raises(omendb.NotAnIndex):
        DB.open(tmp_path, "r")


def test_a_folder_that_was_begun_is_finished(tmp_path, monkeypatch):
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.Journal, "create", killed)
        with pytest.raises(KeyboardInterrupt):
            DB.open(tmp_path / "db", dim=3)
    assert sorted(files(tmp_path / "db")) == ["omen.lock", "snapshot-000001.omen"]
    with DB.open(tmp_path / "db", dim=5) as db:
        assert (db.dim, len(db)) == (5, 0)


def test_a_missing_journal_is_no_new_folder(tmp_path):
    sample(tmp_path / "db").close()
    (tmp_path / "db" / "omen.sqlite").unlink()
    with pytest.raises(omendb.CorruptFile, match="missing"):
        DB.open(tmp_path / "db")
    memory = DB()
    memory.add_batch(np.ones((3, 2)))
    memory.copy(tmp_path / "copy")
    (tmp_path / "copy" / "omen.sqlite").unlink()
    with pytest.raises(omendb.CorruptFile, match="missing"):
        DB.open(tmp_path / "copy")


def test_one_writer(tmp_path):
    with DB.open(tmp_path / "db", dim=2) as db:
        with pytest.raises(omendb.Locked, match=f"process {os.getpid()}"):
            DB.open(tmp_path / "db")
        db.add_batch([[1, 2]])
    db = DB.open(tmp_path / "db")
    del db
    gc.collect()
    DB.open(tmp_path / "db").close()


# ---- the same again ---------------------------------------------------------------------------------------------------


@each_kind
@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_a_reopened_folder_is_the_same(tmp_path, rng, kind, metric, monkeypatch):
    """As the writer has it, and as the next writer gets it."""
    monkeypatch.setattr(store, "JOURNAL", 15_000)
    folder = tmp_path / "db"
    db = DB.open(folder, metric=metric, threads=1)
    db.add_batch(rows(rng, 1_000), ids={"str": names(0, 1_000), "int": np.arange(1_000)}.get(kind))  # coded from 1,024 on
    for number in range(1, 40):
        write(db, rng, number, kind)
        if number % 4 == 0:
            with DB.open(folder, "r", threads=2) as reader:
                assert_same(db, reader, tmp_path)
        if number % 11 == 0:
            db.compact()
        if number % 9 == 0:
            before = bytes_of(db, tmp_path)
            db.close()
            db = DB.open(folder, threads=2)
            assert bytes_of(db, tmp_path) == before
    assert db._store is not None
    assert db._store.read.state.snapshot >= "snapshot-000006.omen", "the journal was to become too long now and then"


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "int8", "uint8"])
def test_every_dtype(tmp_path, rng, kind):
    import ml_dtypes

    dtype = ml_dtypes.bfloat16 if kind == "bfloat16" else kind
    x = rng.integers(1, 100, (LONG, DIM)).astype(dtype)
    with DB.open(tmp_path / "db") as db:
        for piece in np.split(x, 5):
            db.add_batch(piece)
        assert db.dtype == kind
        assert_same(db, DB.open(tmp_path / "db", "r"), tmp_path)
        memory = DB()
        memory.add_batch(x)
        assert_same(db, memory, tmp_path)


def test_a_graph_is_the_same(tmp_path, rng):
    folder, x = tmp_path / "db", clustered(rng, 3_000, 12)
    with DB.open(folder, build_threshold=500, threads=2) as db:
        report = db.build(x[:1_500], ids=np.arange(1_500))
        assert report.index == "graph"
        for start in range(1_500, 3_000, 250):
            db.add_batch(x[start : start + 250], ids=np.arange(start, start + 250))
        db.delete(np.arange(0, 3_000, 5))
        assert db.stats().graph["rows"] > 1_500
        assert_same(db, DB.open(folder, "r", threads=1), tmp_path)
        db.compact()
        assert_same(db, DB.open(folder, "r", threads=1), tmp_path)
        db.build_index()
        db.upsert(x[:20], ids=np.arange(20))
        assert_same(db, DB.open(folder, "r", threads=1), tmp_path)
    assert_same(DB.open(folder), DB.load(folder), tmp_path)


def test_large_changes(tmp_path, rng, monkeypatch):
    x = rows(rng, 900)
    with DB.open(tmp_path / "db") as db:
        monkeypatch.setattr("omendb.journal.PART", 1_000)  # rows of the journal: changes are cut
        db.add_batch(x, ids=names(0, 900), metadata=[{"i": i} for i in range(900)])
        parts = db._store.read.state.last
        assert parts > 30
        assert_same(db, DB.open(tmp_path / "db", "r"), tmp_path)
        monkeypatch.setattr(store, "JOURNAL", 1_000)
        db.upsert(x[:300], ids=names(600, 300))  # larger than a journal may be: a snapshot at once
        assert db._store.read.state == store.State("snapshot-000002.omen", parts + 1, parts + 1)
        assert_same(db, DB.open(tmp_path / "db", "r"), tmp_path)


def test_empty_writes_leave_no_trace(tmp_path):
    with DB.open(tmp_path / "db", dim=3) as db:
        before = db._store.read.state
        db.add_batch(np.empty((0, 3)))
        db.delete([])
        db.delete(mask=np.empty(0, bool))
        assert db._store.read.state == before


def test_what_is_refused_changes_nothing(tmp_path):
    with sample(tmp_path / "db") as db:
        before, content = db._store.read, files(tmp_path / "db")
        for act in (
            lambda: db.add_batch([[np.nan] * DIM], ids=["x"]),
            lambda: db.add_batch(np.ones((2, DIM)), ids=["x", db.ids[0]]),
            lambda: db.add_batch(np.ones((1, DIM)), ids=["x"], metadata=[{"a": object()}]),
            lambda: db.upsert(np.ones((1, DIM + 1)), ids=["x"]),
            lambda: db.delete(["no such"]),
            lambda: db.delete(mask=np.ones(len(db) + 1, bool)),
            lambda: db.delete(mask=np.ones(len(db))),
            lambda: db.delete(),
            lambda: db.delete([], mask=np.ones(len(db), bool)),
            lambda: db.build(np.ones((1, DIM))),
            lambda: db.copy(tmp_path / "db"),
            lambda: db.refresh(),
        ):
            with pytest.raises(omendb.OmenError):
                act()
        assert db._store.read is before
        assert {**files(tmp_path / "db"), "omen.sqlite-shm": b""} == {**content, "omen.sqlite-shm": b""}


# ---- space ------------------------------------------------------------------------------------------------------------


def test_compact_gives_space_back(tmp_path, rng):
    folder = tmp_path / "db"
    with DB.open(folder) as db:
        db.add_batch(rows(rng, 20_000, 64))
        db.delete(db.ids[100:])
        large = db.stats()
        db.compact()
        assert (db.stats().deleted, len(db)) == (0, 100)
        assert db.stats().file_bytes < large.file_bytes / 50
        assert db.stats().nbytes < large.nbytes / 50
        assert_same(db, DB.open(folder, "r"), tmp_path)
    memory = DB()
    memory.add_batch(rows(rng, 100))
    memory.delete(mask=np.arange(100) > 3)
    memory.compact()
    assert (memory.stats().deleted, len(memory)) == (0, 4)


@pytest.mark.parametrize("kind", ["row", "str"])
def test_compact_copies_rows_only_as_it_writes_them(tmp_path, rng, kind):
    folder, n = tmp_path / "db", 40_000
    with DB.open(folder) as db:
        db._build_threshold = n + 1
        metadata = [{"text": "x" * 200, "i": i} for i in range(n)]
        db.build(rng.integers(0, 9, (n, 200)).astype(np.float32), ids=names(0, n) if kind == "str" else None, metadata=metadata)
        db.delete(mask=rng.random(n) < 0.3)
        tracemalloc.start()
        db.compact()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < db.stats().nbytes / 2
        assert_same(db, DB.load(folder), tmp_path)


@pytest.mark.parametrize("reading", [False, True])
def test_secure_means_gone_from_every_file(tmp_path, rng, reading):
    folder = tmp_path / "db"
    vectors = rng.normal(size=(500, 32)).astype(np.float32)
    secrets = [vectors[7].tobytes(), vectors[7, 3:9].tobytes(), vectors[300].tobytes()]
    secrets += [b"password of row 7;", "ünique 7;".encode()]
    with DB.open(folder) as db:
        metadata = [{"x": f"password of row {i};"} for i in range(250)]
        db.add_batch(vectors[:250], ids=[f"ünique {i};" for i in range(250)], metadata=metadata)
        db.compact()
        db.add_batch(vectors[250:], ids=[f"ünique {i};" for i in range(250, 500)])
        reader = DB.open(folder, "r") if reading else None
        assert all(any(secret in data for data in files(folder).values()) for secret in secrets)
        db.delete("ünique 7;")
        db.upsert(rng.normal(size=(1, 32)), ids=["ünique 300;"])
        db.compact(secure=True)
        for name, data in files(folder).items():
            assert [secret for secret in secrets if secret in data] == [], name
        assert (b"password of row 8" in b"".join(files(folder).values()), len(db)) == (True, 499)
        if reader is not None:
            assert len(reader) == 500, "a reader keeps what it has mapped"
            assert reader.refresh()
            assert len(reader) == 499


# ---- readers ----------------------------------------------------------------------------------------------------------


def test_refresh(tmp_path, rng):
    with DB.open(tmp_path / "db") as db:
        reader = DB.open(tmp_path / "db", "r")
        assert not reader.refresh()
        db.add_batch(rows(rng, 10))
        assert (len(reader), reader.refresh(), len(reader), reader.refresh()) == (0, True, 10, False)
        before = reader._followed.read.file
        db.delete([1, 2])
        assert reader.refresh()
        assert reader._followed.read.file is before
        db.compact()
        assert reader.refresh()
        assert reader._followed.read.file is not before
        db.build_index()
        db.add_batch(rows(rng, 10))
        assert reader.refresh()
        assert_same(db, reader, tmp_path)


def test_a_folder_that_goes_back_is_not_followed(tmp_path, rng):
    with DB.open(tmp_path / "db") as db:
        db.add_batch(rows(rng, 10))
    early = files(tmp_path / "db")
    with DB.open(tmp_path / "db") as db:
        db.add_batch(rows(rng, 10))
    reader = DB.open(tmp_path / "db", "r")
    (tmp_path / "db" / "omen.sqlite").write_bytes(early["omen.sqlite"])
    with pytest.raises(omendb.CorruptFile, match="went back"):
        reader.refresh()
    assert len(reader) == 20


def test_copy(tmp_path, rng):
    with sample(tmp_path / "db") as db:
        db.copy(tmp_path / "copy")
        with DB.open(tmp_path / "copy") as copy:
            assert_same(db, copy, tmp_path)
            copy.delete(copy.ids[:3])
        with pytest.raises(omendb.AlreadyExists):
            db.copy(tmp_path / "copy")
        with pytest.raises(omendb.NotFound):
            db.copy(tmp_path / "no" / "copy")
        DB.open(tmp_path / "db", "r").copy(tmp_path / "third")
        assert_same(db, DB.load(tmp_path / "third"), tmp_path)
    memory = DB()
    memory.add_batch(rows(rng, 10))
    memory.copy(tmp_path / "fourth")
    assert len(DB.load(tmp_path / "fourth")) == 10


def test_closed(tmp_path):
    db = sample(tmp_path / "db")
    db.close()
    db.close()
    for act in (lambda: db.add_batch([]), db.compact, db.refresh, db.verify, lambda: db.copy("x"), lambda: db.search([1])):
        with pytest.raises(omendb.Closed):
            act()
