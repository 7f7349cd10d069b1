"""Every Triton kernel compiles for every GPU we serve, within its budget, and the judge refuses what it should."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import triton_gate
from gpu_gate import Kernel
from triton_budgets import LIMITS, variants
from triton_gate import SHARED, Found, Limit, measured, refusals
from triton_sim import loaded

from omendb_kernels.arrays import Rows
from omendb_kernels.contract import CodeRows

ABSENT = triton_gate.missing()
pytestmark = pytest.mark.skipif(ABSENT is not None, reason=str(ABSENT))
IN_SHORT = 90


@pytest.fixture(params=[arch if arch == IN_SHORT else pytest.param(arch, marks=pytest.mark.long) for arch in SHARED])
def arch(request):
    with loaded(request.param):
        yield request.param


def test_kernels_keep_to_their_budgets(arch):
    judged = [(str(variant), measured(variant, arch)) for variant in variants()]
    refused = [reason for name, found in judged for reason in refusals(name, found, LIMITS.get(name))]
    refused += [f"{name} takes {found.shared} bytes of shared memory" for name, found in judged if found.shared > SHARED[arch]]
    assert not refused, "\n".join([f"sm_{arch}", *refused])
    seconds = sorted(found.seconds for _, found in judged)
    print(f"sm_{arch}: {len(seconds)} variants compiled, median {seconds[len(seconds) // 2]:.1f} s, worst {seconds[-1]:.1f} s")


def test_the_table_is_of_kernels_that_are_there():
    with loaded():
        assert set(LIMITS) == {str(variant) for variant in variants()}


def test_a_launch_asks_for_the_code_that_is_judged(rng, monkeypatch):
    """The real launch, up to the driver: the same source for Triton, on CuPy's stream, whatever numbers it is given."""
    from triton.compiler import CompiledKernel

    launched = []

    def run(compiled: Any, grid: tuple[int, ...]) -> Any:
        return lambda *args, stream: launched.append((code_of(compiled.src), grid, stream))

    monkeypatch.setattr(CompiledKernel, "__getitem__", run)
    with loaded():
        import cupy

        known = {code_of(triton_gate.source_of(variant)): str(variant) for variant in variants()}
        triton = importlib.import_module(f"{triton_gate.BACKEND}")
        for n, dim in ((1, 32), (5, 64), (16, 96)):
            rows = Rows(cupy.asarray(rng.standard_normal((n, dim), dtype=np.float32)), "float32")
            codes = CodeRows(cupy.zeros((n, dim), np.int8), cupy.zeros(n, np.int32))
            triton.lengths(rows, threads=1)
            triton.encode(rows, None, cupy.zeros(dim, np.float32), None, cupy.ones(1), threads=1)
            launching = importlib.import_module(f"{triton_gate.BACKEND}.nearest")
            launching._scan(codes, codes, None, n, launching.plan_scan(n, n, dim, n, 90, 132))
    assert {known[source] for source, *_ in launched} == {"encode.row_lengths", "encode.row_codes", "nearest.scan few 64"}
    assert len({source for source, *_ in launched}) == 3
    assert all(len(grid) == 3 and stream is not None for _, grid, stream in launched)


def code_of(source: Any) -> str:
    """What a source is compiled by."""
    attributes = sorted((place, *told) for place, told in source.attrs.items() if told)
    return repr((source.fn.cache_key, source.signature, sorted(source.constants.items()), attributes))


JUDGED = Kernel(96, 0, 0, 0, 0, 0, 4, 9, 0, 2, 3, 4, 900)


@pytest.mark.parametrize(
    ("kernel", "products", "limit", "why"),
    [
        ({"spills": 2}, 1, Limit(255, 0), "spills"),
        ({}, 1, Limit(64, 0), "registers"),
        ({}, 1, Limit(255, 100), "shared memory"),
        ({}, 0, Limit(255, 512, products=True), "multiplies no int8"),
        ({"wide_loads": 0}, 1, Limit(255, 512, gathers=True), "none of 128 bits"),
        ({"fused": 1}, 1, Limit(255, 512, exact=True), "multiply-adds"),
        ({}, 1, None, "no budget"),
        ({}, 1, Limit(96, 512, products=True, gathers=True, exact=True), ""),
    ],
    ids=["spills", "registers", "shared", "products", "narrow", "fused", "no budget", "right"],
)
def test_the_judge(kernel, products, limit, why):
    found = "; ".join(refusals("toy", Found(replace(JUDGED, **kernel), 512, products, 0.0), limit))
    assert (why in found) if why else found == ""


def test_multiply_adds_are_seen_where_they_are_allowed():
    """The one kernel that may fuse does, so that the others' zero is no accident of the judge."""
    with loaded():
        assert all(measured(one, 90).kernel.fused for one in variants() if one.kernel == "distances.product_tile")


@pytest.mark.long
def test_kernels_compile_for_amd():
    """A smoke test: nothing of ours is bound to NVIDIA's compiler. No such card is served yet."""
    import triton
    from triton.backends.compiler import GPUTarget

    with loaded():
        for variant in variants():
            options = {"num_warps": variant.options[0], "num_stages": 2}
            made = triton.compile(triton_gate.source_of(variant), target=GPUTarget("hip", "gfx942", 64), options=options)
            assert made.asm["amdgcn"], str(variant)
