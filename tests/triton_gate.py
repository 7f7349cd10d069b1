"""The compile gate of Triton kernels: compiled for GPUs that are not here, and what the machine code says of them.

    python tests/triton_gate.py [ARCH ...]

prints the table of tests/triton_budgets.py anew, with compile times, of kernels as they are. The process must not interpret.
Triton brings ptxas: in an environment with triton 3.6 and numpy below 2.4 the same command, and the same tests, judge what that
version makes of the kernels. The disassembler is that of gpu_gate.py. What was compiled is kept by the sources' hash.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import os
import re
import sys
import time
import zlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import gpu_gate
from gpu_gate import Budget, Kernel, kernels_of

ROOT = Path(__file__).parent.parent
HOME = ROOT / "kernels" / "omendb_kernels" / "backends" / "triton"
CACHE = ROOT / ".pytest_cache" / "triton"
SHARED = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}  # bytes that a block may have
BACKEND = "omendb_kernels.backends.triton"
MMA_OF_INT8 = r"\bmma\.sync\S*\.s8\.s8|wgmma\.mma_async\S*\.s8\.s8|tcgen05\.mma\S*kind::i8"

os.environ.setdefault("TRITON_CACHE_DIR", str(CACHE / "code"))


class Variant(NamedTuple):
    """Code that host code may ask for: the kernel, its pointers' types, its constants and options."""

    kernel: str  # file.function
    case: str  # of its budget
    pointers: dict[str, str]
    constants: dict[str, Any]
    options: tuple[int, int, bool]  # warps, stages, fused

    def __str__(self) -> str:
        return f"{self.kernel} {self.case}".strip()


@dataclass(frozen=True)
class Limit:
    """What a variant may use, of all devices. products: it multiplies int8 on tensor cores; the rest as in gpu_gate.Budget."""

    registers: int
    shared: int
    products: bool = False
    gathers: bool = False
    exact: bool = False


@dataclass(frozen=True)
class Found:
    """What a compiled variant is made of. products: instructions of PTX that multiply int8 on tensor cores."""

    kernel: Kernel
    shared: int
    products: int
    seconds: float = field(compare=False)


def missing() -> str | None:
    """Why nothing can be compiled here; None where all is there."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "this process interprets"
    absent = [name for name in ("cuobjdump", "nvdisasm") if gpu_gate._found(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def refusals(name: str, found: Found, limit: Limit | None) -> list[str]:
    """Why the variant does not pass, [] if it does."""
    if limit is None:
        return [f"{name} has no budget: run `python tests/triton_gate.py`"]
    budget = Budget(limit.registers, 0, limit.gathers, limit.exact)
    reasons = gpu_gate.refusals(name, replace(found.kernel, shared=0), budget)
    if found.shared > limit.shared:
        reasons.append(f"{name} takes {found.shared} bytes of shared memory, {limit.shared} are its budget")
    if limit.products and not found.products:
        reasons.append(f"{name} multiplies no int8 on tensor cores")
    return reasons


def source_of(variant: Variant) -> Any:
    """The variant's kernel with its types."""
    file, function = variant.kernel.split(".")
    return typed(getattr(importlib.import_module(f"{BACKEND}.{file}"), function), variant.pointers, variant.constants)


def typed(kernel: Any, pointers: dict[str, str], constants: dict[str, Any]) -> Any:
    """A kernel with the types of its pointers and with its constants, as a launch would have it compiled."""
    from triton.compiler import ASTSource

    names = kernel.arg_names
    signature = {
        name: "constexpr" if name in constants else f"*{pointers[name]}" if name in pointers else "i32" for name in names
    }
    free = {parameter.name for parameter in kernel.params if parameter.do_not_specialize}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in pointers and name not in free}
    values = {(names.index(name),): value for name, value in constants.items()}
    return ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=aligned)


def built(source: Any, arch: int, options: tuple[int, int, bool]) -> Any:
    """What Triton compiles of `typed`. options: warps, stages, fused."""
    import triton
    from triton.backends.compiler import GPUTarget

    given = dict(zip(("num_warps", "num_stages", "enable_fp_fusion"), options, strict=True))
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=given)


def measured(variant: Variant, arch: int) -> Found:
    """What the variant is made of: from the cache, or compiled."""
    known = _cached(arch)
    key = repr((variant, arch))
    if key not in known:
        start = time.perf_counter()
        made = built(source_of(variant), arch, variant.options)
        seconds = time.perf_counter() - start
        (kernel,) = kernels_of(made.asm["cubin"], made.asm["ptx"]).values()
        products = len(re.findall(MMA_OF_INT8, made.asm["ptx"]))
        known[key] = {"kernel": asdict(kernel), "shared": made.metadata.shared, "products": products, "seconds": seconds}
        path = _cache_file(arch)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(known))
    entry = known[key]
    return Found(Kernel(**entry["kernel"]), entry["shared"], entry["products"], entry["seconds"])


def _cache_file(arch: int) -> Path:
    import triton

    sources = [Path(__file__), ROOT / "tests" / "gpu_gate.py", *sorted(HOME.glob("*.py"))]
    digest = zlib.crc32(b"".join(path.read_bytes() for path in sources))
    return CACHE / f"{triton.__version__}-sm_{arch}-{digest:08x}.json"


@functools.cache
def _cached(arch: int) -> dict[str, Any]:
    path = _cache_file(arch)
    return json.loads(path.read_text()) if path.exists() else {}


def _table(arches: list[int]) -> None:
    """Print LIMITS anew: the most registers and shared bytes of all arches, flags as they are; compile times beside them."""
    from triton_budgets import LIMITS, variants
    from triton_sim import loaded

    most: dict[str, tuple[int, int]] = {}
    for arch in arches:
        with loaded(arch):
            for variant in variants():
                found = measured(variant, arch)
                told = " ".join(f"{key}={value}" for key, value in asdict(found.kernel).items() if value and key != "shared")
                print(
                    f"# sm_{arch} {variant.kernel} {variant.case} {variant.constants}: {found.seconds:.1f} s, {told}",
                    f"shared={found.shared} products={found.products}",
                    file=sys.stderr,
                )
                registers, shared = most.get(str(variant), (0, 0))
                most[str(variant)] = max(registers, found.kernel.registers), max(shared, found.shared)
    for name, (registers, shared) in most.items():
        old = LIMITS.get(name, Limit(0, 0))
        flags = "".join(f", {flag}=True" for flag in ("products", "gathers", "exact") if getattr(old, flag))
        print(f'    "{name}": Limit({gpu_gate._headroom(registers)}, {shared}{flags}),')


if __name__ == "__main__":
    sys.exit(missing() or _table([int(arch) for arch in sys.argv[1:]] or list(SHARED)))
