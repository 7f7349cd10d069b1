"""What the compiled kernels are made of: no fused multiply-add, which would change the bits of every float."""

from __future__ import annotations

import importlib
import pkgutil
import platform
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from conftest import NUMBA_BLOCKED
from contract_cases import CODE_OPS, MAKERS, Case
from contract_check import USABLE, check
from contract_rows import KINDS

if NUMBA_BLOCKED or "numba" not in USABLE:
    pytest.skip("numba is not usable here", allow_module_level=True)

import llvmlite.binding as llvm
import numba
from numba.core.dispatcher import Dispatcher

import omendb_kernels.backends.numba as backend

FUSED = {
    "x86": r"\bvf(?:n?m(?:add|sub)|maddsub|msubadd)\w*|\bvdpbf16ps\b",  # AVX2, AVX-512, FMA4, bfloat16
    "arm": r"\bf(?:n?m(?:add|sub)|mla|mls|mlal|mlsl|cmla)\w*|\bbf(?:dot|mlal|mmla)\w*",
}
MACHINE = "arm" if platform.machine().lower() in ("arm64", "aarch64") else "x86"
KNOWN = ("x86_64", "amd64", "arm64", "aarch64")
pytestmark = pytest.mark.skipif(platform.machine().lower() not in KNOWN, reason="instructions that are not known here")


def fused_in(assembly: str) -> set[str]:
    return set(re.findall(FUSED[MACHINE], assembly))


def kernels() -> dict[str, Any]:
    """Every compiled function of the backend, by module and name, wherever it was defined."""
    found: dict[str, Any] = {}
    for info in pkgutil.iter_modules(backend.__path__):
        module = importlib.import_module(f"{backend.__name__}.{info.name}")
        for name, value in vars(module).items():
            if isinstance(value, Dispatcher) and value.py_func.__module__ == module.__name__:
                found[f"{info.name}.{name}"] = value
    return found


def assemblies(dispatcher: Any) -> Iterator[str]:
    """The machine code of each signature in use. Compiled anew: what came from numba's cache cannot be read."""
    kept = ("nogil", "error_model", "fastmath", "inline")
    options = {key: value for key, value in dispatcher.targetoptions.items() if key in kept}
    for signature in dispatcher.signatures:
        fresh = numba.njit(**options)(dispatcher.py_func)
        fresh.compile(signature)
        yield fresh.inspect_asm(signature)


@pytest.fixture(scope="module")
def used() -> dict[str, Any]:
    """The kernels, after every op has met every kind: the signatures are those that searches use."""
    rng = np.random.default_rng()
    for op in MAKERS:
        for kind in KINDS:
            for metric in ("l2", "cosine"):
                case = Case(op, "plain", "l2" if op in CODE_OPS else metric, kind, 20)
                check(USABLE["numba"], case.make(rng), case, threads=(1,))
        for name in ("rotated", "everything") if op == "encode" else ():
            case = Case(op, name, "-", "float32", 20)
            check(USABLE["numba"], case.make(rng), case, threads=(1,))
    return kernels()


@pytest.mark.parametrize("name", kernels())
def test_no_fused_multiply_add(used, name):
    for assembly in assemblies(used[name]):
        assert len(assembly) > 500
        assert fused_in(assembly) == set()


def test_kernels_of_every_op_were_read(used):
    for module in ("encode", "rerank", "distances", "nearest", "assign", "pick", "prune", "link", "beam"):
        assert any(kernel.signatures for name, kernel in used.items() if name.startswith(f"{module}.")), module
    kinds = {str(signature[0]) for signature in used["rerank._rerank"].signatures} if "rerank._rerank" in used else ()
    assert all(kernel.targetoptions.get("fastmath", False) in (False, None) for kernel in used.values()), kinds


def test_kernels_are_not_compiled_for_each_caller(used):
    """Every signature costs seconds at first use: at most one a kind of vectors, read-only arrays or not."""
    many = {name: len(kernel.signatures) for name, kernel in used.items() if len(kernel.signatures) > len(KINDS)}
    assert {name: count for name, count in many.items() if not name.startswith("_")} == {}


@pytest.mark.parametrize("fast", [True, False])
def test_the_gate_can_fail(fast):
    """Where fusing is allowed the compiler does it, where the processor can."""
    if MACHINE == "x86" and not llvm.get_host_cpu_features().get("fma"):
        pytest.skip("a processor without fused multiply-add")

    def dot(a, b):
        total = 0.0
        for i in range(len(a)):
            total += a[i] * b[i]
        return total

    compiled = numba.njit(fastmath=fast)(dot)
    compiled(np.ones(99), np.ones(99))
    assert bool(fused_in(compiled.inspect_asm(compiled.signatures[0]))) is fast


@pytest.mark.parametrize("line", ["vfmadd231pd %ymm0", "vfnmsub132ss", "vfmaddsub213ps", "vfmsubadd231pd", "vfmaddps"])
def test_names_of_x86_are_known(line):
    assert re.findall(FUSED["x86"], line)
    assert not re.findall(FUSED["x86"], "vpmaddwd vmulpd vaddpd vpdpbusd vpdpwssd vfixupimmpd vpmaddubsw")


@pytest.mark.parametrize("line", ["fmadd d0, d1, d2", "fmla v0.2d, v1.2d", "fnmsub s0", "fmls v0.4s", "fmsub d1", "fnmadd d0"])
def test_names_of_arm_are_known(line):
    assert re.findall(FUSED["arm"], line)
    assert not re.findall(FUSED["arm"], "fmul fadd mla v0.4s sdot udot smlal fmov fmax fminnm fmulx")
