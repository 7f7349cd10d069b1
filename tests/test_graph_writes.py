"""Builds and writes over a graph: what they report, what is left when they are stopped, what searches see meanwhile."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from test_graph_db import DIM, checked, clustered

import omendb
from omendb import DB
from omendb_kernels import list_backends

BACKEND = next(name for name, reason in list_backends().items() if reason is None)
PHASES = ["twins", "partition", "pick", "prune", "link", "prune", "repair", "tune", "insert"]


# --- what they tell ---------------------------------------------------------------------------------------------------


def test_a_build_reports_what_it_did(rng, caplog):
    rows = clustered(rng, 5000)
    db = DB(build_threshold=1000)
    with caplog.at_level(logging.INFO, logger="omendb"):
        report = db.build(rows)
    assert (report.rows, report.index) == (5000, "graph")
    assert list(report.phases) == list(dict.fromkeys(PHASES))
    assert all(seconds >= 0 for seconds in report.phases.values())
    assert 0 < sum(report.phases.values()) <= report.seconds
    assert report.rows_per_second == pytest.approx(5000 / report.seconds)
    assert report.recall is not None
    assert 0.95 <= report.recall <= 1
    assert report.beam is not None
    assert 10 <= report.beam < 200
    assert report.repaired >= 0
    assert report.peak_bytes > rows.nbytes + 5000 * 64 * 8  # rows and reservoirs at least
    graph = db.stats().graph
    assert graph is not None
    assert (graph["beam"], graph["recall"], graph["rows"], graph["tail"]) == (report.beam, report.recall, 5000, 0)
    assert [record.getMessage() for record in caplog.records] == [f"built: {report}"]
    flat = DB.build_from_numpy(rows[:999], build_threshold=1000).build_index()
    assert (flat.rows, flat.index, flat.recall, flat.beam, flat.phases) == (999, "flat", None, None, {})


def test_phases_are_told_in_their_order(rng):
    rows, seen = clustered(rng, 5000), []
    db = DB(build_threshold=1000)

    def build() -> None:
        db.build(rows, progress=lambda *step: seen.append(step))

    def build_index() -> None:
        db.build_index(progress=lambda *step: seen.append(step))

    for act in (build, build_index):
        seen.clear()
        act()
        steps = [step for step in seen if step[0] != "encode"]
        assert steps == [(phase, done, 1) for phase in PHASES for done in (0, 1)]
        assert seen[len(seen) - len(steps) :] == steps


# --- stopped in the middle --------------------------------------------------------------------------------------------


def state_of(db: DB) -> tuple[Any, ...]:
    queries = np.linspace(-1, 1, 3 * DIM).reshape(3, DIM)
    found = db.search(queries, k=30, with_metadata=True)
    by_ids = db.search(queries, k=30, mask=db.ids)
    answers = [(one.ids.tolist(), one.distances.tobytes(), one.metadata, one.method) for one in (found, by_ids)]
    there = [key in db for key in (*db.ids.tolist()[::50], 10**6, 10**6 + 1)]
    return repr(db), db.stats(), db.ids.tolist(), answers, there, [db.get(key).vector.tolist() for key in db.ids.tolist()[::90]]


def ready(rows: np.ndarray) -> DB:
    """A graph of 1,500 rows and a tail of 30."""
    db = DB(build_threshold=1000, threads=2)
    db.build(rows[:1500], ids=range(1500), metadata=[{"i": i} for i in range(1500)])
    db.add_batch(rows[1500:1530], ids=range(1500, 1530))
    return db


def writes(rows: np.ndarray) -> dict[str, Callable[[DB], Any]]:
    fresh = range(10**6, 10**6 + 500)
    return {
        "add": lambda db: db.add_batch(rows[2000:2500], ids=fresh),  # enough to enter the graph
        "add and build": lambda db: db.add_batch(rows[2000:2500], ids=fresh, rebuild_index=True),
        "upsert": lambda db: db.upsert(rows[2000:2500], ids=range(1000, 1500)),
        "upsert and mend": lambda db: db.upsert(rows[2000:2500], ids=range(0, 1500, 3)),
        "delete": lambda db: db.delete(range(200, 365)),  # more than a tenth: lists are mended
        "delete many": lambda db: db.delete(range(200, 800)),  # and made anew
        "build_index": lambda db: db.build_index(),
    }


STOPS = {
    "add": ["encode", "nearest", "beam", "prune", "adopt", "reach"],
    "add and build": ["encode", "pick", "prune", "link", "beam", "nearest", "rerank"],
    "upsert": ["encode", "beam", "adopt"],
    "upsert and mend": ["prune", "encode", "adopt"],
    "delete": ["score", "prune", "adopt"],
    "delete many": ["pick", "prune", "link"],
    "build_index": ["encode", "pick", "prune", "link", "beam", "nearest", "rerank"],
}


@pytest.mark.parametrize(("write", "op"), [(write, op) for write, ops in STOPS.items() for op in ops])
def test_a_write_stopped_inside_an_op_changes_nothing(rng, monkeypatch, write, op):
    rows = clustered(rng, 2500)
    db, other = ready(rows), ready(rows)
    act = writes(rows)[write]
    before = state_of(db)

    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(sys.modules[f"omendb_kernels.backends.{BACKEND}"], op, stop)
        with pytest.raises(KeyboardInterrupt):
            act(db)
    assert state_of(db) == before
    act(db)
    act(other)
    assert state_of(db) == state_of(other)  # as if it had not been stopped
    with contextlib.suppress(omendb.UnknownId):
        db.delete([0])
    assert 0 not in db


def test_a_build_stopped_in_any_phase_changes_nothing(rng):
    rows = clustered(rng, 3000)
    steps: list[tuple[str, int, int]] = []
    expected = DB(build_threshold=1000)
    expected.build(rows, ids=range(3000), progress=lambda *step: steps.append(step))
    full = ready(rows)
    before = state_of(full)
    for number in range(len(steps)):
        left = [number]

        def stop(*_: Any, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt

        db = DB(build_threshold=1000)
        with pytest.raises(KeyboardInterrupt):
            db.build(rows, ids=range(3000), progress=stop)
        assert (len(db), db.dim, db.ids.tolist(), db.stats().index) == (0, None, [], "flat")
        left[0] = number
        with contextlib.suppress(KeyboardInterrupt):  # it has fewer steps
            full.build_index(progress=stop)
            assert left[0] >= 0
            before = state_of(full)
        assert state_of(full) == before
    db.build(rows, ids=range(3000))
    assert state_of(db) == state_of(expected)


# --- searched meanwhile -----------------------------------------------------------------------------------------------


def test_searches_see_whole_generations(rng):
    """Batches come and go whole; a search for all rows tells which moment it saw."""
    batch, rounds = 150, 12
    rows = clustered(rng, batch * (rounds + 8))
    db = DB(build_threshold=1000, threads=1)
    db.build(rows[: 8 * batch], ids=range(8 * batch))
    done, begun = threading.Event(), threading.Barrier(3)

    def read(k: int) -> int:
        seen = 0
        begun.wait()
        while not done.is_set() or seen < 3:
            found = db.search(rows[seen % len(rows)], k=k)
            assert len(set(found.ids.tolist())) == len(found)
            assert found.distances.tobytes() == true_distances(rows[seen % len(rows)], rows[found.ids]).tobytes()
            if k > len(rows):
                batches, counts = np.unique(found.ids // batch, return_counts=True)
                assert set(counts.tolist()) == {batch}
                assert np.diff(batches).max() == 1  # the oldest go, new ones come
            else:
                assert len(found) == k
                assert np.ptp(found.ids // batch) <= 8
            seen += 1
        return seen

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read, k) for k in (10**6, 10)]
        begun.wait()
        try:
            for number in range(8, 8 + rounds):
                keys = range(number * batch, (number + 1) * batch)
                db.add_batch(rows[keys], ids=keys, rebuild_index=number % 4 == 3)
                db.delete(range((number - 8) * batch, (number - 7) * batch))
                if number % 4 == 1:
                    db.build_index()
        finally:
            done.set()
        assert all(reader.result() >= 3 for reader in readers)
    assert db.stats().index == "graph"


def true_distances(query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    from omendb_kernels import pairwise

    return pairwise(query[None], rows, precision="exact")[0]


def test_rows_that_are_replaced_are_there_all_the_time(rng):
    rows = clustered(rng, 1500)
    db = DB(build_threshold=1000, threads=1)
    db.build(rows, ids=range(1500))
    done, begun = threading.Event(), threading.Barrier(3)

    def read() -> int:
        seen = 0
        begun.wait()
        while not done.is_set() or seen < 3:
            keys = [seen % 1500, (7 * seen) % 1500]
            assert len(db) == 1500
            assert all(key in db for key in keys)
            assert db.search(rows[keys[0]], k=5, mask=[*set(keys)]).ids.tolist().count(keys[0]) == 1
            assert db.get(keys[1]).id == keys[1]
            seen += 1
        return seen

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        begun.wait()
        try:
            for keys in np.array_split(rng.permutation(3000) % 1500, 10):
                once = np.unique(keys)
                db.upsert(rows[once], ids=once)
        finally:
            done.set()
        assert all(reader.result() >= 3 for reader in readers)
    assert checked(db, rows[:50], rows)[0] > 0.9
