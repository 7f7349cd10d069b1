"""The Triton backend, interpreted: its ops over the contract table bit for bit, watched, and seeded mutants of its kernels."""

from __future__ import annotations

import importlib
import zlib
from typing import Any

import numpy as np
import pytest
import triton_sim  # before Triton is imported  # noqa: F401
from contract_cases import TABLE, Case
from contract_check import Call, as_tuple, check, compare_bits, map_arrays, run_op
from triton_sim import KernelError, Sim, triton_fixture  # noqa: F401

KERNELS = {  # op -> the kernel that shows that Triton did it
    "nearest": "scan", "pick": "set_nearest", "assign": "set_nearest", "prune": "prune_lines", "rerank": "final_keys",
    "lengths": "row_lengths", "encode": "row_codes", "pairwise": "exact_tile", "pairwise float32": "product_tile",
    "knn": "scan",
}  # fmt: skip
SLOW = 150  # dimensions: cases beyond run with --long, but for a few
SHARE = {  # of an op's cases one in so many runs without --long, from a random one on
    "nearest": 4, "pick": 16, "assign": 14, "prune": 14, "rerank": 6, "lengths": 2, "encode": 3, "pairwise": 6,
    "pairwise float32": 6, "knn": 80,
}  # fmt: skip
WAITS = {"pick": 1, "assign": 1}  # programs are laid out on the host


def backend() -> Any:
    return importlib.import_module("omendb_kernels.backends.triton")


def cases_of(op: str, rng: np.random.Generator, *, long: bool) -> list[Case]:
    cases = [case for case in TABLE if case.op == op]
    if long:
        return cases
    share, first = SHARE[op], int(rng.integers(0, SHARE[op]))
    return [case for i, case in enumerate(cases) if (i + first) % (share if case.dim <= SLOW else 12 * share) == 0]


@pytest.mark.parametrize("op", KERNELS)
def test_table(request, rng, gpu, op):
    for place, case in enumerate(cases_of(op, rng, long=request.config.option.long)):
        gpu.seed = place
        check(backend(), case.make(rng), case, threads=(1,))
    assert gpu.launches[KERNELS[op]], "Triton did none of it"


@pytest.mark.parametrize("op", [op for op in KERNELS if op != "knn"])
def test_on_the_device_an_answer_stays_there(rng, gpu, op):
    import cupy

    case = next(case for case in TABLE if case.op == op and case.name == "plain" and case.dim == 32)
    call = case.make(rng)
    placed = Call(call.op, {name: map_arrays(value, cupy.asarray) for name, value in call.args.items()})
    gpu.syncs.clear()
    found = as_tuple(run_op(backend(), placed, 1))
    assert len(gpu.syncs) <= WAITS.get(op, 0), gpu.syncs
    assert all(isinstance(part, cupy.ndarray) for part in found)
    if op != "pairwise float32":
        compare_bits(call.wanted, tuple(part.get() for part in found), op)


def test_rows_beyond_the_device_are_streamed(rng, gpu):
    from omendb_kernels.backends import reference
    from omendb_kernels.contract import CodeRows

    codes = rng.integers(-3, 4, (1500, 512)).astype(np.int8)
    rows = CodeRows(codes, (codes.astype(np.int32) ** 2).sum(axis=1).astype(np.int32))
    ops, queries, mask = backend(), rows.take(slice(0, 5)), rng.random(1500) < 0.5
    gpu.memory = gpu.used + codes.nbytes // 2
    found = ops.nearest(queries, rows, 7, mask, threads=1)
    assert found.tobytes() == reference.nearest(queries, rows, 7, mask).tobytes()
    assert gpu.peak <= gpu.memory


MUTANTS: list[tuple[str, str, str, str]] = [  # (file, op that must show it, text, text instead)
    ("_pool.py", "nearest", "(best < limit)[:, None], key", "(best <= limit)[:, None], key"),  # a tie goes to the later
    ("_pool.py", "nearest", "NO_KEY - place, INT64_MIN", "NO_KEY - place, NO_KEY - place"),
    ("_pool.py", "nearest", "places, scores.shape[1])", "places, 0)"),
    ("nearest.py", "nearest", "there = rows < n", "there = rows <= n"),
    ("nearest.py", "nearest", "mask=there, other=INT32_MAX)", "mask=there, other=0)"),  # what is not there has a score
    ("nearest.py", "nearest", "last = tl.minimum(first + each, tiles)", "last = tl.minimum(first + each, tiles - 1)"),
    ("nearest.py", "nearest", "(place < dim), other=0)", "(place <= dim), other=0)"),
    ("nearest.py", "nearest", "place = tl.load(ids + place, mask=found, other=0)", "place = place"),
    ("nearest.py", "nearest", "mask=here[:, None] & (slot < k))", "mask=(slot < k))"),
    ("pick.py", "pick", "(places[:, None] == column[None, :]) & (apart == 0)", "(places[:, None] < 0)"),  # its own neighbour
    ("pick.py", "assign", "(places[:, None] == column[None, :]) & (apart == 0)", "(places[:, None] == column[None, :])"),
    ("pick.py", "assign", "mask=there, other=INT32_MAX)", "mask=there, other=0)"),
    ("pick.py", "pick", "there = column < size", "there = column <= size"),
    ("pick.py", "pick", "range(tl.cdiv(size, BN) * steps)", "range(size // BN * steps)"),
    ("prune.py", "prune", "(distances <= reach[:, None, :])", "(distances < reach[:, None, :])"),
    ("prune.py", "prune", "(place[:, None] < place[None, :])", "(place[:, None] > place[None, :])"),
    ("prune.py", "prune", "strikers & (kept | waiting)[:, None]", "strikers & kept[:, None]"),
    ("prune.py", "prune", "mask=there[:, :, None] & (byte < dim)", "mask=there[:, :, None] & (byte <= dim)"),
    ("prune.py", "prune", "count[:, None] + place[None, :] - rank)", "place[None, :])"),
    ("rerank.py", "rerank", "asked = query < m", "asked = query <= m"),
    ("rerank.py", "rerank", "there = row >= 0", "there = row >= -1"),
    ("_rows.py", "rerank", "(count, 2, 4)), (0, 2, 1)", "(count, 4, 2)), (0, 1, 2)"),  # another order of sums
    ("_rows.py", "rerank", "(column < dim)", "(column <= dim)"),
    ("encode.py", "encode", "if tl.max(tl.max(doubtful.to(tl.int32), axis=1), axis=0) > 0:", "if dim < 0:"),
    ("encode.py", "encode", "tl.maximum(y / scale, -128.0)", "tl.maximum(y / scale, -127.0)"),
    ("encode.py", "encode", "error = y - scale * code", "error = y - code / inverse"),
    ("distances.py", "pairwise", "values_at(other, start, dim, right < n)", "values_at(other, start, dim, right <= n)"),
    ("distances.py", "pairwise float32", "lengths - 2.0 * products", "lengths - products"),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant[0]} {mutant[1]}")
def test_seeded_mutants_are_caught(gpu, monkeypatch, mutant):
    """Kernels wrong in one small way: the table or the watch sees each."""
    file, op, right, wrong = mutant
    ops, module = backend(), importlib.import_module(f"omendb_kernels.backends.triton.{file.removesuffix('.py')}")
    replace_in(module, right, wrong, monkeypatch)
    gpu.seconds = 5
    assert caught(gpu, ops, op, zlib.crc32(repr(mutant).encode())), "nothing saw it"


def replace_in(module: Any, right: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module's one function that has this text, with the other text instead, wherever it is known."""
    import inspect
    import linecache

    import triton.runtime.interpreter as engine

    source = inspect.getsource(module)
    assert source.count(right) == 1, f"{right!r} is not once in {module.__name__}"
    name = f"<mutant of {module.__name__} {zlib.crc32((right + wrong).encode())}>"
    text = source.replace(right, wrong)
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    fresh: dict[str, Any] = {key: getattr(module, key) for key in ("__name__", "__package__")}
    exec(compile(text, name, "exec"), fresh)
    for key, value in fresh.items():
        old = getattr(module, key, None)
        if isinstance(value, engine.InterpretedFunction) and isinstance(old, engine.InterpretedFunction):
            monkeypatch.setattr(old, "rewrite", value.rewrite)


def caught(gpu: Sim, ops: Any, op: str, seed: int) -> bool:
    cases = [case for case in TABLE if case.op == op and case.dim <= SLOW]
    for place in np.random.default_rng(seed).permutation(len(cases)):
        gpu.seed = int(place)
        try:
            check(ops, cases[place].make(np.random.default_rng([seed, place])), cases[place], threads=(1,))
        except (AssertionError, KernelError):
            return True
    return False
