"""The compile gate: our CUDA files compiled for GPUs that are not here, and what the machine code says of them.

NVRTC by ctypes (no driver, no CuPy), then cuobjdump and nvdisasm from their wheels:
    pip install nvidia-cuda-nvrtc nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm
`python tests/gpu_gate.py` prints the table of tests/gpu_budgets.py anew, from the kernels as they are.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

HOME = Path(__file__).parent.parent / "kernels" / "omendb_kernels" / "backends" / "cupy"
OPTIONS = ("--std=c++17", "--fmad=false")  # as _device.py compiles
OWN = "WGMMA=1"  # for sm_90a alone
ARCHES = ("sm_75", "sm_80", "sm_90", "sm_100")
MOST_SHARED = 48 * 1024  # static bytes that any block may have


@dataclass(frozen=True)
class Kernel:
    """What one kernel is made of.

    spills: instructions that load or store local memory. fused: multiply-adds in PTX, where no division hides any; hidden:
    those in machine code without a division or root in PTX. wide_loads: of 16 bytes, from global memory. dots: dp4a.
    """

    registers: int
    stack: int
    spills: int
    shared: int
    fused: int
    hidden: int
    wide_loads: int
    loads: int
    dots: int
    tensor: int
    barriers: int
    shuffles: int
    instructions: int


@dataclass(frozen=True)
class Budget:
    """What a kernel may use. gathers: it reads rows of codes, 16 bytes at a time. exact: its floats know no multiply-add."""

    registers: int
    shared: int = 0
    gathers: bool = False
    exact: bool = False


def refusals(name: str, kernel: Kernel, budget: Budget | None) -> list[str]:
    """Why the kernel does not pass, [] if it does."""
    if budget is None:
        return [f"{name} has no budget: run `python tests/gpu_gate.py`"]
    found = []
    if kernel.spills or kernel.stack:
        found.append(f"{name} spills: {kernel.spills} instructions, {kernel.stack} bytes of stack")
    if kernel.registers > budget.registers:
        found.append(f"{name} takes {kernel.registers} registers, {budget.registers} are its budget")
    if kernel.shared > min(budget.shared, MOST_SHARED):
        found.append(f"{name} takes {kernel.shared} bytes of static shared memory, {budget.shared} are its budget")
    if budget.gathers and not kernel.wide_loads:
        found.append(f"{name} gathers rows of codes with {kernel.loads} loads, none of 128 bits")
    if budget.exact and (kernel.fused or kernel.hidden):
        found.append(f"{name} has {kernel.fused} multiply-adds in PTX, {kernel.hidden} in machine code: bits of its own")
    return found


def missing() -> str | None:
    """Why nothing can be compiled here; None where all is there."""
    if sys.platform != "linux":
        return f"the compile gate runs on Linux, this is {sys.platform}"
    absent = [name for name in ("libnvrtc.so", "cuobjdump", "nvdisasm") if _found(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (wheels nvidia-cuda-nvrtc, nvidia-cuda-cuobjdump, nvidia-cuda-nvdisasm)"
    return None


@functools.cache
def _found(name: str) -> str | None:
    """The path of a library or tool, of NVIDIA's wheels first."""
    spec = importlib.util.find_spec("nvidia")
    for base in spec.submodule_search_locations or () if spec else ():
        places = sorted(Path(base).glob(f"*/lib/{name}*" if ".so" in name else f"*/bin/{name}"))
        if places:
            return str(places[-1])
    return None if ".so" in name else shutil.which(name)


@functools.cache
def _nvrtc() -> ctypes.CDLL:
    path = _found("libnvrtc.so")
    assert path is not None
    return ctypes.CDLL(path)


def arches() -> list[str]:
    """Those of ARCHES that this NVRTC knows."""
    count = ctypes.c_int()
    _nvrtc().nvrtcGetNumSupportedArchs(ctypes.byref(count))
    known = (ctypes.c_int * count.value)()
    _nvrtc().nvrtcGetSupportedArchs(known)
    return [arch for arch in ARCHES if int(arch.removeprefix("sm_")) in list(known)]


class CompileError(RuntimeError):
    """What NVRTC says of a source."""


def compiled(source: str, arch: str, defines: tuple[str, ...] = (), options: tuple[str, ...] = OPTIONS) -> tuple[bytes, str]:
    """The machine code (a cubin) and the PTX of a source; "common.cuh" and its like are known to it."""
    library, program = _nvrtc(), ctypes.c_void_p()

    def text(what: str) -> bytes:
        size = ctypes.c_size_t()
        getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        room = ctypes.create_string_buffer(size.value)
        getattr(library, f"nvrtcGet{what}")(program, room)
        return room.raw

    def strings(values: list[str]) -> ctypes.Array[ctypes.c_char_p]:
        return (ctypes.c_char_p * len(values))(*(value.encode() for value in values))

    headers = {path.name: path.read_text(encoding="utf-8") for path in sorted(HOME.glob("*.cuh"))}
    code, name = ctypes.c_char_p(source.encode()), ctypes.c_char_p(b"kernels.cu")
    made = library.nvrtcCreateProgram(
        ctypes.byref(program), code, name, len(headers), strings(list(headers.values())), strings(list(headers))
    )
    given = [f"--gpu-architecture={arch}", *options, *(f"-D{define}" for define in defines)]
    if made or library.nvrtcCompileProgram(program, len(given), strings(given)):
        raise CompileError(text("ProgramLog").decode().strip("\0\n"))
    found = text("CUBIN"), text("PTX").decode().strip("\0")
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return found


def kernels_of(cubin: bytes, ptx: str) -> dict[str, Kernel]:
    """Each kernel of a compiled source by name."""
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "kernels.cubin")
        Path(file).write_bytes(cubin)
        used = _run("cuobjdump", "-res-usage", file)
    code = disassembled(cubin)
    usage = re.findall(r"Function ([\w$]+):\s*\n?\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", used)
    bodies, entries = _bodies(code), _entries(ptx)
    return {
        name: _counted(bodies[name], entries[name], int(registers), int(stack) + int(local), int(shared))
        for name, registers, stack, shared, local in usage
        if name in entries
    }


def disassembled(cubin: bytes) -> str:
    """Machine code as text."""
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "kernels.cubin")
        Path(file).write_bytes(cubin)
        return _run("nvdisasm", "-c", file)


def _run(tool: str, *arguments: str) -> str:
    done = subprocess.run([str(_found(tool)), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise CompileError(f"{tool}: {done.stderr.strip()}")
    return done.stdout


def _bodies(code: str) -> dict[str, str]:
    """The machine code of each kernel, with the subroutines (division, ...) in its section."""
    parts = re.split(r"^\s*\.section\s+\.text\.([\w$]+)", code, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _entries(ptx: str) -> dict[str, str]:
    """The PTX of each kernel. Functions that were not inlined count for every kernel."""
    functions = "".join(re.findall(r"^[^\n]*\.func\b.*?^\}", ptx, re.MULTILINE | re.DOTALL))
    found = re.findall(r"\.entry\s+([\w$]+)(.*?)^\}", ptx, re.MULTILINE | re.DOTALL)
    return {name: functions + body for name, body in found}


INSTRUCTION = re.compile(r"^\s+(?:/\*[0-9a-f]+\*/)?\s*(?:@!?U?P[T\d]+\s+)?([A-Z][A-Z0-9_.]+)", re.MULTILINE)


def _counted(body: str, ptx: str, registers: int, stack: int, shared: int) -> Kernel:
    ops = INSTRUCTION.findall(body)

    def count(pattern: str) -> int:
        return sum(re.match(pattern, op) is not None for op in ops)

    # In PTX a multiplication that must not be fused says how it rounds; one that says nothing may be.
    fused = len(re.findall(r"\bfma\.|\bmul\.f(?:32|64)\b|\badd\.f(?:32|64)\b|\bsub\.f(?:32|64)\b", ptx))
    division = re.search(r"\b(?:div|sqrt|rcp)\.\S*f(?:32|64)", ptx)
    return Kernel(
        registers=registers,
        stack=stack,
        spills=count(r"(?:LDL|STL)\b"),
        shared=shared,
        fused=fused,
        hidden=0 if division else count(r"[FD]FMA2?\b"),
        wide_loads=count(r"LDG(STS)?\..*\b128\b"),
        loads=count(r"LDG(STS)?\b"),
        dots=count(r"IDP\b"),
        tensor=count(r"\w*MMA\b"),
        barriers=count(r"BAR\b"),
        shuffles=count(r"SHFL\b"),
        instructions=len(ops),
    )


def sources() -> list[Path]:
    """Our CUDA files."""
    return sorted(HOME.glob("*.cu"))


@functools.cache
def measured(file: str, arch: str, defines: tuple[str, ...] = ()) -> dict[str, Kernel]:
    """Each kernel of one of our files, compiled with these NAME=VALUE."""
    return kernels_of(*compiled((HOME / file).read_text(encoding="utf-8"), f"{arch}a" if OWN in defines else arch, defines))


def served(arch: str, defines: tuple[str, ...]) -> bool:
    """Whether such code is for this architecture."""
    return OWN not in defines or arch == "sm_90"


def _headroom(registers: int) -> int:
    """The next step of eight, but for one that lies on it: compilers differ by a few."""
    return min(255, -(-(registers + 2) // 8) * 8)


def _table() -> None:
    """Print BUDGETS anew: registers and shared bytes of all arches and variants, the flags as they are."""
    from gpu_budgets import BUDGETS, VARIANTS

    for path in sources():
        most: dict[str, Kernel] = {}
        for arch in arches():
            for defines in (one for one in VARIANTS.get(path.name, ((),)) if served(arch, one)):
                for name, kernel in measured(path.name, arch, defines).items():
                    told = " ".join(f"{key}={value}" for key, value in asdict(kernel).items() if value)
                    print(f"# {path.name} {name} {arch} {' '.join(defines)}: {told}", file=sys.stderr)
                    other = most.get(name, kernel)
                    most[name] = replace(
                        kernel,
                        registers=max(kernel.registers, other.registers),
                        shared=max(kernel.shared, other.shared),
                        wide_loads=min(kernel.wide_loads, other.wide_loads),
                    )
        print(f"    # {path.name}")
        for name, kernel in most.items():
            old = BUDGETS.get(name, Budget(0, gathers=bool(kernel.wide_loads and (kernel.dots or kernel.tensor))))
            flags = "".join(f", {flag}=True" for flag in ("gathers", "exact") if getattr(old, flag))
            shared = f", {kernel.shared}" if kernel.shared else ""
            print(f'    "{name}": Budget({_headroom(kernel.registers)}{shared}{flags}),')


if __name__ == "__main__":
    sys.exit(missing() or _table())
