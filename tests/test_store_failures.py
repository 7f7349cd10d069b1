"""Ctrl-C at any line, full disks, failed syncs, litter: memory and folder agree, and nothing acknowledged is lost."""

from __future__ import annotations

import linecache
import sqlite3
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_sets import DIM, assert_same, files, rows, sample

import omendb
from omendb import DB, journal, publish, store


class Interrupter:
    """Raises KeyboardInterrupt at the n-th line of the folder's modules; not at `with`, which Python never interrupts on its
    way out, though it traces it.
    """

    HOMES = ("db.py", "handle.py", "store.py", "journal.py", "publish.py", "snapshot.py")

    def __init__(self, at: int) -> None:
        self.at, self.seen = at, 0

    def __call__(self, frame: Any, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.endswith(self.HOMES) or "omendb" not in frame.f_code.co_filename:
            return None
        return self.line

    def line(self, frame: Any, event: str, _: Any) -> Any:
        if event == "line":
            self.seen += 1
            text = linecache.getline(frame.f_code.co_filename, frame.f_lineno) if self.seen >= self.at else "with "
            if not text.lstrip().startswith("with "):
                self.at = sys.maxsize
                raise KeyboardInterrupt
        return self.line


@pytest.mark.parametrize("verb", ["add", "upsert", "delete", "compact", "due"])
def test_ctrl_c_at_any_line(tmp_path, verb, monkeypatch, pytestconfig):
    """After it, memory is what the folder holds, the write is in it or not, and the handle goes on."""
    first, step = (1, 1) if pytestconfig.option.long else (pytestconfig.option.seed % 3 + 1, 3)
    rng, folder = np.random.default_rng(1), tmp_path / "db"
    db = DB.open(folder, threads=1)
    db.add_batch(rows(rng, 5), ids=np.arange(5))
    if verb == "due":
        monkeypatch.setattr(store, "JOURNAL", 1)
        monkeypatch.setattr(store, "SHARE", 10**6)
    acts: dict[str, Any] = {
        "add": lambda i: db.add_batch(rows(rng, 2), ids=[10 * i, 10 * i + 1]),
        "upsert": lambda i: db.upsert(rows(rng, 2), ids=[1, 10 * i]),
        "delete": lambda i: db.delete(db.ids[-1]),
        "compact": lambda i: db.compact(),
        "due": lambda i: db.add_batch(rows(rng, 2), ids=[10 * i, 10 * i + 1]),
    }
    outcomes = set()
    for i in range(first, 2_000, step):
        if verb == "delete":
            db.add_batch(rows(rng, 1), ids=[10 * i])
        before = db.ids.tolist()
        probe = Interrupter(i)
        tracing = sys.gettrace()
        try:
            sys.settrace(probe)
            acts[verb](i)
        except KeyboardInterrupt:
            sys.settrace(tracing)
        else:
            sys.settrace(tracing)
            break
        with DB.open(folder, "r", threads=1, verify=False) as reader:
            db.delete([])  # settles what a second interrupt could have left open
            assert reader.ids.tolist() == db.ids.tolist()
            outcomes.add(db.ids.tolist() != before)
            assert reader.search(np.ones(DIM), 3).distances.tobytes() == db.search(np.ones(DIM), 3).distances.tobytes()
    else:
        pytest.fail("it never ends")
    assert i > 40, "lines were to be interrupted"
    assert outcomes == ({False} if verb == "compact" else {False, True})
    db.add_batch(rows(rng, 1), ids=[10**6])
    ids = db.ids.tolist()
    db.close()
    with DB.open(folder) as again:
        assert again.ids.tolist() == ids
        assert again.verify(full=True).ok


def test_a_full_disk_changes_nothing_and_the_handle_goes_on(tmp_path, rng):
    folder = tmp_path / "db"
    with DB.open(folder) as db:
        db.add_batch(rows(rng, 100))
        pages = db._store._journal._connection.execute("PRAGMA page_count").fetchone()[0]
        db._store._journal._connection.execute(f"PRAGMA max_page_count={pages + 2}")  # SQLite's own "full"
        before = files(folder)["omen.sqlite"]
        with pytest.raises(omendb.StorageFull, match="full"):
            db.add_batch(rows(rng, 20_000))
        assert (len(db), len(DB.load(folder))) == (100, 100)
        assert files(folder)["omen.sqlite"] == before
        db.delete([0])
        db._store._journal._connection.execute("PRAGMA max_page_count=1000000")
        db.add_batch(rows(rng, 20_000))
        assert_same(db, DB.open(folder, "r"), tmp_path)


def test_a_full_disk_keeps_no_snapshot_that_is_not_in_force(tmp_path, rng):
    folder = tmp_path / "db"
    with DB.open(folder) as db:
        db.add_batch(rows(rng, 100))
        before = sorted(files(folder))
        real = db._store._journal._connection
        db._store._journal._connection = Failing(real, "database or disk is full")
        with pytest.raises(omendb.StorageFull):
            db.compact()
        db._store._journal._connection = real
        assert sorted(files(folder)) == before
        assert len(DB.load(folder)) == 100
        db.compact()
        assert_same(db, DB.load(folder), tmp_path)


class Failing:
    """A connection whose next COMMIT fails as SQLite does when a sync fails, or the disk is full."""

    def __init__(self, connection: sqlite3.Connection, error: str = "disk I/O error") -> None:
        self._connection = connection
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *values: Any) -> Any:
        if sql == "COMMIT":
            self._connection.execute("ROLLBACK")
            raise sqlite3.OperationalError(self._error)
        return self._connection.execute(sql, *values)


def test_after_a_failed_sync_the_handle_only_reads(tmp_path, rng):
    folder = tmp_path / "db"
    with DB.open(folder) as db:
        db.add_batch(rows(rng, 100))
        db._store._journal._connection = Failing(db._store._journal._connection)
        with pytest.raises(omendb.StorageFailed, match="disk I/O error"):
            db.add_batch(rows(rng, 5))
        db._store._journal._connection = db._store._journal._connection._connection
        for act in (lambda: db.add_batch(rows(rng, 5)), db.compact, lambda: db.delete([0]), db.build_index):
            with pytest.raises(omendb.StorageFailed, match=r"only read since.*disk I/O error"):
                act()
        assert len(db.search(np.ones(DIM), 200)) == 100
    with DB.open(folder) as db:
        assert len(db) == 100
        db.add_batch(rows(rng, 5))


def test_names_are_synced_whoever_made_them(tmp_path, monkeypatch):
    """The folder's by whoever fills it; the log's at every opening: SQLite syncs it once, and passes over a failure."""
    folder = tmp_path / "db"
    for home, target, made in ((store, tmp_path, False), (journal, folder, True)):

        def broken(path: Path, target: Path = target, real: Any = publish.sync_folder) -> None:
            if path == target:
                raise OSError(5, "Input/output error")
            real(path)

        with monkeypatch.context() as patch:
            patch.setattr(home, "sync_folder", broken)
            for _ in range(2):  # a failure is not forgotten because the folder is there now
                with pytest.raises(omendb.StorageError, match="Input/output error"):
                    DB.open(folder)
                assert (folder.exists(), store.is_folder(folder)) == (True, made)
    with DB.open(folder) as db:
        db.add_batch(np.ones((1, DIM)))


def test_a_snapshot_that_cannot_be_written_costs_no_write(tmp_path, rng, monkeypatch, caplog):
    folder = tmp_path / "db"
    with DB.open(folder) as db:
        db.add_batch(rows(rng, 100))
        monkeypatch.setattr(store, "JOURNAL", 3_000)
        with monkeypatch.context() as patch:
            patch.setattr("omendb.publish.os.fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            db.add_batch(rows(rng, 30))
            assert "no new snapshot" in caplog.text
            with pytest.raises(omendb.StorageFull):
                db.compact()
        assert (len(db), len(DB.load(folder))) == (130, 130)
        for _ in range(4):
            db.add_batch(rows(rng, 30))
        assert db._store.read.state.snapshot > "snapshot-000001.omen"
        assert_same(db, DB.open(folder, "r"), tmp_path)


def test_litter_is_swept(tmp_path):
    folder = tmp_path / "db"
    sample(folder).close()
    kept = files(folder)
    for name in ("snapshot-000099.omen", "snapshot-000001.omen", ".omen-0123456789abcdef.tmp"):
        Path(folder / name).write_bytes(b"litter")
    Path(folder / "mine.txt").write_bytes(b"mine")
    DB.open(folder).close()
    assert sorted(files(folder)) == sorted([*kept, "mine.txt"])
