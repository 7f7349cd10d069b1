"""Every CUDA kernel compiles for every GPU we serve, within its budget, and the judge refuses what it should."""

from __future__ import annotations

import re

import gpu_gate
import pytest
from gpu_budgets import BUDGETS, VARIANTS
from gpu_gate import ARCHES, HOME, Budget, compiled, kernels_of, measured, refusals, served, sources

FILES = [(path.name, defines) for path in sources() for defines in VARIANTS.get(path.name, ((),))]
ABSENT = gpu_gate.missing()
here = pytest.mark.skipif(ABSENT is not None, reason=str(ABSENT))
IN_SHORT = "sm_90"
CASES = [
    pytest.param(file, defines, arch, marks=() if arch == IN_SHORT else pytest.mark.long)
    for file, defines in FILES
    for arch in ARCHES
    if served(arch, defines)
]


def named(value: object) -> str:
    return " ".join(value) or "plain" if isinstance(value, tuple) else str(value)


@here
@pytest.mark.parametrize(("file", "defines", "arch"), CASES, ids=named)
def test_kernels_keep_to_their_budgets(file, defines, arch):
    if arch not in gpu_gate.arches():
        pytest.skip(f"this NVRTC does not know {arch}")
    found = measured(file, arch, defines)
    assert found, "no kernel in it"
    refused = [reason for name, kernel in found.items() for reason in refusals(name, kernel, BUDGETS.get(name))]
    assert not refused, "\n".join([f"{file}, {arch}", *refused])


@here
def test_warpgroups_multiply_a_piece_without_waiting():
    """Four instructions of 32 bytes and one wait: between statements of its own the compiler would wait for each."""
    cubin, ptx = compiled((HOME / "nearest.cu").read_text(encoding="utf-8"), "sm_90a", ("ROWS=128", "WGMMA=1"))
    assert str(0x4000004000000000) in ptx  # a matrix of rows of 128 bytes, as Triton describes it
    code = gpu_gate.disassembled(cubin)
    assert re.findall(r"\b(IGMMA\.\w+\.S8\.S8|WARPGROUP\.DEPBAR)", code) == ["IGMMA.64x128x32.S8.S8"] * 4 + ["WARPGROUP.DEPBAR"]


def test_the_table_is_of_kernels_that_are_there():
    words = {word for path in sources() for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))}
    assert set(BUDGETS) - words == set(), "budgets of kernels that are gone"
    assert set(VARIANTS) - {path.name for path in sources()} == set(), "variants of files that are gone"


def test_variants_are_those_that_host_code_asks_for():
    host = "".join(path.read_text(encoding="utf-8") for path in HOME.glob("*.py"))
    asked = set(re.findall(r'f?"([A-Z][A-Z0-9_]*)=', host))
    assert {one.split("=")[0] for sets in VARIANTS.values() for defines in sets for one in defines} == asked


# ---- what the judge must refuse -------------------------------------------------------------------------------------------

SPILLS = """
extern "C" __global__ void __launch_bounds__(1024, 2) toy(const int* __restrict__ in, int* out, int n) {
    int held[96];
#pragma unroll
    for (int i = 0; i < 96; i++) held[i] = in[threadIdx.x + i * n];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 96; i++) out[threadIdx.x * n + i] = held[95 - i] * held[i];
}
"""
STACK = """
extern "C" __global__ void toy(const int* in, int* out, int n) {
    int counts[64] = {};
    for (int i = 0; i < n; i++) counts[in[i] & 63] += i;
    out[threadIdx.x] = counts[threadIdx.x & 63];
}
"""
FUSED = """
extern "C" __global__ void toy(const double* a, const double* b, double* out) { out[0] = fma(a[0], b[0], out[0]); }
"""
CONTRACTED = """
extern "C" __global__ void toy(const double* a, const double* b, double* out) { out[0] = a[0] * b[0] + out[0]; }
"""
NARROW = """
extern "C" __global__ void toy(const int* rows, const int* ids, int* out, int words) {
    const int* row = rows + (long long)ids[blockIdx.x] * words;
    int sum = 0;
    for (int i = threadIdx.x; i < words; i += 32) sum = __dp4a(row[i], row[i], sum);
    out[blockIdx.x * 32 + threadIdx.x] = sum;
}
"""
WIDE = """
extern "C" __global__ void toy(const int4* rows, const int* ids, int* out, int chunks) {
    const int4* row = rows + (long long)ids[blockIdx.x] * chunks;
    int sum = 0;
    for (int i = threadIdx.x; i < chunks; i += 32) {
        const int4 c = row[i];
        sum = __dp4a(c.x, c.y, __dp4a(c.z, c.w, sum));
    }
    out[blockIdx.x * 32 + threadIdx.x] = sum;
}
"""
STATIC = """
extern "C" __global__ void toy(int* out, int n) {
    __shared__ int held[4096];
    held[threadIdx.x] = out[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = held[n - threadIdx.x];
}
"""
EXACT = """
extern "C" __global__ void toy(const double* a, const double* b, double* out) {
    out[0] = __ddiv_rn(__dadd_rn(__dmul_rn(a[0], b[0]), out[0]), __dsqrt_rn(b[1]));
}
"""
ROOMY = Budget(255, 2048)


def judged(source: str, budget: Budget | None, options: tuple[str, ...] = gpu_gate.OPTIONS) -> str:
    (kernel,) = kernels_of(*compiled(source, "sm_90", options=options)).values()
    return "; ".join(refusals("toy", kernel, budget))


@here
@pytest.mark.parametrize(
    ("source", "budget", "why"),
    [
        (SPILLS, ROOMY, "spills"),
        (STACK, ROOMY, "bytes of stack"),
        (FUSED, Budget(255, 2048, exact=True), "multiply-adds"),
        (NARROW, Budget(255, 2048, gathers=True), "none of 128 bits"),
        (STATIC, ROOMY, "static shared memory"),
        (WIDE, Budget(4), "registers"),
        (WIDE, None, "no budget"),
    ],
    ids=["spills", "stack", "fused", "narrow", "static", "registers", "no budget"],
)
def test_the_judge_refuses(source, budget, why):
    assert why in judged(source, budget)


@here
def test_the_judge_sees_a_multiply_add_that_the_compiler_made():
    exact = Budget(255, 2048, exact=True)
    assert "multiply-adds" in judged(CONTRACTED, exact, ("--std=c++17",))
    assert judged(CONTRACTED, exact) == ""  # with --fmad=false there is none


@here
def test_the_judge_passes_what_is_right():
    assert judged(WIDE, Budget(255, 2048, gathers=True)) == ""
    assert judged(EXACT, Budget(255, 2048, exact=True)) == ""  # division and root hide multiply-adds of their own
    assert judged(FUSED, ROOMY) == ""


@here
def test_what_does_not_compile_is_said():
    with pytest.raises(gpu_gate.CompileError, match="undefined_name"):
        compiled('extern "C" __global__ void toy(int* out) { out[0] = undefined_name; }', "sm_90")
