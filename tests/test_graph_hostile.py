"""Graphs over rows that break graphs: duplicates, tight clusters, lines, few rows, huge norms; and deletions."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import NUMBA_BLOCKED
from graph_sets import assert_answers, assert_sound, clustered, gaussian, recall_of, state_bytes

from omendb_kernels import METRICS, PointSet, build_graph, consolidate_graph, extend_graph, knn, search_graph
from omendb_kernels.contract import CodeRows
from omendb_kernels.graph import twins

pytestmark = pytest.mark.heavy

MARGIN = 0.035  # of a recall measured on 200 queries, the beam tuned on 16 to 100 rows
QUERIES = 200
N = 5_200
Generator = np.random.Generator


def tight(rng: Generator, size: float, spread: float, d: int = 24, clusters: int = 500) -> np.ndarray:
    centres = rng.standard_normal((clusters, d)) * size
    return centres[rng.integers(0, clusters, N)] + spread * rng.standard_normal((N, d))


def mostly_equal(rng: Generator, n: int, share: float = 0.9) -> np.ndarray:
    rows = gaussian(rng, n + QUERIES, 16)
    rows[:n][rng.random(n) < share] = rows[0]
    return rows


def on_a_line(rng: Generator) -> np.ndarray:
    return rng.uniform(1, 2, (N, 1)) * rng.standard_normal((1, 24))


def evenly_on_a_line(rng: Generator) -> np.ndarray:
    return (1 + rng.permutation(N)[:, None]) * np.ones((1, 4))


def two_far(rng: Generator) -> np.ndarray:
    rows = gaussian(rng, N, 24)
    rows[::2] += 1_000
    return rows


def norms_spread(rng: Generator) -> np.ndarray:
    return gaussian(rng, N, 24) * 10 ** rng.uniform(-4, 4, (N, 1))


def one_wild_dimension(rng: Generator) -> np.ndarray:
    rows = gaussian(rng, N, 24)
    rows[rng.random(N) < 0.3, 5] *= 1e4
    return rows


HOSTILE: dict[str, Callable[[Generator], np.ndarray]] = {
    "500 tight clusters": lambda rng: tight(rng, 1, 1e-3),
    "500 tighter clusters": lambda rng: tight(rng, 1, 1e-6),
    "500 clusters far apart": lambda rng: tight(rng, 100, 1e-2),
    "40 clusters far apart": lambda rng: tight(rng, 30, 1, clusters=40),
    "90 % equal": lambda rng: mostly_equal(rng, N - QUERIES),
    "all equal": lambda rng: np.repeat(gaussian(rng, 1, 16), N, axis=0),
    "on a line": on_a_line,
    "evenly on a line": evenly_on_a_line,
    "two far clusters": two_far,
    "norms of eight decades": norms_spread,
    "one wild dimension": one_wild_dimension,
    **{f"{d}-d": lambda rng, d=d: gaussian(rng, N, d) for d in (1, 2, 3, 50)},
    **{f"{d}-d": lambda rng, d=d: gaussian(rng, 1_100, d) for d in (1_536, 3_072)},
}
APART = {"500 tight clusters", "500 clusters far apart", "40 clusters far apart", "two far clusters"}  # see assert_sound


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_rows(rng, name, metric):
    rows = HOSTILE[name](rng).astype(np.float32)
    queries, rows = rows[-QUERIES:], rows[:-QUERIES]
    graph, points, _ = build_graph(rows, metric)
    assert_sound(graph, points, connected=name not in APART)
    assert recall_of(graph, points, queries) >= 0.95 - MARGIN
    recall_of(graph, points, queries, 300)  # more than a cluster holds


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n", [1, 2, 3, 10, 255, 257, 799, 800, 4_095, 4_096, 4_097, 4_178, 4_179, 4_180])
def test_sizes_around_every_limit(rng, n, metric):
    """4,096 nodes are looked at pair by pair: with the rows held back, that is 4,179 rows."""
    rows = gaussian(rng, n + 50, 12)
    graph, points, _ = build_graph(rows[:n], metric)
    assert_sound(graph, points, connected=True)
    assert len(graph.nodes) == n
    for k in (1, 10, n, n + 5) if n <= 10 else (10,):
        assert recall_of(graph, points, rows[n:], k) >= 0.9


@pytest.mark.parametrize("n", [20_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_many_equal_rows(rng, n):
    rows = mostly_equal(rng, n)
    graph, points, _ = build_graph(rows[:n])
    assert_sound(graph, points, connected=True)
    assert len(graph.nodes) < 0.12 * n
    assert recall_of(graph, points, rows[n:]) >= 0.95 - MARGIN
    equal = np.flatnonzero((rows[:n] == rows[0]).all(axis=1))
    for k in (10, 5_000):  # more than MAX_TWINS
        assert search_graph(graph, points, rows[:1], k)[1][0].tolist() == equal[:k].tolist()
    mask = np.arange(n) >= n // 2  # all of the equal rows that would be looked at first are refused
    assert search_graph(graph, points, rows[:1], 10, mask=mask)[1][0].tolist() == equal[equal >= n // 2][:10].tolist()


@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("n", [20_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_tight_clusters_larger_than_a_list(rng, n, metric):
    """Lists hold rows of their own cluster only: a search must enter the right one, for no walk leads there."""
    rows = (rng.standard_normal((500, 32))[rng.integers(0, 500, n + 200)] + 0.02 * rng.standard_normal((n + 200, 32))).astype(
        np.float32
    )
    graph, points, _ = build_graph(rows[:n], metric)
    assert_sound(graph, points)
    assert recall_of(graph, points, rows[n:]) >= 0.95 - MARGIN
    assert graph.beam <= 400, "found by looking everywhere"


def test_memory_of_a_build_is_bounded(rng):
    """A row's reservoir, lists and memberships: about 2 KiB, whatever the rows are."""
    n = 20_000
    for rows in (gaussian(rng, n, 32), mostly_equal(rng, n)[:n], np.repeat(gaussian(rng, 1, 32), n, axis=0)):
        points = PointSet.encode(rows, "l2")
        build_graph(points)  # what is made once and kept
        tracemalloc.start()
        _, _, facts = build_graph(points)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= n * (8_000 if NUMBA_BLOCKED else 3_000) + (80 << 20), peak
        assert facts.peak_bytes <= points.nbytes + n * 2_000


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_hashes_that_collide(rng, monkeypatch, metric):
    """Twins are rows of equal code, not of equal hash."""
    rows = gaussian(rng, 300, 8)
    rows[rng.integers(0, 300, 90)] = rows[rng.integers(0, 300, 90)]
    points = PointSet.encode(rows, metric).nodes
    everyone = np.arange(300, dtype=np.int32)
    extra = np.zeros(300, np.int32) if points.wide is None else points.wide
    first: dict[Any, int] = {}
    wanted = [first.setdefault((points.codes[i].tobytes(), int(extra[i])), i) for i in range(300)]
    assert len(first) < 300
    assert twins.heads_of(points, everyone).tolist() == wanted
    for hashes in (np.zeros(300, np.uint64), points.codes[:, 0].astype(np.uint64) % np.uint64(3)):
        monkeypatch.setattr(twins, "_hashes", lambda points, rows, hashes=hashes: hashes)
        assert twins.heads_of(points, everyone).tolist() == wanted


def test_wide_coordinate_keeps_rows_apart():
    codes = np.ones((3, 32), np.int8)
    wide = np.array([1, 2, 1], np.int32)
    points = CodeRows(codes, (32 + wide * wide).astype(np.int32), wide)
    assert twins.heads_of(points, np.arange(3, dtype=np.int32)).tolist() == [0, 1, 0]


# ---- deletions -----------------------------------------------------------------------------------------------------


def emptied(rng: Generator, n: int, share: float) -> np.ndarray:
    live = np.ones(n, np.bool_)
    live[rng.permutation(n)[: round(share * n)]] = False
    return live


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("make", [gaussian, clustered])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
def test_recall_after_deletions(rng, make, share, metric):
    n = 6_000
    rows = make(rng, n + 300, 20)
    queries, rows = rows[n:], rows[:n]
    graph, points, _ = build_graph(rows, metric)
    live = emptied(rng, n, share)
    left = consolidate_graph(graph, points, live)
    assert left is not None
    assert_sound(left, points, live, connected=make is gaussian)
    fresh, anew, _ = build_graph(rows[live], metric)
    wanted = recall_of(fresh, anew, queries, beam=left.beam)
    assert recall_of(left, points, queries, mask=live) >= wanted - 0.01 - 0.02  # noise of both: 300 queries
    chosen = np.flatnonzero(live)
    taken, alone = left.take(chosen), points.take(chosen)
    assert_sound(taken, alone, renumbered=True, connected=make is gaussian)
    assert recall_of(taken, alone, queries) >= wanted - 0.01 - 0.02


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_recall_after_many_small_deletions(rng, metric):
    n = 4_000
    rows = gaussian(rng, n + 300, 20)
    graph, points, _ = build_graph(rows[:n], metric)
    left: Any = graph
    live = np.ones(n, np.bool_)
    for _ in range(8):
        live[rng.permutation(np.flatnonzero(live))[: live.sum() // 20]] = False
        left = consolidate_graph(left, points, live)
    assert_sound(left, points, live)
    chosen = np.flatnonzero(live)
    fresh, anew, _ = build_graph(rows[chosen], metric)
    wanted = recall_of(fresh, anew, rows[n:], beam=left.beam)
    assert recall_of(left.take(chosen), points.take(chosen), rows[n:]) >= wanted - 0.01 - 0.02


@pytest.mark.parametrize("metric", METRICS)
def test_take_gives_the_same_answers(rng, metric):
    n = 5_000
    rows = clustered(rng, n + 100, 16)
    rows[rng.integers(0, n, 500)] = rows[rng.integers(0, n, 500)]  # twins
    graph, points, _ = build_graph(rows[:n], metric)
    live = emptied(rng, n, 0.3)
    left = consolidate_graph(graph, points, live)
    assert left is not None
    chosen = np.flatnonzero(live)
    taken, alone = left.take(chosen), points.take(chosen)
    assert_sound(taken, alone, renumbered=True)
    for k in (1, 10):
        found = search_graph(left, points, rows[n:], k, beam=60)
        distances, ids, _ = search_graph(taken, alone, rows[n:], k, beam=60)
        dead = ~live[found[1]]
        assert (ids >= 0).all()
        same = ~dead.any(axis=1)  # a dead row may stand for its twins
        assert same.any()
        assert (distances[same] == found[0][same]).all()
        assert (chosen[ids[same]] == found[1][same]).all()


@pytest.mark.parametrize("metric", METRICS)
def test_deletions_down_to_the_last_row(rng, metric):
    n = 1_500
    rows = clustered(rng, n, 12)
    graph, points, _ = build_graph(rows, metric)
    live = np.ones(n, np.bool_)
    left: Any = graph
    for stay in (1_200, 400, 60, 11, 2, 1):
        live[rng.permutation(np.flatnonzero(live))[stay:]] = False
        left = consolidate_graph(left, points, live)
        assert_sound(left, points, live)
        recall_of(left, points, rows[:20], 10, live)
        chosen = np.flatnonzero(live)
        assert recall_of(left.take(chosen), points.take(chosen), rows[:20], min(10, stay)) >= 0.9
    assert consolidate_graph(left, points, np.zeros(n, np.bool_)) is None
    assert consolidate_graph(graph, points, np.zeros(n, np.bool_)) is None
    assert consolidate_graph(graph, points, None) is graph


def test_one_row_left_of_many(rng):
    rows = gaussian(rng, 4_500, 8)
    graph, points, _ = build_graph(rows)
    live = np.arange(4_500) == 4_321
    left = consolidate_graph(graph, points, live)
    assert left is not None
    assert_sound(left, points, live)
    taken = left.take(np.array([4_321]))
    assert search_graph(taken, points.take(np.array([4_321])), rows[:3], 2)[1].tolist() == [[0, -1]] * 3


@pytest.mark.parametrize("metric", METRICS)
def test_twins_outlive_their_head(rng, metric):
    rows = clustered(rng, 3_000, 16)
    rows[2_000:2_600] = rows[:600]  # each of them a twin of an older row
    graph, points, _ = build_graph(rows, metric)
    live = np.ones(3_000, np.bool_)
    live[:600] = False
    left = consolidate_graph(graph, points, live)
    assert left is not None
    assert_sound(left, points, live)
    chosen = np.flatnonzero(live)
    for made, known, mask, places in (
        (left, points, live, np.arange(3_000)),
        (left.take(chosen), points.take(chosen), None, chosen),
    ):
        distances, ids, _ = search_graph(made, known, rows[:600], 1, mask=mask)
        truth, _ = knn(rows[:600], known, 1, mask=mask)
        assert_answers(known, rows[:600], 1, mask, distances, ids)
        assert (distances == truth).mean() >= (0.9 if metric == "ip" else 0.98)
        if metric != "ip":
            assert (places[ids[:, 0]] == np.arange(2_000, 2_600)).mean() >= 0.98
    # And once the twins die too, nothing is left of either.
    live[2_000:2_600] = False
    none = consolidate_graph(left, points, live)
    assert none is not None
    assert_sound(none, points, live)
    assert none.heads is not None
    assert (none.heads[:600] == -1).all()


@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_come_after_deletions(rng, metric):
    rows = clustered(rng, 3_900, 16)
    graph, points, _ = build_graph(rows[:2_000], metric)
    live = emptied(rng, 2_000, 0.4)
    left = consolidate_graph(graph, points, live)
    assert left is not None
    later = points.extend(rows[2_000:3_600], refit=False)
    grown = extend_graph(left, later)
    assert grown.rows > 3_000
    known = np.concatenate([live, np.ones(grown.rows - 2_000, np.bool_)])
    assert_sound(grown, later, known)
    mask = np.concatenate([live, np.ones(1_600, np.bool_)])
    assert recall_of(grown, later, rows[3_600:], 10, mask) >= 0.95 - 0.05  # the beam was tuned to half as many rows
    again = consolidate_graph(grown, later, known)
    assert again is not None
    assert (again.neighbours[:, :-1] == grown.neighbours[:, :-1]).all()  # nobody died: nothing to mend
    assert state_bytes(again).keys() == state_bytes(grown).keys()
