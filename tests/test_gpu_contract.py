"""The GPU backend on the simulated GPU: the whole contract table bit for bit, and kernels watched for races and bounds."""

from __future__ import annotations

import importlib
import zlib
from typing import Any

import numpy as np
import pytest
from contract_cases import MAKERS, TABLE, Case
from contract_check import Call, as_tuple, check, compare_bits, map_arrays, run_op
from gpu_sim import KernelError, Sim, gpu_fixture  # noqa: F401

OPS = [op for op in MAKERS if op != "knn"]
WATCHED = 12  # cases of each op that run in the checked build
SLOW = 400  # dimensions: of cases beyond, every third runs without --long


def backend() -> Any:
    return importlib.import_module("omendb_kernels.backends.cupy")


def cases_of(op: str, *, long: bool) -> list[Case]:
    cases = [case for case in TABLE if case.op == op]
    return [case for place, case in enumerate(cases) if long or case.dim <= SLOW or place % 3 == 0]


@pytest.mark.parametrize("op", [*OPS, "knn"])
def test_table(request, rng, gpu, op):
    cases, shift = cases_of(op, long=request.config.option.long), int(rng.integers(0, 3))
    for place, case in enumerate(cases):
        gpu.order, gpu.seed = (place + shift) % 3, place
        check(backend(), case.make(rng), case, threads=(1,))


@pytest.mark.parametrize("op", OPS)
def test_watched_kernels_report_nothing(rng, gpu, op):
    """Small calls of every name in the table; random order, and threads that are interrupted at any access."""
    gpu.checked, gpu.order, gpu.preempt = True, 2, 50
    small = [case for case in TABLE if case.op == op and case.dim <= 33 and case.name not in ("leaf of 512", "many nodes")]
    for place, chosen in enumerate(rng.permutation(len(small))[:WATCHED]):
        gpu.seed = place
        check(backend(), small[chosen].make(rng), small[chosen], threads=(1,))


@pytest.mark.parametrize("op", OPS)
def test_on_the_device_an_answer_stays_there(rng, gpu, op):
    """Arguments on the device: the same bits, and the host waits only where the op says why."""
    import cupy

    case = next(case for case in TABLE if case.op == op and case.name == "plain" and case.dim == 32)
    call = case.make(rng)
    placed = Call(call.op, {name: map_arrays(value, cupy.asarray) for name, value in call.args.items()})
    gpu.syncs.clear()
    found = as_tuple(run_op(backend(), placed, 1))
    waited = list(gpu.syncs)
    assert all(isinstance(part, cupy.ndarray) for part in found)
    if op != "pairwise float32":
        compare_bits(call.wanted, tuple(part.get() for part in found), op)
    assert len(waited) <= WAITS.get(op, 0), waited


# reach: a look at the size of every eighth front: their number is not known before; pick, assign: blocks are laid out on the
# host.
WAITS = {"reach": 40, "pick": 1, "assign": 1}


@pytest.mark.parametrize("constants", [{"SETS": (2, 2)}, {"ROOM": 32}, {"MOST_SHARED": 0}], ids=str)
def test_beam_whatever_it_forgets_and_wherever_its_pool_lies(rng, gpu, monkeypatch, constants):
    beam = importlib.import_module("omendb_kernels.backends.cupy.beam")
    ops = backend()
    for name, value in constants.items():
        monkeypatch.setattr(beam, name, value)
    for place, case in enumerate(cases_of("beam", long=False)[:: 2]):
        gpu.order, gpu.seed = place % 3, place
        check(ops, case.make(rng), case, threads=(1,))


def test_a_full_device_is_a_typed_error(rng, gpu):
    from omendb_kernels.errors import OutOfDeviceMemory

    call = next(case for case in TABLE if case.op == "lengths" and case.dim == 300).make(rng)
    gpu.memory = gpu.used + 64
    with pytest.raises(OutOfDeviceMemory, match="lengths"):
        run_op(backend(), call, 1)


def test_rows_beyond_the_device_are_streamed(rng, gpu):
    """`nearest` over more rows than the device holds."""
    from omendb_kernels.backends import reference
    from omendb_kernels.contract import CodeRows

    codes = rng.integers(-128, 128, (3000, 512)).astype(np.int8)
    rows = CodeRows(codes, (codes.astype(np.int32) ** 2).sum(axis=1).astype(np.int32))
    ops, queries = backend(), rows.take(slice(0, 5))
    gpu.memory = gpu.used + codes.nbytes // 2
    found = ops.nearest(queries, rows, 7, None, threads=1)
    assert found.tobytes() == reference.nearest(queries, rows, 7, None).tobytes()
    assert gpu.peak <= gpu.memory


NOTHING = ""
MUTANTS: list[tuple[str, str, str, str]] = [  # (file, op that must show it, text, text instead)
    ("pick.cu", "pick", "bool here = lane == 0 || score_before <= fresh;", "bool here = lane == 0 || score_before < fresh;"),
    ("pick.cu", "pick", "__syncthreads();  // the lines are whole", NOTHING),
    ("pick.cu", "pick", "int most = worst - 1, last = take - 1 + met;", "int most = worst - 1, last = take - 1;"),
    ("pick.cu", "assign", "int first = apart ? -OWN : (int)(tile - begin);", "int first = (int)(tile - begin);"),
    ("pick.cu", "assign", "lists.apart ? base + at : other.ids[at]", "other.ids[at]"),
    ("pick.cu", "assign", "i64 begin = starts[set], tile", "i64 begin = offsets[set], tile"),
    ("pick.cu", "assign", "    __syncthreads();  // lists are there, whether the set has others or not\n", NOTHING),
    ("pick.cu", "assign", "u32 id = apart || score == NO_SCORE ? place", "u32 id = score == NO_SCORE ? place"),
    ("pick.cu", "pick", "if (key <= lists.after[row])", "if (key < lists.after[row])"),
    ("merge.cu", "link", "edges[start + atomicSub(&counts[target], 1) - 1] =", "edges[start + --counts[target]] ="),
    ("merge.cu", "link", "lane == 0 || keys[0] != before);", "true);"),
    ("merge.cu", "link", "(i64)row - targets[count - 1] + count - 1);", "(i64)row - targets[count - 1] + count);"),
    ("merge.cu", "link", "__syncwarp();  // the pool is whole", NOTHING),
    ("link.cu", "score", "line < lines && first + i < most ?", "line < lines ?"),
    ("prune.cu", "prune", "distance <= max(own.reach[half], reach)", "distance < max(own.reach[half], reach)"),
    ("prune.cu", "adopt", "const bool struck = ADOPT && (alive & close & (self - 1));", "const bool struck = false;"),
    ("prune.cu", "prune", "staged = points.dim <= CHUNK;", "staged = true;"),
    ("prune.cu", "prune", "const char* only = (u32)needed ? own[0] : own[1];", "const char* only = own[0];"),
    ("prune.cu", "adopt", "in[1] |= id == own.id[1];", "in[1] |= id == own.id[0];"),
    ("prune.cu", "prune", "own[half] = needed >> 32 * half >> lane & 1 ? room + (32 * half + lane) * STRIDE : rows;",
     "own[half] = room + (32 * half + lane) * STRIDE;"),
    ("prune.cu", "prune", "const u32 mine = at < width ? some >> team : 0;", "const u32 mine = some >> team;"),
    ("prune.cu", "prune", "        __syncwarp();  // every lane sees what others know of the candidates", NOTHING),
    ("beam.cu", "beam", "cursor = min(cursor, places[0]);", NOTHING),
    ("beam.cu", "beam", "        __syncthreads();  // what is written now was read before: by this turn, or by those above it",
     NOTHING),
    ("beam.cu", "beam", "if (!total) break;", "if (!counters[TAKEN]) break;"),
    ("nearest.cu", "nearest", "gate = min(gate, worst - norm + !later);", "gate = min(gate, worst - norm);"),
    ("nearest.cu", "nearest", "if (piece) wait_for_copies(), __syncthreads();", "if (piece) wait_for_copies();"),
    ("nearest.cu", "nearest", "byte = (at.lane / 8 % 2 ^ at.lane % 8) * 16;", "byte = (at.lane / 16 ^ at.lane % 8) * 16;"),
    ("select.cu", "nearest", "if (i < count && mask[i])", "if (i < count - 1 && mask[i])"),
    ("encode.cu", "encode", "#define NEARLY_HALF (0.5 - 0x1p-40)", "#define NEARLY_HALF 1.0"),
    ("encode.cu", "encode", "atomicAdd(&norm_of[own], norm);", "norm_of[own] += norm;"),
    ("rerank.cu", "rerank", "rows[atomicAdd(listed, 1)] = row;", "rows[(*listed)++] = row;"),
    ("distances.cu", "pairwise", "row < q_count && j < dim ?", "row < q_count && j <= dim ?"),
    ("reach.cu", "reach", "fresh = !(atomicOr(flags + (node >> 2), flag) & flag);",
     "fresh = !(flags[node >> 2] & flag), flags[node >> 2] |= flag;"),
    ("reach.cu", "reach", "front += sizes[i];", "front = start;"),
]  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant[0]} {mutant[1]}")
def test_seeded_mutants_are_caught(gpu, monkeypatch, mutant):
    """Kernels wrong in one small way: the table or the watch sees each."""
    file, op, right, wrong = mutant
    ops = backend()
    device = importlib.import_module("omendb_kernels.backends.cupy._device")
    source = (device.HERE / file).read_text()
    assert source.count(right) == 1, f"{right!r} is not once in {file}"
    plain = device.source_of
    monkeypatch.setattr(device, "source_of", lambda name: source.replace(right, wrong) if name == file else plain(name))
    device._module.cache_clear()
    gpu.order, gpu.preempt = 2, 20
    assert caught(gpu, ops, op, zlib.crc32(repr(mutant).encode())), "nothing saw it"


def caught(gpu: Sim, ops: Any, op: str, seed: int) -> bool:
    cases = [case for case in TABLE if case.op == op and case.dim <= 300]
    order = np.random.default_rng(seed).permutation(len(cases))
    for watched, count in ((False, len(order)), (True, 60)):
        gpu.checked = watched
        if any(wrong(ops, cases[place], np.random.default_rng([seed, place])) for place in order[:count]):
            return True
    return False


def wrong(ops: Any, case: Case, rng: np.random.Generator) -> bool:
    try:
        check(ops, case.make(rng), case, threads=(1,))
    except (AssertionError, KernelError):
        return True
    return False
