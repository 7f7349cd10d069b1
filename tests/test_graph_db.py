"""The database through its graph: how much is found, that all of k comes, whatever was deleted, replaced, added or masked.

The graph's own functions: test_graph*.py. Failures, threads and reports: test_graph_writes.py. Files: test_graph_files.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import NUMBA_BLOCKED

import omendb
from omendb import DB, SearchResults
from omendb_kernels import build_graph, pairwise
from omendb_kernels.graph.build import LEAST_ROUTER

pytestmark = pytest.mark.heavy

DIM = 16
METRICS = ["l2", "cosine", "ip"]
each_metric = pytest.mark.parametrize("metric", METRICS)


def clustered(rng: np.random.Generator, n: int, d: int = DIM, centres: int = 40) -> np.ndarray:
    """float32 (n, d): rows around the same centres in every call, as queries are near rows; every row its own."""
    middles = np.random.default_rng(3).normal(size=(centres, d))
    return (middles[rng.integers(0, centres, n)] + 0.4 * rng.normal(size=(n, d))).astype(np.float32)


def checked(
    db: DB, queries: np.ndarray, rows: np.ndarray, k: int = 10, *, live: Any = None, mask: Any = None, **options: Any
) -> tuple[float, SearchResults]:
    """Search, judge all but how near the answers are, and give that as recall, ties counted as found.

    rows: of the ids 0, 1, 2, ... live: bool, those that may come. mask: True to pass `live` as bool, "ids" to pass ids.
    """
    allowed = np.ones(len(rows), bool) if live is None else live
    if mask is True:
        mask = allowed[db.ids]
    elif mask == "ids":
        mask = np.flatnonzero(allowed)
    found = db.search(queries, k, mask=mask, **options)
    columns = min(k, int(allowed.sum()))
    assert found.ids.shape == found.distances.shape == (len(queries), columns)
    if columns == 0:
        return 1.0, found
    place = np.full(len(rows), -1)
    place[db.ids] = np.arange(len(db))  # the order of adding, by which ties are ordered
    assert allowed[found.ids].all()
    true = pairwise(queries, rows, db.metric, precision="exact")
    assert found.distances.tobytes() == np.take_along_axis(true, found.ids, 1).tobytes()
    near, late = np.diff(found.distances, axis=1), np.diff(place[found.ids], axis=1)
    assert ((near > 0) | ((near == 0) & (late > 0))).all()  # in order, none twice
    worst = np.partition(true[:, allowed], columns - 1, axis=1)[:, columns - 1 : columns]
    return float((found.distances <= worst).mean()), found


# --- from how many rows on --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "index"), [(9_999, "flat"), (10_000, "graph"), (10_001, "graph")])
def test_a_graph_from_ten_thousand_rows_on(rng, tmp_path, n, index):
    rows, queries = clustered(rng, n, 8), clustered(rng, 40, 8)
    db = DB()
    assert db.build(rows).index == db.stats().index == index
    method = "exact" if index == "flat" else "graph"
    recall, found = checked(db, queries, rows, 10)
    assert (found.method, recall >= (1.0 if index == "flat" else 0.9)) == (method, True)
    assert db.search(queries, exact=True).method == "exact"
    live = np.ones(n, bool)
    live[rng.choice(n, 5, replace=False)] = False
    db.delete(np.flatnonzero(~live))
    db.save(tmp_path / "a.omen")
    for one in (db, DB.load(tmp_path / "a.omen")):
        assert one.stats().index == index  # a graph stays when rows go
        recall, _ = checked(one, queries, rows, 10, live=live)
        assert recall >= (1.0 if index == "flat" else 0.9)
    assert one.build_index().index == "flat"  # fewer than ten thousand are left
    assert checked(one, queries, rows, 50, live=live)[0] == 1.0


def test_rows_that_are_added_make_no_graph_until_it_is_asked_for(rng):
    rows = clustered(rng, 1200)
    db = DB(build_threshold=1000)
    db.add_batch(rows[:1100])
    assert db.stats().index == "flat"
    db.add_batch(rows[1100:], rebuild_index=True)
    assert db.stats().index == "graph"
    assert checked(db, rows[:20], rows)[0] > 0.9
    assert DB.build_from_numpy(rows[:999], build_threshold=1000).stats().index == "flat"
    assert DB.build_from_numpy(rows[:1000], build_threshold=1000).stats().index == "graph"
    for n in (1, 2, 5):
        few = DB.build_from_numpy(rows[:n], build_threshold=1)
        assert few.stats().index == "graph"
        assert checked(few, rows[:9], rows[:n], 7)[0] == 1.0


# --- rows that leave ----------------------------------------------------------------------------------------------------


def walked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are walked where a scan would be cheaper, as in far larger sets."""
    monkeypatch.setattr(sys.modules["omendb_kernels.graph.search"], "SCAN_PER_PLACE", 1)


def gains(db: DB, queries: np.ndarray, rows: np.ndarray, live: np.ndarray) -> list[float]:
    """By how much its recall is above that of a database built of the same rows, at equal beams."""
    fresh = DB(metric=db.metric, build_threshold=1)
    fresh.build(rows[db.ids], ids=db.ids)
    found = []
    queries = queries[:150] if NUMBA_BLOCKED else queries
    for k, beam in ((10, 16), (10, 24), (10, 48), (30, 60)):
        recall, answer = checked(db, queries, rows, k, live=live, beam=beam)
        assert answer.method == "graph"
        found.append(recall - checked(fresh, queries, rows, k, live=live, beam=beam)[0])
    return found


@pytest.mark.parametrize("calls", [1, 8])
def test_half_of_the_rows_deleted(rng, tmp_path, monkeypatch, calls):
    walked(monkeypatch)
    found = []
    for metric in METRICS:
        rows, queries = clustered(rng, 9000), clustered(rng, 500)
        db = DB.build_from_numpy(rows, metric=metric, build_threshold=1000)
        live = np.ones(len(rows), bool)
        for gone in np.array_split(rng.permutation(len(rows))[: len(rows) // 2], calls):
            db.delete(gone)
            live[gone] = False
            checked(db, queries[:50], rows, 10, live=live)
        assert db.stats().index == "graph"
        found += gains(db, queries, rows, live)
        db.save(tmp_path / "a.omen", overwrite=True)
        found += gains(DB.load(tmp_path / "a.omen"), queries, rows, live)
    assert np.mean(found) >= -0.01
    assert min(found) >= -0.04


def test_a_region_deleted(rng, monkeypatch):
    walked(monkeypatch)
    rows, queries = clustered(rng, 6000), clustered(rng, 300)
    db = DB.build_from_numpy(rows, build_threshold=1000)
    live = rows[:, 0] < np.quantile(rows[:, 0], 0.5)
    db.delete(np.flatnonzero(~live))
    assert np.mean(gains(db, queries, rows, live)) >= -0.05
    left = np.flatnonzero(live)[:7]
    db.delete(np.setdiff1d(db.ids, left))
    live[:] = False
    live[left] = True
    assert checked(db, queries, rows, 10, live=live)[0] == 1.0
    db.delete(left)
    assert db.search(queries).ids.shape == (300, 0)


def test_every_row_replaced(rng, monkeypatch):
    walked(monkeypatch)
    found = []
    for metric in METRICS:
        rows, new, queries = clustered(rng, 5000), clustered(rng, 5000), clustered(rng, 500)
        db = DB(metric=metric, build_threshold=1000)
        db.build(rows, ids=range(5000))
        for keys in np.array_split(rng.permutation(5000), 12):
            rows[keys] = new[keys]
            assert db.upsert(rows[keys], ids=keys).tolist() == keys.tolist()
            checked(db, queries[:30], rows, 10)
        assert db.stats().index == "graph"
        assert db.get(77).vector.tolist() == new[77].tolist()
        found += gains(db, queries, rows, np.ones(5000, bool))
    assert np.mean(found) >= -0.01
    assert min(found) >= -0.04


def test_dead_rows_that_stand_for_live_ones_are_mended_once(rng, monkeypatch):
    rows = np.repeat(clustered(rng, 800), 2, axis=0)
    db = DB.build_from_numpy(rows, build_threshold=1000)
    calls = []
    honest = omendb.generation.consolidate_graph

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return honest(*arguments, **options)

    monkeypatch.setattr(omendb.generation, "consolidate_graph", counted)
    live = np.ones(len(rows), bool)
    live[::2] = False
    db.delete(np.flatnonzero(~live))  # the first of each pair, which is the pair's node
    for row in range(1, 41, 2):
        live[row] = False
        db.delete([row])
    assert len(calls) <= 1
    assert checked(db, rows[:100], rows, 10, live=live)[0] > 0.9


def test_no_link_leads_to_a_row_that_left(rng):
    rows = clustered(rng, 3000)
    db = DB.build_from_numpy(rows, build_threshold=1000)
    live = np.ones(3000, bool)
    before = db._now.graph
    assert before is not None
    slots = before.neighbours[:, -1]
    assert (slots >= 0).sum() > 10  # clusters that only such links connect
    live[slots[slots >= 0][::2]] = False
    live[rng.choice(np.flatnonzero(live), 310 - int((~live).sum()), replace=False)] = False
    db.delete(np.flatnonzero(~live))
    graph = db._now.graph
    assert graph is not None
    assert graph.present == live.sum()
    lists = graph.neighbours[live]
    assert live[lists[lists >= 0]].all()


# --- rows that come -----------------------------------------------------------------------------------------------------


@each_metric
def test_fresh_rows_are_found_at_once(rng, metric):
    rows = clustered(rng, 4000)
    db = DB.build_from_numpy(rows[:3000], metric="l2" if metric == "ip" else metric, build_threshold=1000)
    for start in range(3000, 4000, 50):
        db.add_batch(rows[start : start + 50])
        graph = db.stats().graph
        assert graph is not None
        assert graph["rows"] + graph["tail"] == start + 50
        own = np.arange(graph["rows"], start + 50)
        assert len(own) < 256
        assert db.search(rows[own], k=1).ids[:, 0].tolist() == own.tolist()
        some = np.arange(start + 50)[-300:]
        assert (db.search(rows[some], k=1).ids[:, 0] == some).mean() > 0.98
        live = np.zeros(start + 50, bool)
        live[own] = rng.random(len(own)) < 0.5
        for mask in (True, "ids"):
            assert checked(db, rows[:5], rows[: start + 50], 10, live=live, mask=mask)[0] == 1.0
    assert graph["rows"] > 3500


def test_rows_unlike_all_before_them(rng):
    rows = np.concatenate([clustered(rng, 3000), 30 * clustered(rng, 1500)])  # beyond what the codes can hold
    db = DB.build_from_numpy(rows[:3000], build_threshold=1000)
    graph, points = db._now.graph, db._now.points
    assert graph is not None
    assert points is not None
    for piece in np.array_split(rows[3000:], 4):
        db.add_batch(piece)
    now = db._now
    assert now.graph is not None
    assert now.points is not None
    assert now.graph.rows > 3000
    np.testing.assert_array_equal(now.points.codes[:3000], points.codes)  # by which the graph knows its rows
    assert checked(db, rows[:200], rows)[0] > 0.9
    checked(db, rows[3000::20], rows)
    db.build_index()
    assert checked(db, rows[3000::20], rows)[0] > 0.9


# --- masks --------------------------------------------------------------------------------------------------------------

SHARES = [0.5, 0.1, 0.01, 0.001, 0.00001, 0.0]


@pytest.mark.parametrize("n", [14_000, pytest.param(200_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("walks", [False, True])
def test_masks_of_every_size(rng, monkeypatch, n, walks):
    if walks:
        walked(monkeypatch)
    rows, queries = clustered(rng, n), clustered(rng, 100)
    db = DB.build_from_numpy(rows, build_threshold=1000)
    by: dict[str, np.ndarray] = {
        "chance": rng.random(n),
        "a coordinate": -rows[:, 0],
        "distance to a query": ((rows - queries[0]) ** 2).sum(axis=1),
    }
    methods = set()
    for order in by.values():
        for share in SHARES:
            count = int(np.ceil(share * n))
            live = np.zeros(n, bool)
            live[np.argsort(order)[:count]] = True
            for k in (10, 100):
                answers = [checked(db, queries, rows, k, live=live, mask=mask) for mask in (True, "ids")]
                assert len({found.ids.tobytes() for _, found in answers}) == 1
                assert answers[0][0] >= 0.95
                methods.add((share, answers[0][1].method))
    assert (0.5, "graph") in methods
    few = 0.1 if walks or n < 100_000 else 0.01  # far below sqrt(60 beam n)
    assert ((few, "graph") in methods) == walks


def test_masks_over_deleted_rows(rng):
    rows, queries = clustered(rng, 5000), clustered(rng, 50)
    db = DB.build_from_numpy(rows, build_threshold=1000)
    live = rng.random(5000) < 0.93
    db.delete(np.flatnonzero(~live))
    db.add_batch(rows[:30] + 1)
    rows, live = np.concatenate([rows, rows[:30] + 1]), np.concatenate([live, np.ones(30, bool)])
    for share in (0.9, 0.4, 0.01):
        chosen = live & (rng.random(5030) < share)
        for mask in (True, "ids"):
            assert checked(db, queries, rows, 20, live=chosen, mask=mask)[0] > 0.9
    with pytest.raises(omendb.UnknownId):
        db.search(queries, mask=np.flatnonzero(~live)[:1])


@pytest.mark.parametrize("mask", [[[1], [1, 2]], [[1, 2]], "x", {1}, 7, [True, 1], np.ones((2, 2), bool), [2**63], [-1], [1.0]])
def test_what_is_no_mask(rng, mask):
    db = DB.build_from_numpy(clustered(rng, 300), build_threshold=100)
    with pytest.raises((omendb.InvalidIds, omendb.WrongShape)):
        db.search(np.ones(DIM), mask=mask)


# --- how hard to look ---------------------------------------------------------------------------------------------------


def test_a_higher_recall_is_a_wider_beam(rng):
    rows, queries = rng.normal(size=(8000, 24)).astype(np.float32), rng.normal(size=(200, 24)).astype(np.float32)
    db = DB(build_threshold=1000)
    reports = [db.build(rows, recall=0.9), db.build_index(recall=0.99)]
    assert reports[0].beam < reports[1].beam
    assert 0.9 <= reports[0].recall < 0.99 <= reports[1].recall
    found = [checked(db, queries, rows, beam=report.beam)[0] for report in reports]
    assert found[0] >= 0.88
    assert found[1] >= 0.98
    assert checked(db, queries, rows)[0] == found[1]  # the beam of the latest build is the default
    assert db.recall(queries) == pytest.approx(found[1])
    assert db.recall(queries, beam=reports[0].beam) == pytest.approx(found[0])
    means = [checked(db, queries, rows, beam=beam)[0] for beam in (1, 15, 30, 60, 120, 240)]
    assert means == sorted(means)
    assert means[1] < 0.9 < 0.97 < means[-1]
    assert checked(db, queries[:5], rows, beam=8000)[0] == 1.0  # the whole graph is walked: it is connected


@pytest.mark.parametrize("k", [1, 300, 2999, 3000, 3001, 10**6])
def test_any_k(rng, k):
    rows = rng.normal(size=(3000, DIM)).astype(np.float32)
    db = DB.build_from_numpy(rows, build_threshold=1000)
    for beam in (None, 1, 100, 65_536):
        recall, _ = checked(db, rows[:10], rows, k, beam=beam)
        assert recall > 0.9 or (k, beam) == (1, 1)
    with pytest.raises(omendb.InvalidParameter, match="beam"):
        db.search(rows[0], beam=65_537)


# --- sets that are hard on graphs ---------------------------------------------------------------------------------------


def mostly_equal(rng: np.random.Generator, n: int) -> np.ndarray:
    rows = clustered(rng, n)
    rows[rng.permutation(n)[n // 10 :]] = rows[0]
    return rows


def all_equal(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.broadcast_to(clustered(rng, 1), (n, DIM)).copy()


def tight(rng: np.random.Generator, n: int) -> np.ndarray:
    """500 clusters far narrower than the ways between them."""
    middles = 100 * rng.normal(size=(500, DIM))
    return (middles[rng.integers(0, 500, n)] + 0.01 * rng.normal(size=(n, DIM))).astype(np.float32)


@each_metric
@pytest.mark.parametrize("n", [20_000, pytest.param(100_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("make", [mostly_equal, all_equal, tight])
def test_sets_that_are_hard_on_graphs(rng, n, make: Callable[[np.random.Generator, int], np.ndarray], metric):
    rows = make(rng, n)
    db = DB(metric=metric, build_threshold=1000)
    assert db.build(rows[:-100], recall=0.99).index == "graph"  # tuned above what 50 queries are held to
    db.add_batch(rows[-100:])
    sample, distinct = rows[rng.integers(0, n, 50)], rng.permutation(np.unique(rows, axis=0))[:50]
    # Different ones: 45 times the same query would say how one search went, not what recall is.
    assert checked(db, distinct, rows)[0] > 0.95
    assert checked(db, sample, rows, 500, beam=1500)[0] > 0.95  # a quarter of all nodes, spread over islands
    live = rng.random(n) < 0.4
    assert checked(db, distinct, rows, 10, live=live, mask=True)[0] > 0.95
    db.delete(np.flatnonzero(~live))
    assert checked(db, sample, rows, 100, live=live)[0] > 0.95


def test_the_router_is_halved(rng):
    routers = []
    for _ in range(3):  # one of three at least: a sample of 256 rows is found less well by chance, with one set in eight
        graph = build_graph(rng.standard_normal((13_000, 16), dtype=np.float32))[0]
        routers.append(len(graph.router))
        assert graph.recall > 0.95
    assert min(routers) == LEAST_ROUTER
