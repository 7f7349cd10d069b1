"""Builds beside the writes: the outcome is that of a build followed by the writes, and nobody waits for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from aio_sets import LEAST
from graph_sets import clustered
from store_sets import bytes_of, names, rows, write

import omendb
from omendb import DB, background
from omendb.background import Builder, Schedule

NEVER = Schedule(None)
Act = Callable[[DB], object]


def builder_of(db: DB, when: Schedule = NEVER, progress: Any = None) -> Builder:
    return db._build_beside_writes(0.9, when, progress)


def build_with(db: DB, act: Act, phase: str = "prune") -> Any:
    """Build beside the writes; when the phase begins, `act` writes."""
    done: list[str] = []

    def progress(now: str, *_: int) -> None:
        if now == phase and not done:
            done.append(now)
            act(db)

    report = builder_of(db).build(0.9, progress)
    assert done == [phase]
    return report


def has_graph(db: DB) -> bool:
    return db.stats().graph is not None


@pytest.fixture(params=["memory", "folder"])
def make(request, tmp_path) -> Callable[[str], DB]:
    def new(name: str) -> DB:
        if request.param == "memory":
            return DB(build_threshold=LEAST)
        return DB.open(tmp_path / name, build_threshold=LEAST)

    return new


def filled(db: DB, rng: np.random.Generator, kind: str, n: int = 1_500) -> DB:
    ids: dict[str, Any] = {"str": names(0, n), "int": np.arange(n)}
    db.add_batch(rows(rng, n), ids=ids.get(kind), metadata=[{"i": i} if i % 5 else None for i in range(n)])
    return db


# ---- the same as one after the other -----------------------------------------------------------------------------------


@pytest.mark.parametrize("few", [0, 40, 10_000])
@pytest.mark.parametrize("kind", ["row", "int", "str"])
def test_writes_beside_a_build_are_writes_after_it(rng, make, tmp_path, monkeypatch, kind, few):
    monkeypatch.setattr(background, "FEW", few)
    seed = int(rng.integers(2**32))

    def act(db: DB) -> None:
        source = np.random.default_rng(seed + 1)
        for number in range(5, 13):
            write(db, source, number, kind)
        if kind == "row":
            db.add_batch(rows(source, 400))

    one, other = (filled(make(name), np.random.default_rng(seed), kind) for name in ("one", "other"))
    for db in (one, other):
        db.delete(db.ids[::50] if seed % 2 else [])
    assert build_with(one, act).index == "graph"
    other.build_index(recall=0.9)
    act(other)
    assert one.ids.tolist() == other.ids.tolist()
    assert bytes_of(one, tmp_path) == bytes_of(other, tmp_path)
    path = one.stats().path
    if path is not None:
        other.compact()  # a snapshot leaves out the deleted rows, whose places the next ones take
    for db in (one, other):  # and from there on
        write(db, np.random.default_rng(seed + 2), 20, kind)
    assert bytes_of(one, tmp_path) == bytes_of(other, tmp_path)
    one.close()
    if path is not None:
        with DB.open(path) as again:
            assert again.verify(full=True).ok
            assert bytes_of(again, tmp_path) == bytes_of(other, tmp_path)
    other.close()


def test_without_writes_it_is_build_index(rng, make, tmp_path):
    x = clustered(rng, 1_200, 8)
    with make("one") as one, make("other") as other:
        for db in (one, other):
            db.add_batch(x)
        report = builder_of(one).build(0.95, None)
        assert (report.rows, report.index) == (1_200, "graph")
        other.build_index()
        assert bytes_of(one, tmp_path) == bytes_of(other, tmp_path)


@pytest.mark.parametrize("kind", ["int", "str"])
@pytest.mark.parametrize("snapshot", ["compact", "due", "large"])
def test_snapshots_between_take_nothing_away(rng, tmp_path, monkeypatch, kind, snapshot):
    """A snapshot numbers rows anew, and empties the journal."""
    monkeypatch.setattr("omendb.store.SHARE", 1 << 40)
    monkeypatch.setattr("omendb.store.JOURNAL", {"compact": 1 << 30, "due": 4_000, "large": 400}[snapshot])
    seed = int(rng.integers(2**32))

    def act(db: DB) -> None:
        source = np.random.default_rng(seed)
        db.delete(db.ids[: len(db) // 8])
        for number in range(5, 20):
            write(db, source, number, kind)
            if snapshot == "compact":
                db.compact(secure=True)

    with DB.open(tmp_path / "db", build_threshold=LEAST) as db, DB() as flat:
        for one in (db, flat):
            filled(one, np.random.default_rng(seed), kind)
        before = db.stats().path, sorted(os.listdir(tmp_path / "db"))
        assert build_with(db, act).index == "graph"
        assert sorted(os.listdir(tmp_path / "db")) != before[1]
        act(flat)
        assert db.ids.tolist() == flat.ids.tolist()
        queries = rows(rng, 5) + 0.5
        found, wanted = (one.search(queries, 30, exact=True, with_metadata=True) for one in (db, flat))
        assert found.ids.tolist() == wanted.ids.tolist()
        assert found.metadata == wanted.metadata
        assert db.verify(full=True).ok
    with DB.open(tmp_path / "db") as again:
        assert again.search(queries, 30, exact=True).ids.tolist() == wanted.ids.tolist()


@pytest.mark.parametrize("kind", ["int", "str"])
def test_catching_up_disturbs_no_reader(rng, make, monkeypatch, kind):
    """The build knows an id by an earlier row of its than the database, which it shares nothing with that would tell."""
    monkeypatch.setattr(background, "FEW", 0)
    key: Any = 5_000 if kind == "int" else "again"
    seen: list[bool] = []
    with make("db") as db:
        filled(db, rng, kind)

        def progress(phase: str, *_: int) -> None:
            if phase == "prune" and key not in db:
                db.add_batch(rows(rng, 1), ids=[key])
                db.delete(key)
                db.add_batch(rows(rng, 1), ids=[key])
            if phase == "catch up":
                seen.append(key in db)

        builder_of(db).build(0.9, progress)
        assert seen == [True] * 3
        assert key in db


@pytest.mark.parametrize("left", [0, 3])
def test_all_rows_may_go_meanwhile(rng, make, tmp_path, left):
    with make("db") as db:
        filled(db, rng, "int")
        build_with(db, lambda db: db.delete(db.ids[left:]))
        assert db.ids.tolist() == list(range(left))
        db.add_batch(rows(rng, 900), ids=np.arange(5_000, 5_900))
        assert len(db) == left + 900


def test_writers_in_threads(rng, tmp_path, monkeypatch):
    """Builds one after the other while a thread writes: the rows are those of the writes."""
    monkeypatch.setattr(background, "FEW", 50)
    seed = int(rng.integers(2**32))
    with DB.open(tmp_path / "db", build_threshold=LEAST, durability="normal") as db, DB() as flat:
        filled(db, np.random.default_rng(seed), "str")
        filled(flat, np.random.default_rng(seed), "str")
        counts: list[int] = []

        def work(db: DB, most: int, going: Callable[[], bool]) -> int:
            source = np.random.default_rng(seed + 1)
            for number in range(5, most):
                if not going():
                    return number
                write(db, source, number, "str")
            return most

        over = threading.Event()
        writer = threading.Thread(target=lambda: counts.append(work(db, 400, lambda: not over.is_set())))
        writer.start()
        reports = [builder_of(db).build(0.9, None) for _ in range(3)]
        over.set()
        writer.join()
        work(flat, counts[0], lambda: True)
        assert all(reports)
        assert counts[0] > 5
        assert db.ids.tolist() == flat.ids.tolist()
        for key in rng.choice(db.ids, 50):
            one, other = db.get(key), flat.get(key)
            assert one.vector.tolist() == other.vector.tolist()
            assert one.metadata == other.metadata
        assert db.verify(full=True).ok


# ---- nothing changed ---------------------------------------------------------------------------------------------------


def test_another_build_between_wins(rng, make, tmp_path):
    with make("db") as db:
        filled(db, rng, "int")
        assert build_with(db, lambda db: db.build_index(recall=0.5)) is None
        kept = bytes_of(db, tmp_path)
        assert has_graph(db)
        builder_of(db).build(0.5, None)
        assert bytes_of(db, tmp_path) == kept


def test_a_change_that_was_not_told_ends_the_build(rng, make, monkeypatch):
    """As where Ctrl-C strikes between the transaction and the note of it."""
    with make("db") as db:
        filled(db, rng, "int")

        def act(db: DB) -> None:
            with monkeypatch.context() as patch:
                patch.setattr(background.Trail, "note", lambda *_: None)
                db.add_batch(rows(rng, 1), ids=[9_000])
            db.add_batch(rows(rng, 1), ids=[9_001])

        assert build_with(db, act) is None
        assert not has_graph(db)
        assert 9_000 in db
        assert 9_001 in db
        assert builder_of(db).build(0.9, None).rows == 1_502


def test_a_note_that_was_torn_is_told_again():
    start, after, last = object(), object(), object()
    trail = background.Trail(start)  # type: ignore[arg-type]
    one, two = object(), object()
    trail._changes.append(one)  # type: ignore[arg-type]  the interrupt came before the rest of the note
    for _ in range(2):  # and here before the generation came into force
        trail.note(start, (one,), after)  # type: ignore[arg-type]
    trail.note(after, (), after)  # type: ignore[arg-type]  a write that changed nothing
    trail.note(after, (two,), last)  # type: ignore[arg-type]
    assert trail.after(0) == [one, two]
    assert trail.leads_to(last)  # type: ignore[arg-type]


def test_errors_leave_everything_as_it_was(rng, make, monkeypatch):
    with make("db") as db:
        filled(db, rng, "int")
        before = db._now
        for phase in ("twins", "pick", "tune"):
            with pytest.raises(ZeroDivisionError):
                build_with(db, lambda _: 1 / 0, phase)
            assert db._now is before
            assert db._trail is None
        with monkeypatch.context() as patch:
            if db.stats().path is not None:
                patch.setattr("omendb.store.snapshot.write", full)
                with pytest.raises(omendb.StorageFull):
                    builder_of(db).build(0.9, None)
                assert db._now is before
        assert builder_of(db).build(0.9, None).rows == 1_500


def full(*_: Any, **__: Any) -> None:
    raise omendb.StorageFull("no room")


def test_nobody_waits_for_a_build(rng, make):
    """Inside a build, whose thread waits here meanwhile, others search and write."""
    x = rows(rng, 1_500)
    with make("db") as db:
        db.add_batch(x)
        truth = omendb.DB()
        truth.add_batch(x)
        answers: list[Any] = []

        def others(db: DB) -> None:
            answers.append(db.search(x[:5] + 0.5, 20))
            db.add_batch(x[:1])
            db.delete([1_500])

        def act(db: DB) -> None:
            thread = threading.Thread(target=others, args=(db,), daemon=True)
            thread.start()
            thread.join(60)
            assert not thread.is_alive()

        build_with(db, act)
        wanted = truth.search(x[:5] + 0.5, 20)
        assert answers[0].ids.tolist() == wanted.ids.tolist()
        assert answers[0].distances.tobytes() == wanted.distances.tobytes()
        assert len(db) == 1_500
