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
    import cupy  # noqa: PLC0415  the double

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


WAITS = {"reach": 40}  # a look at the size of each front: their number is not known before


def test_a_full_device_is_a_typed_error(rng, gpu):
    from omendb_kernels.errors import OutOfDeviceMemory  # noqa: PLC0415

    call = next(case for case in TABLE if case.op == "lengths" and case.dim == 300).make(rng)
    gpu.memory = gpu.used + 64
    with pytest.raises(OutOfDeviceMemory, match="lengths"):
        run_op(backend(), call, 1)


def test_rows_beyond_the_device_are_streamed(rng, gpu):
    """`nearest` over more rows than the device holds."""
    from omendb_kernels.backends import reference  # noqa: PLC0415
    from omendb_kernels.contract import CodeRows  # noqa: PLC0415

    codes = rng.integers(-128, 128, (3000, 512)).astype(np.int8)
    rows = CodeRows(codes, (codes.astype(np.int32) ** 2).sum(axis=1).astype(np.int32))
    ops, queries = backend(), rows.take(slice(0, 5))
    gpu.memory = gpu.used + codes.nbytes // 2
    found = ops.nearest(queries, rows, 7, None, threads=1)
    assert found.tobytes() == reference.nearest(queries, rows, 7, None).tobytes()
    assert gpu.peak <= gpu.memory


MUTANTS: list[tuple[str, str, str, str]] = []  # (file, op that must show it, text, text instead)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant[0]}: {mutant[2]}")
def test_seeded_mutants_are_caught(gpu, monkeypatch, mutant):
    """Kernels wrong in one small way: the table or the watch sees each."""
    file, op, right, wrong = mutant
    ops = backend()
    device = importlib.import_module("omendb_kernels.backends.cupy._device")
    source = (device.HERE / file).read_text()
    assert source.count(right) == 1, f"{right!r} is not once in {file}"
    monkeypatch.setattr(device, "source_of", lambda name: source.replace(right, wrong) if name == file else (device.HERE / name).read_text())
    device._module.cache_clear()
    gpu.checked, gpu.order, gpu.preempt = True, 2, 20
    assert caught(ops, op, zlib.crc32(repr(mutant).encode())), "nothing saw it"


def caught(ops: Any, op: str, seed: int) -> bool:
    cases = [case for case in TABLE if case.op == op and case.dim <= 300]
    order = np.random.default_rng(seed).permutation(len(cases))
    for place in order:
        try:
            check(ops, cases[place].make(np.random.default_rng([seed, place])), cases[place], threads=(1,))
        except (AssertionError, KernelError):
            return True
    return False
