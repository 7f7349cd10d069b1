"""Folders as accidents and enemies make them: reported, or without effect; what verifies is saved; old ones open."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_sets import DIM, assert_same, bytes_of, files, names, put, ram, rows, sample

import omendb
from omendb import DB, journal, snapshot, wal

__all__ = ["ram"]  # a fixture
GOLDEN = Path(__file__).parent / "data" / "folder-1"


def closed(folder: Path, **options: Any) -> dict[str, bytes]:
    sample(folder, **options).close()
    return files(folder)


def left_by_a_kill(folder: Path) -> dict[str, bytes]:
    """With changes that are in the write-ahead log only."""
    with sample(folder) as db:
        db.add_batch(np.ones((3, DIM)), ids=["x", "y", "z"])
        content = files(folder)
    assert len(content["omen.sqlite-wal"]) > 10_000
    return content


def state_of(folder: Path) -> bytes | None:
    """All that a reader gets; None where damage is reported, by opening it or by `verify`."""
    try:
        with DB.open(folder, "r", threads=1) as db:
            return bytes_of(db, folder.parent) if db.verify(full=True).ok else None
    except omendb.OmenError:
        return None


def damages(rng: np.random.Generator, content: dict[str, bytes], count: int) -> Any:
    """(file, damaged bytes): a bit flipped, in whatever file by its size, or an end cut off."""
    everything = [(name, data) for name, data in content.items() if data and name not in ("omen.lock", "omen.sqlite-shm")]
    shares = np.array([len(data) for _, data in everything], float)
    for _ in range(count):
        name, data = everything[rng.choice(len(everything), p=shares / shares.sum())]
        at = int(rng.integers(0, len(data)))
        if rng.random() < 0.15:
            yield name, data[:at]
        else:
            yield name, data[:at] + bytes([data[at] ^ 1 << int(rng.integers(0, 8))]) + data[at + 1 :]


@pytest.mark.parametrize("count", [500, pytest.param(12_000, marks=pytest.mark.long)])
def test_damage_anywhere_is_reported_or_without_effect(ram, rng, count):
    folder = ram / "db"
    content = closed(folder)
    honest, silent = state_of(folder), 0
    for name, data in damages(rng, content, count):
        put(folder, {**content, name: data})
        found = state_of(folder)
        silent += found is not None
        assert found in (None, honest), f"{name} was damaged, nobody noticed, and rows changed"
        if found is not None:  # nor does it show when the folder is written to
            with DB.open(folder, threads=1) as db:
                db.add_batch(np.ones((1, DIM)), ids=["new"])
                assert len(DB.load(folder)) == len(db)
    assert silent < 0.9 * count, "SQLite's free space is not all there is"
    print(f"{count} damages: {count - silent} reported, {silent} without effect")


@pytest.mark.parametrize("count", [200, pytest.param(4_000, marks=pytest.mark.long)])
def test_damage_after_a_kill(ram, rng, count):
    """The end of a write-ahead log looks the same whether it was damaged or never finished: then a prefix is what is there."""
    folder, prefixes = ram / "db", {}
    content = left_by_a_kill(folder)
    log = content["omen.sqlite-wal"]
    page = int.from_bytes(log[8:12], "big")
    for end in range(32, len(log) + 1, 24 + page):  # what a shorter log leaves
        put(folder, {**content, "omen.sqlite-wal": log[:end]})
        prefixes[state_of(folder)] = end
    *_, before_the_last_two, before_the_last, honest = prefixes
    assert len(prefixes) > 4
    put(folder, content)
    assert state_of(folder) == honest
    reported = 0
    for name, data in damages(rng, content, count):
        put(folder, {**content, name: data})
        found = state_of(folder)
        reported += found is None
        allowed = {None, honest}
        if name == "omen.sqlite-wal":
            flipped = len(data) == len(log)
            allowed |= {before_the_last, before_the_last_two} if flipped else set(prefixes)
        assert found in allowed, name
    assert reported > count / 20


def with_header(log: bytes, words: dict[int, int]) -> bytes:
    """The log with other words in its header, and the checksum that fits them."""
    header = b"".join(words.get(i, int.from_bytes(log[4 * i : 4 * i + 4], "big")).to_bytes(4, "big") for i in range(6))
    sums = wal._checksum((0, 0), np.frombuffer(header, wal._ORDERS[header[3] & 1]))
    return header + b"".join(value.to_bytes(4, "big") for value in sums) + log[32:]


def test_the_log_is_judged_as_sqlite_judges_it(tmp_path, rng):
    """Checksums by known factors are those of the plain loop, and every frame of an honest log has its own."""
    for pairs in (1, 2, 7, 516):
        words, (s0, s1) = rng.integers(0, 2**32, 2 * pairs, dtype=np.uint32), rng.integers(0, 2**32, 2).tolist()
        found = wal._checksum((s0, s1), words)
        for x0, x1 in words.reshape(-1, 2).tolist():
            s0 = (s0 + x0 + s1) % 2**32
            s1 = (s1 + x1 + s0) % 2**32
        assert found == (s0, s1)
    log = left_by_a_kill(tmp_path / "db")["omen.sqlite-wal"]
    path, size = tmp_path / "log", 24 + int.from_bytes(log[8:12], "big")
    lost = []
    for frame in range(len(log) // size):
        damaged = bytearray(log)
        damaged[32 + frame * size + int(rng.integers(0, size))] ^= 1
        path.write_bytes(damaged)
        lost.append(wal.transactions_lost(path))
    assert lost == sorted(lost, reverse=True)
    assert (lost[0] > 2, lost[-1]) == (True, 0)
    for byte in range(32):
        path.write_bytes(log[:byte] + bytes([log[byte] ^ 64]) + log[byte + 1 :])
        assert wal.transactions_lost(path) > 2, "a log without its header counts for nothing"
    for words in ({2: 0}, {2: 1}, {2: 7}, {0: 0}, {0: 0, 2: 513}):  # true checksums of what SQLite passes over as a whole
        path.write_bytes(with_header(log, words))
        assert wal.transactions_lost(path) > 2
    for honest in (log, log[: -size // 2], log[:40], b"", b"x" * 100_000):
        path.write_bytes(honest)
        assert wal.transactions_lost(path) == 0
    assert wal.transactions_lost(tmp_path / "none") == 0


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_a_log_with_a_hole_is_damage_unless_nobody_synced_it(tmp_path, durability, caplog):
    with DB.open(tmp_path / "db", durability=durability) as db:
        for i in range(6):
            db.add_batch([[1, i]])
        content = files(tmp_path / "db")
    log = bytearray(content["omen.sqlite-wal"])
    log[len(log) // 2] ^= 1
    for mode in ("r", "rw"):
        put(tmp_path / "db", {**content, "omen.sqlite-wal": bytes(log)})
        with DB.open(tmp_path / "db", mode) as db:
            assert db.ids.tolist() == list(range(len(db)))
            assert 0 < len(db) < 5
            assert db.verify(full=True).ok == (durability == "normal")
    assert ("writes in it are lost" in caplog.text) == (durability == "full")


def test_files_of_two_moments_are_not_mixed(tmp_path):
    folder = tmp_path / "db"
    with sample(folder) as db:
        early = files(folder)
        db.compact()
        db.delete(db.ids[:2])
        db.compact()
    late = files(folder)
    (old,), (new,) = ([name for name in content if name.endswith(".omen")] for content in (early, late))
    put(folder, {**late, new: early[old]})
    with pytest.raises(omendb.CorruptFile, match="not the file that was put in force"):
        DB.open(folder)
    put(folder, {name: data for name, data in late.items() if name != new})
    for mode in ("r", "rw"):
        with pytest.raises(omendb.CorruptFile, match="missing"):
            DB.open(folder, mode)


def test_a_schema_that_is_no_text(tmp_path):
    content = closed(tmp_path / "db")
    broken = content["omen.sqlite"].replace(b"snapshot TEXT", b"snapshot \xff\xffXT")
    assert broken != content["omen.sqlite"]
    put(tmp_path / "db", {**content, "omen.sqlite": broken})
    for mode in ("r", "rw"):
        with pytest.raises(omendb.CorruptFile, match="tables"):
            DB.open(tmp_path / "db", mode)
    assert not DB.repair(tmp_path / "db", tmp_path / "into").ok


def test_a_schema_that_messages_cannot_quote(ram):
    """Python reads SQLite's messages as UTF-8, and they name what is malformed."""
    folder, content = ram / "db", closed(ram / "db")
    file = content["omen.sqlite"]
    begins = [(file.index(sql.encode()), len(sql)) for sql in journal.SCHEMA]
    for place in [place for begin, size in begins for place in range(begin - 20, begin + size)]:
        put(folder, {**content, "omen.sqlite": file[:place] + bytes([file[place] ^ 128]) + file[place + 1 :]})
        for mode in ("r", "rw"):
            with pytest.raises(omendb.CorruptFile):
                DB.open(folder, mode)
        assert not DB.repair(folder, ram / f"into {place}", threads=1).ok


def test_verify_tells_where(tmp_path):
    folder = tmp_path / "db"
    with sample(folder) as db:
        report = db.verify()
        assert (report.ok, report.rows, report.problems) == (True, len(db), ())
        assert report.changes > 2
        assert db.verify(full=True).nbytes > report.nbytes
        name = db._store.read.state.snapshot
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 4
        (folder / name).write_bytes(data)
        assert db.verify().ok, "nobody has looked at the content"
        assert [name in line for line in db.verify(full=True).problems] == [True]
    db = DB()
    db.add_batch(np.ones((3, 2)))
    db.save(tmp_path / "a.omen")
    assert (db.verify(full=True).nbytes, db.verify(full=True).rows) == (0, 3)
    loaded = DB.load(tmp_path / "a.omen")
    assert loaded.verify(full=True).ok
    data = bytearray((tmp_path / "a.omen").read_bytes())
    data[-1] ^= 1
    (tmp_path / "b.omen").write_bytes(data)
    os.replace(tmp_path / "b.omen", tmp_path / "a.omen")
    assert not loaded.verify().ok


# ---- repair -----------------------------------------------------------------------------------------------------------


def rows_in(db: DB) -> dict[Any, tuple[bytes, Any]]:
    records = map(db.get, db.ids)
    return {record.id: (record.vector.tobytes(), record.metadata) for record in records}


@pytest.mark.parametrize("count", [60, pytest.param(2_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("ids", ["str", "int", "row"])
def test_repair_saves_what_verifies_and_invents_nothing(ram, rng, ids, count):
    """Every row it gives was there once; it says so when one that should be there is not."""
    folder, ever = ram / "db", {}
    with sample(folder, ids=ids) as db:
        last = rows_in(db)
    content = files(folder)
    for writes in range(1, 8):  # the same history again, and all it ever held
        shutil.rmtree(ram / "again", ignore_errors=True)
        with sample(ram / "again", ids=ids, writes=writes) as db:
            for key, row in rows_in(db).items():
                ever.setdefault(key, set()).add(repr(row))
    saved = 0
    for name, data in damages(rng, content, count):
        put(folder, {**content, name: data})
        shutil.rmtree(ram / "into", ignore_errors=True)
        try:
            report = DB.repair(folder, ram / "into", threads=1)
        except omendb.CorruptFile:
            assert state_of(folder) is None
            continue
        with DB.open(ram / "into") as db:
            found = rows_in(db)
            assert db.verify(full=True).ok
        assert report.rows == len(found)
        assert all(repr(row) in ever[key] for key, row in found.items()), "a row that never was"
        if found != last:
            assert not report.ok
        saved += bool(found)
    assert saved > count / 4


def test_repair_of_a_large_snapshot(tmp_path, rng):
    """One bad block of many costs the rows in it and no others."""
    x = rng.normal(size=(30_000, 64)).astype(np.float32)
    db = DB()
    db.add_batch(x, ids=names(0, 30_000), metadata=[{"i": i} for i in range(30_000)])
    db.save(tmp_path / "a.omen")
    data = bytearray((tmp_path / "a.omen").read_bytes())
    place = data.find(x[20_000].tobytes())
    data[place + 5] ^= 16
    (tmp_path / "a.omen").write_bytes(data)
    with pytest.raises(omendb.CorruptFile):
        DB.load(tmp_path / "a.omen")
    report = DB.repair(tmp_path / "a.omen", tmp_path / "b.omen")
    assert (report.ok, report.rows + report.lost_rows) == (False, 30_000)
    assert 0 < report.lost_rows <= snapshot.BLOCK // 256 + 1
    saved = DB.load(tmp_path / "b.omen")
    assert "näme 20000" not in saved
    kept = np.array([int(name.split()[1]) for name in saved.ids])
    assert saved._now.points.vectors.data.tobytes() == x[kept].tobytes()
    assert saved.get("näme 29999").metadata == {"i": 29_999}
    assert saved.search(x[5], 1).ids[0] == "näme 5"
    with pytest.raises(omendb.AlreadyExists):
        DB.repair(tmp_path / "a.omen", tmp_path / "b.omen")
    with pytest.raises(omendb.NotFound):
        DB.repair(tmp_path / "no", tmp_path / "c")


def test_repair_of_what_is_well(tmp_path):
    with sample(tmp_path / "db") as db:
        with pytest.raises(omendb.Locked):
            DB.repair(tmp_path / "db", tmp_path / "into")
        last = rows_in(db)
    before = files(tmp_path / "db")
    report = DB.repair(tmp_path / "db", tmp_path / "into")
    assert (report.ok, report.rows, report.lost_rows, report.lost_changes) == (True, len(last), 0, 0)
    assert files(tmp_path / "db") == before
    assert_same(DB.load(tmp_path / "db"), DB.load(tmp_path / "into"), tmp_path)


# ---- time -------------------------------------------------------------------------------------------------------------


def test_the_golden_folder(tmp_path):
    """Of version 1, with a graph in its snapshot and every verb behind it; what it must answer lies beside it."""
    expected = json.loads((GOLDEN / "expected.json").read_text())
    put(tmp_path / "db", {name: data for name, data in files(GOLDEN).items() if name.startswith(("omen.", "snapshot-"))})
    before = files(tmp_path / "db")
    with DB.open(tmp_path / "db", "r") as db:
        found = db.search(np.array(expected["queries"], np.float32), 10, with_metadata=True)
        assert [len(db), db.metric, db.stats().index] == expected["facts"]
        assert found.ids.tolist() == expected["ids"]
        assert found.distances.tolist() == expected["distances"]
        assert found.metadata == expected["metadata"]
        assert db.verify(full=True).ok
    assert files(tmp_path / "db") == before
    with DB.open(tmp_path / "db") as db:
        db.add_batch(rows(np.random.default_rng(1), 3, db.dim), ids=["1", "2", "3"])
        db.compact()
        assert db.verify(full=True).ok


def test_a_newer_folder_is_refused(tmp_path):
    content = closed(tmp_path / "db")
    with closing(sqlite3.connect(tmp_path / "db" / "omen.sqlite")) as db, db:
        db.execute("UPDATE state SET version = 2")
    for mode in ("r", "rw"):
        with pytest.raises(omendb.NewerFormat, match="folder version 2; this omendb reads up to 1"):
            DB.open(tmp_path / "db", mode)
    assert sorted(files(tmp_path / "db")) == sorted(content)
