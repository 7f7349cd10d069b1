"""Every backend against the oracle, bit for bit: the contract table, single rows against batches, shapes around block edges."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import contract_graph
import numpy as np
import pytest
from contract_cases import MAKERS, MASKS, TABLE, Case
from contract_check import USABLE, Call, Mismatch, as_tuple, check, compare_bits, map_arrays, poisoned, run_op, set_blocks
from contract_rows import KINDS, edge_rows, edge_share
from hypothesis import given, settings
from hypothesis import strategies as st

from omendb_kernels import METRICS
from omendb_kernels.arrays import Rows
from omendb_kernels.contract import Backend

OPS = [name for name, value in vars(Backend).items() if inspect.isfunction(value) and not name.startswith("_")]
GROUPS = list(dict.fromkeys((case.op, case.name) for case in TABLE))


@pytest.mark.parametrize(("op", "name"), GROUPS, ids=map(" ".join, GROUPS))
def test_table(rng, op, name):
    for case in TABLE:
        if (case.op, case.name) == (op, name):
            call = case.make(rng)
            for backend in USABLE.values():
                check(backend, call, case, threads=(1, 3) if op == "knn" else (1, 2, 3, 5))


def test_table_is_complete():
    assert set(OPS) - {case.op for case in TABLE} == set(), "ops without a case in tests/contract_cases.py"
    for op in ("rerank", "pairwise", "pairwise float32", "knn"):
        combinations = set(itertools.product(METRICS, KINDS))
        assert {(case.metric, case.kind) for case in TABLE if case.op == op} == combinations
    assert {name for op, name in GROUPS if op == "nearest"} >= set(MASKS)
    for op, metrics in contract_graph.METRICS_OF.items():
        assert {(case.name, case.metric) for case in TABLE if case.op == op} == set(
            itertools.product(("plain", *contract_graph.NAMES[op]), metrics)
        )
    assert "numpy" in USABLE


@pytest.mark.parametrize("size", [1, 3, 64])
@pytest.mark.parametrize("name", USABLE)
def test_block_sizes_change_nothing(rng, monkeypatch, name, size):
    warmed = [Case(op, "plain", "l2", kind, 9) for op in MAKERS for kind in KINDS]
    for case in warmed:  # a kernel that is compiled, and kept on disk, must not see the sizes below
        check(USABLE[name], case.make(rng), case, threads=(1,))
    if not set_blocks(monkeypatch, name, size):
        pytest.skip("no block size to change")
    chosen = rng.permutation(len(TABLE))[: 40 if size == 1 else 150]
    for case in [TABLE[i] for i in chosen if TABLE[i].dim <= 300]:
        check(USABLE[name], case.make(rng), case, threads=(1, 3))


def batch_names(op: str) -> tuple[str, ...]:
    """The arguments that hold one entry for each row of the answer."""
    if op in ("lengths", "encode"):
        return ("rows", "lengths", "scales")
    return {
        "assign": ("members",),
        "prune": ("candidates",),
        "link": ("targets", "own"),
        "score": ("rows", "ids"),
        "adopt": ("rows", "lists"),
        "beam": ("queries", "entries"),
    }.get(op, ("queries", "candidates", "lower"))


@pytest.mark.parametrize("name", USABLE)
@pytest.mark.parametrize("op", MAKERS)
def test_a_row_alone_is_as_in_a_batch(rng, op, name):
    if op in ("pairwise float32", "pick", "reach"):
        pytest.skip("outside the bit promise" if op == "pairwise float32" else "rows are answered together")
    cases = [case for case in TABLE if case.op == op and case.dim <= 128]
    for case in [cases[i] for i in rng.permutation(len(cases))[: 6 if op == "knn" else 60]]:
        call = case.make(rng)
        whole = as_tuple(run_op(USABLE[name], call, 2))
        for row in range(len(whole[0])):
            single = Call(op, {key: cut(key, value, batch_names(op), row) for key, value in call.args.items()})
            alone = as_tuple(run_op(USABLE[name], single, 2))
            compare_bits(tuple(part[row : row + 1] for part in whole), alone, f"row {row} of {case}")


def cut(key: str, value: Any, names: tuple[str, ...], row: int) -> Any:
    """This row of an array that is cut; arrays of one value for all rows stay. Items shrink to what is left of them."""
    if key == "offsets":
        return np.clip(value - row, 0, 1)
    if key not in names or value is None or (key == "scales" and len(value) == 1):
        return value
    return map_arrays(value, lambda array: array[row : row + 1])


EDGES = [0, 1, 2, 7, 8, 9, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513]
PLAIN_OPS = [op for op in MAKERS if op not in {"knn", *contract_graph.MAKERS}]


@settings(max_examples=120)
@given(
    op=st.sampled_from(PLAIN_OPS),
    n=st.sampled_from(EDGES),
    m=st.integers(0, 70),
    d=st.integers(1, 70),
    k=st.sampled_from([1, 2, 31, 64, 300]),
    metric=st.sampled_from(list(METRICS)),
    kind=st.sampled_from(KINDS),
    spoil=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_shapes_around_block_edges(op, n, m, d, k, metric, kind, spoil, seed):
    call = shaped(np.random.default_rng(seed), op, n, m, d, k, metric, kind)
    for backend in USABLE.values():
        check(backend, poisoned(call) if spoil else call, threads=(1 + seed % 5,))


@pytest.mark.long
@settings(max_examples=3_000)
@given(seed=st.integers(0, 2**64 - 1))
def test_shapes_at_random(seed):
    rng = np.random.default_rng(seed)
    n, m, d = int(rng.integers(0, 1500)), int(rng.integers(0, 140)), int(rng.integers(1, 200))
    op, metric, kind = rng.choice(PLAIN_OPS), rng.choice(list(METRICS)), rng.choice(KINDS)
    call = shaped(rng, op, n if op != "nearest" else n % 600, m % 9, d, int(rng.integers(1, 400)), metric, kind)
    for backend in USABLE.values():
        check(backend, call, threads=(1, 4))


def shaped(rng: np.random.Generator, op: str, n: int, m: int, d: int, k: int, metric: str, kind: str) -> Call:
    """The plain call of an op, cut out of or grown to these sizes by repeating rows: ties come for free."""
    base = Case(op, "plain", metric if op != "nearest" else "l2", kind, d).make(rng)
    picks = {count: rng.integers(0, 2, count) for count in {n, m}}
    args = dict(base.args)
    for key, count in (("rows", n), ("points", n), ("queries", m)):
        if key in args:
            args[key] = map_arrays(args[key], lambda array, count=count: array[picks[count]])
    if op == "nearest":
        args["k"], args["mask"] = k, rng.random(n) < rng.choice([0.05, 0.5, 1.0])
    if op == "rerank":
        width = min(n, 80)
        lines = [rng.permutation(n)[:width] for _ in range(m)]
        args |= {"k": k, "lower": None, "lengths": None, "candidates": np.array(lines, np.int32).reshape(m, width)}
    return Call(op if op != "pairwise float32" else "pairwise", args)


@settings(max_examples=60)
@given(
    op=st.sampled_from(["assign", "pick", "prune", "score", "beam"]),
    n=st.sampled_from([edge for edge in EDGES if 0 < edge <= 129]),
    size=st.sampled_from([edge for edge in EDGES if edge <= 129]),
    d=st.integers(1, 70),
    metric=st.sampled_from(["l2", "wide"]),
    spoil=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_graph_shapes_around_block_edges(op, n, size, d, metric, spoil, seed):
    call = contract_graph.shaped(np.random.default_rng(seed), op, n, d, size, metric)
    for backend in USABLE.values():
        check(backend, poisoned(call) if spoil else call, threads=(1 + seed % 5,))


@pytest.mark.long
@settings(max_examples=2_000)
@given(seed=st.integers(0, 2**64 - 1))
def test_graph_shapes_at_random(seed):
    rng = np.random.default_rng(seed)
    op, n = str(rng.choice(["assign", "pick", "prune", "score", "beam"])), int(rng.integers(1, 600))
    call = contract_graph.shaped(rng, op, n, int(rng.integers(1, 200)), int(rng.integers(0, min(n, 200) + 1)), "l2")
    for backend in USABLE.values():
        check(backend, call, threads=(1, 4))


@pytest.mark.parametrize("metric", METRICS)
def test_edge_rows_are_on_the_edge(rng, metric):
    for dim in (11, 32, 300):
        assert edge_share(*edge_rows(rng, METRICS[metric].code, 64, dim), METRICS[metric].code) > 0.9


def test_checker_sees_a_write_into_the_input():
    call = Call("lengths", {"rows": Rows(np.ones((3, 2), np.float32), "float32")})

    class Writer:
        NAME = "writer"

        @staticmethod
        def lengths(rows: Rows, *, threads: int) -> np.ndarray:
            found = np.sqrt((rows.data.astype(float) ** 2).sum(axis=1))
            rows.data[0, 0] = 2
            return found

    with pytest.raises(Mismatch, match="wrote into"):
        check(Writer, call, threads=(1,))
