"""The graph by its public ops: the same bytes however it is made, its recall, its masks, its tail."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from contract_check import USABLE, in_force, set_blocks
from graph_sets import assert_answers, assert_sound, clustered, gaussian, recall_of, state_bytes, whole

from omendb_kernels import (
    PointSet,
    build_graph,
    consolidate_graph,
    extend_graph,
    knn,
    ops,
    search_graph,
)
from omendb_kernels.backends import reference
from omendb_kernels.graph import Settings, build, consolidate, insert_due, remove, search, twins

MARGIN = 0.03  # of a recall measured on 300 queries, the beam tuned on 100 rows: 3 standard errors of both
TINY = Settings(
    degree=6, leaf=32, reservoir=12, small=64, small_k=6, router=16, insert_beam=12, batch_k=3, fanout=(4, 2)
)
SETS = [("l2", "float32"), ("cosine", "float32"), ("ip", "float32"), ("l2", "uint8"), ("cosine", "uint8")]


def rows_of(rng: np.random.Generator, n: int, kind: str = "float32", d: int = 20) -> np.ndarray:
    rows = clustered(rng, n, d)
    rows[rng.integers(0, n, n // 10)] = rows[rng.integers(0, n, n // 10)]  # twins
    return whole(rows) if kind == "uint8" else rows


# ---- the same bytes ------------------------------------------------------------------------------------------------


def life(rows: np.ndarray, metric: str, threads: int) -> dict[str, bytes]:
    """What a graph is after it was built, searched, extended and consolidated."""
    n = len(rows) - 700
    graph, points, _ = build_graph(rows[:n], metric, threads=threads)
    later = points.extend(rows[n:-50], refit=False, threads=threads)
    grown = extend_graph(graph, later, threads=threads)
    assert n < grown.rows < len(later)
    live = np.arange(grown.rows) % 7 > 1
    left = consolidate_graph(grown, later, live, threads=threads)
    assert left is not None
    found: dict[str, bytes] = {}
    masks = (None, np.arange(len(later)) % 3 > 0)
    for name, made in (("built", graph), ("grown", grown), ("left", left)):
        found |= {f"{name} {key}": value for key, value in state_bytes(made).items()}
        for mask in masks:
            answers = search_graph(made, later, rows[-50:], 10, mask=mask, threads=threads)[:2]
            found[f"{name} answers, {'all' if mask is None else 'mask'}"] = b"".join(part.tobytes() for part in answers)
    return found


def assert_same(found: dict[str, bytes], wanted: dict[str, bytes], where: object) -> None:
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == [], where


@pytest.mark.parametrize(("metric", "kind"), SETS)
def test_threads_and_backends_change_nothing(rng, metric, kind):
    rows = rows_of(rng, 5_400, kind)  # more than `small`: leaves are cut
    wanted = life(rows, metric, 2)
    assert len(set(wanted.values())) > 10
    for name, module in USABLE.items():
        with in_force(module):
            for threads in (1, 3) if name != "numpy" else (3,):
                assert_same(life(rows, metric, threads), wanted, f"{name}, {threads} threads")


@pytest.mark.parametrize("size", [pytest.param(7, marks=pytest.mark.long), 48])
@pytest.mark.parametrize("name", USABLE)
def test_block_sizes_change_nothing(rng, monkeypatch, name, size):
    rows = rows_of(rng, 2_000)
    monkeypatch.setattr(ops, "DEFAULT", TINY)
    with in_force(USABLE[name]):
        wanted = life(rows, "ip", 2)
        assert len(set_blocks(monkeypatch, name, size)) > 8
        for module in (search, twins, remove):
            for constant in {"QUERY_BLOCK", "BLOCK"} & set(vars(module)):
                monkeypatch.setattr(module, constant, size)
        assert_same(life(rows, "ip", 2), wanted, f"blocks of {size}")


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_every_backend_makes_the_oracles_graph(rng, metric):
    rows = rows_of(rng, 1_300, d=6)
    points = PointSet.encode(rows[:900], metric)
    later = points.extend(rows[900:], refit=False)
    live = np.arange(1_280) % 5 > 0

    def made(module: Any) -> list[dict[str, bytes]]:
        with in_force(module):
            graph, _ = build(points, 0.9, TINY, threads=2)
            grown = insert_due(graph, later.nodes, module, 2)
            left = consolidate(grown, later.nodes, live[: grown.rows], module, 2)
            assert left is not None
            assert not math.isnan(graph.recall)
            return [state_bytes(each) for each in (graph, grown, left)]

    wanted = made(reference)
    for name, module in USABLE.items():
        for found, want in zip(made(module), wanted, strict=True):
            assert_same(found, want, name)


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_cuts_of_calls_change_nothing(rng, metric):
    n, first = 3_500, 1_300
    rows = rows_of(rng, n)
    graph, points, _ = build_graph(rows[:first], metric)
    later = points.extend(rows[first:], refit=False)
    wanted = state_bytes(extend_graph(graph, later))
    for most in (40, 900):
        grown, known, start = graph, points, first
        while start < n:
            stop = min(n, start + int(rng.integers(1, most)))
            known, start = known.extend(rows[start:stop], refit=False), stop
            if rng.random() < 0.5 or start == n:
                before, grown = grown, extend_graph(grown, known)
                assert (grown is before) == (grown.rows == before.rows)
        assert_same(state_bytes(grown), wanted, f"calls of up to {most} rows")
        assert_sound(grown, known)
    assert len(grown.nodes) < grown.rows  # later twins were seen


def test_a_graph_is_not_changed_by_what_follows(rng):
    rows = rows_of(rng, 2_500)
    graph, points, _ = build_graph(rows[:1_500])
    before = state_bytes(graph)
    later = points.extend(rows[1_500:], refit=False)
    grown = extend_graph(graph, later)
    between = state_bytes(grown)
    consolidate_graph(grown, later, rng.random(grown.rows) < 0.5)
    assert state_bytes(graph) == before
    assert state_bytes(grown) == between


# ---- recall --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize(("make", "n", "d"), [(gaussian, 5_000, 16), (clustered, 6_000, 32), (gaussian, 2_000, 8)])
def test_recall_is_what_was_asked(rng, make, n, d, metric):
    rows = make(rng, n + 300, d)
    graph, points, _ = build_graph(rows[:n], metric)
    assert_sound(graph, points, connected=make is gaussian)
    assert graph.recall >= 0.95
    assert recall_of(graph, points, rows[n:]) >= 0.95 - MARGIN


def test_more_recall_when_more_is_asked(rng):
    rows = gaussian(rng, 6_400, 32)  # hard enough that both beams are above the least
    low, points, _ = build_graph(rows[:6_000], recall=0.8)
    high, _, _ = build_graph(points, recall=0.99)
    assert (high.neighbours == low.neighbours).all()
    assert high.beam > low.beam
    assert low.recall < high.recall
    assert recall_of(high, points, rows[6_000:]) >= 0.99 - 0.015
    assert recall_of(high, points, rows[6_000:]) > recall_of(low, points, rows[6_000:])


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_a_wider_beam_finds_no_less(rng, metric):
    rows = gaussian(rng, 5_300, 24)
    graph, points, _ = build_graph(rows[:5_000], metric)
    found = [recall_of(graph, points, rows[5_000:], beam=beam) for beam in (10, 15, 25, 50, 100, 200, 400)]
    assert all(wide >= narrow - 0.005 for narrow, wide in itertools.pairwise(found)), found
    assert found[-1] > found[0]
    assert found[-1] >= 0.99


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
@pytest.mark.parametrize(("n", "d"), [(100, 1_536), (250, 1_536), (700, 768), (3_000, 200)])
def test_a_beam_for_all_nodes_finds_everything(rng, n, d, metric):
    """A node that only the router knows is not found by a search that enters elsewhere."""
    rows = gaussian(rng, n + 60, d)
    graph, points, _ = build_graph(rows[:n], metric)
    assert_sound(graph, points, connected=True)
    assert recall_of(graph, points, rows[n:], beam=n) == 1.0


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_few_rows_are_all_found(rng, metric):
    """Too few to hold some back: the beam cannot be tuned, and a fixed one is too small for inner products of 1,536-d."""
    rows = gaussian(rng, 760, 1_536)
    graph, points, _ = build_graph(rows[:700], metric)
    assert math.isnan(graph.recall)
    assert recall_of(graph, points, rows[700:]) == 1.0


# ---- masks and batches ---------------------------------------------------------------------------------------------


def masks_of(rng: np.random.Generator, rows: np.ndarray) -> dict[str, np.ndarray]:
    n = len(rows)
    side = rows @ rng.standard_normal(rows.shape[1])
    found = {f"{share:%} at random": rng.random(n) < share for share in (0.5, 0.1, 0.01, 0.001)}
    found |= {f"{share:%} of one side": side < np.quantile(side, share) for share in (0.5, 0.1, 0.01)}
    found |= {"one": np.arange(n) == n // 2, "none": np.zeros(n, np.bool_), "all": np.ones(n, np.bool_)}
    return found


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_masks(rng, metric):
    rows = clustered(rng, 8_300, 24)
    queries, rows = rows[8_000:], rows[:8_000]
    graph, points, _ = build_graph(rows, metric)
    for name, mask in masks_of(rng, rows).items():
        for k in (1, 10, 50):
            assert recall_of(graph, points, queries, k, mask) >= 0.95 - MARGIN, (name, k)


def test_masks_that_refuse_the_nearest(rng):
    """The clusters nearest to the queries are refused: what a search meets first is all useless."""
    rows = clustered(rng, 8_060, 24)
    queries, rows = rows[8_000:], rows[:8_000]
    graph, points, _ = build_graph(rows)
    near = np.unique(knn(queries, points, 100)[1])
    mask = np.ones(8_000, np.bool_)
    mask[near] = False
    assert recall_of(graph, points, queries, 10, mask) >= 0.95 - MARGIN


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_a_query_alone_is_as_in_a_batch(rng, metric):
    rows = rows_of(rng, 3_040)
    graph, points, _ = build_graph(rows[:2_900], metric)
    points = points.extend(rows[2_900:3_000], refit=False)
    for mask in (None, rng.random(3_000) < 0.5, rng.random(3_000) < 0.003):
        for beam in (None, 10, 70):
            both = search_graph(graph, points, rows[3_000:], 10, beam=beam, mask=mask)[:2]
            for i in range(40):
                alone = search_graph(graph, points, rows[3_000 + i], 10, beam=beam, mask=mask)[:2]
                assert all((one[0].tobytes() == many[i].tobytes()) for one, many in zip(alone, both, strict=True))


# ---- the tail ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_the_tail_is_searched_exactly(rng, metric):
    rows = rows_of(rng, 2_040)
    graph, points, _ = build_graph(rows[:1_800], metric)
    points = points.extend(rows[1_800:2_000], refit=False)
    assert extend_graph(graph, points) is graph
    queries = np.concatenate([rows[2_000:], rows[1_800:1_850]])
    for mask in (None, rng.random(2_000) < 0.6, np.arange(2_000) >= 1_800, np.arange(2_000) >= 1_995):
        truth, true_ids = knn(queries, points, 10, mask=mask)
        found, ids, _ = search_graph(graph, points, queries, 10, mask=mask)
        assert_answers(points, queries, 10, mask, found, ids)
        for want, got in zip(true_ids, ids, strict=True):
            assert set(want[want >= 1_800]) <= set(got)
        assert (found <= truth[:, -1:]).mean() >= 0.95 - MARGIN
