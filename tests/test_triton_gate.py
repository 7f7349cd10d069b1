"""Every Triton kernel compiles for every GPU we serve, within its budget, and the judge refuses what it should."""

from __future__ import annotations

import pytest
import triton_gate
from triton_budgets import LIMITS, variants
from triton_gate import SHARED, measured, refusals
from triton_sim import loaded

ABSENT = triton_gate.missing()
pytestmark = pytest.mark.skipif(ABSENT is not None, reason=str(ABSENT))
IN_SHORT = 90
SLOWEST, MEDIAN = 20, 5  # seconds of compiling that a user may wait for a kernel, on an idle core


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
