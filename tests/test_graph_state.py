"""A graph's state: what `restore` refuses, and what the public ops of the graph refuse."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
from graph_sets import clustered, state_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from omendb_kernels import (
    Graph,
    InvalidParameter,
    NotFinite,
    PointSet,
    WrongDtype,
    WrongShape,
    build_graph,
    consolidate_graph,
    extend_graph,
    search_graph,
)

# ---- coming back ---------------------------------------------------------------------------------------------------

JUNK = st.sampled_from(
    [-1, 0, 1, 2, 3, 31, 1.5, math.nan, math.inf, "x", "31", None, True, [], [1], [31], [6, 5], [0, 1], {}, {"a": 1}, 2**20,
     2**31, 2**70, 10**400]
)  # fmt: skip


def with_twins(rng: np.random.Generator, n: int) -> np.ndarray:
    rows = clustered(rng, n, 20)
    rows[rng.integers(0, n, n // 10)] = rows[rng.integers(0, n, n // 10)]
    return rows


@pytest.fixture(scope="module")
def stored(pytestconfig):
    rng = np.random.default_rng(pytestconfig.option.seed)
    graph, points, _ = build_graph(with_twins(rng, 900))
    assert graph.heads is not None
    return graph, points


def restored(facts: Any, arrays: Any, rows: int) -> Graph | None:
    """None where it was refused."""
    try:
        return Graph.restore(facts, arrays, rows)
    except (ValueError, KeyError, TypeError):
        return None


def assert_searchable(graph: Graph, points: PointSet) -> None:
    queries = points.vectors[np.arange(5)]
    distances, ids, _ = search_graph(graph, points, queries.data, 10)
    assert ((ids >= -1) & (ids < len(points))).all()
    assert distances.shape == (5, 10)


def test_restored_as_it_was(stored):
    graph, points = stored
    facts, arrays = graph.state()
    back = Graph.restore(facts, arrays, len(points))
    assert state_bytes(back) == state_bytes(graph)
    untuned = Graph.restore({**facts, "recall": None}, arrays, len(points))
    assert math.isnan(untuned.recall)
    assert untuned.state()[0]["recall"] is None


@settings(max_examples=200)
@given(data=st.data(), value=JUNK)
def test_damaged_facts_are_refused_or_harmless(stored, data, value):
    graph, points = stored
    facts, arrays = copy.deepcopy(graph.state()[0]), graph.state()[1]
    home = facts["settings"] if data.draw(st.booleans()) else facts
    name = data.draw(st.sampled_from([*sorted(home), "new"]))
    if data.draw(st.integers(0, 4)) == 0:
        home.pop(name, None)
    else:
        home[name] = value
    back = restored(facts, arrays, len(points))
    if back is not None:
        assert_searchable(back, points)
        assert all(type(number) is int for number in (back.settings.degree, back.settings.width, back.settings.router))


@settings(max_examples=150)
@given(data=st.data())
def test_damaged_arrays_are_refused_or_harmless(stored, data):
    graph, points = stored
    facts, whole_arrays = graph.state()
    arrays: dict[str, Any] = {name: array.copy() for name, array in whole_arrays.items()}
    name = data.draw(st.sampled_from(sorted(arrays)))
    what = data.draw(st.sampled_from(["values", "dtype", "shape", "flat", "empty", "gone"]))
    if what == "values":
        flat, outside = arrays[name].reshape(-1), False
        for _ in range(data.draw(st.integers(1, 5))):
            number = data.draw(st.sampled_from([-(2**31), -2, -1, 0, 1, 450, 899, 900, 901, 2**31 - 1]))
            flat[data.draw(st.integers(0, len(flat) - 1))] = number
            outside |= number not in range(-1, 900)
        if (flat > 899).any() or (flat < -1).any():
            assert restored(facts, arrays, len(points)) is None
    elif what == "dtype":
        arrays[name] = arrays[name].astype(data.draw(st.sampled_from([np.int64, np.uint32, np.float32])))
    elif what == "shape":
        arrays[name] = arrays[name][: data.draw(st.integers(0, 5))]
    elif what == "flat":
        arrays[name] = arrays[name].reshape(-1, 1) if arrays[name].ndim == 1 else arrays[name].reshape(-1)
    elif what == "empty":
        arrays[name] = arrays[name][:0]
    else:
        del arrays[name]
    back = restored(facts, arrays, len(points))
    if what in ("dtype", "flat", "empty") or (what == "gone" and name != "heads"):
        assert back is None
    if back is not None:
        assert_searchable(back, points)


def test_more_rows_than_there_are_points(stored):
    facts, arrays = stored[0].state()
    with pytest.raises(ValueError, match="neighbours"):
        Graph.restore(facts, arrays, stored[0].rows - 1)


# ---- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recall", [0, 1, 0.0, 1.0, -0.1, 1.1, "x", None, math.nan, True, [0.9]])
def test_bad_recalls(recall):
    with pytest.raises(InvalidParameter, match="recall"):
        build_graph(np.ones((3, 2)), recall=recall)


def test_bad_rows():
    with pytest.raises(WrongShape):
        build_graph(np.empty((0, 4), np.float32))
    with pytest.raises(WrongShape):
        build_graph(PointSet.empty(4))
    with pytest.raises(NotFinite):
        build_graph(np.array([[1.0, np.nan]]))
    with pytest.raises(InvalidParameter, match="metric"):
        build_graph(PointSet.encode(np.ones((3, 2)), "l2"), "ip")
    with pytest.raises(InvalidParameter, match="threads"):
        build_graph(np.ones((3, 2)), threads=0)


def test_bad_searches(stored):
    graph, points = stored
    query = points.vectors[np.arange(1)].data
    for name, wrong in (("k", 0), ("k", -1), ("k", 2.0), ("beam", 0), ("beam", 2**16 + 1), ("beam", "10"), ("threads", 0)):
        with pytest.raises(InvalidParameter, match=f"^{name}"):
            search_graph(graph, points, query, **{name: wrong})
    for wrong_points in (points.vectors.data, None, points.take(np.arange(graph.rows - 1)), PointSet.empty(points.dim)):
        with pytest.raises(InvalidParameter, match="points"):
            search_graph(graph, wrong_points, query)
    with pytest.raises(NotFinite):
        search_graph(graph, points, query * np.nan)
    with pytest.raises(WrongShape):
        search_graph(graph, points, query[:, 1:])
    with pytest.raises(WrongShape):
        search_graph(graph, points, query, mask=np.ones(graph.rows + 1, np.bool_))
    with pytest.raises(WrongDtype):
        search_graph(graph, points, query, mask=np.ones(graph.rows))
    assert search_graph(graph, points, query[:0], 3)[1].shape == (0, 3)


def test_bad_consolidations(stored):
    graph, points = stored
    with pytest.raises(WrongShape, match="live"):
        consolidate_graph(graph, points, np.ones(graph.rows - 1, np.bool_))
    with pytest.raises(WrongDtype, match="live"):
        consolidate_graph(graph, points, np.ones(graph.rows))
    with pytest.raises(InvalidParameter, match="threads"):
        extend_graph(graph, points, threads=0)


WRONG = {
    "rows": lambda points: points.vectors.data,
    "nothing": lambda points: None,
    "too few": lambda points: points.take(np.arange(5)),
    "no codec": lambda points: PointSet.empty(points.dim),
}


@pytest.mark.parametrize("name", WRONG)
def test_other_points_are_refused(stored, name):
    graph, points = stored
    with pytest.raises(InvalidParameter, match="points"):
        extend_graph(graph, WRONG[name](points))
    with pytest.raises(InvalidParameter, match="points"):
        consolidate_graph(graph, WRONG[name](points), np.ones(graph.rows, np.bool_))
