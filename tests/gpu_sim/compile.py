"""From the text of a .cu file to a library that runs on the host: g++, a little rewriting, a cache on disk."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parent.parent / ".pytest_cache" / "gpu_sim"
RUNTIME = ("shim.cpp", "check.cpp")
OWN = ("shim.h", "dialect.h", "runtime.h", *RUNTIME, "compile.py")

BASE = ["-std=c++20", "-fPIC", "-w", "-g1", "-gdwarf-4", "-ffp-contract=off", "-fno-fast-math", "-fno-strict-aliasing"]
PLAIN = ["-O2"]
CHECKED = [
    *("-O1", "-DCU_CHECKED", "-fsanitize=thread", "-fsanitize=bounds,alignment", "-mno-avx", "-fno-tree-vectorize"),
    *("--param", "tsan-instrument-func-entry-exit=0"),
]
_COMPILING = threading.Lock()
KERNEL = re.compile(r"__global__(?P<before>[\w\s]*?)\s*(?:__launch_bounds__\s*\(\s*(?P<bound>[^,()]+)[^()]*\))?\s*void\s*"
                    r"(?:__launch_bounds__\s*\(\s*(?P<late>[^,()]+)[^()]*\))?\s*(?P<name>\w+)\s*\(")  # fmt: skip
DYNAMIC = re.compile(r"extern\s+__shared__\s+(?P<type>[^;\[\]=]+?)\s*\b(?P<name>\w+)\s*\[\s*\]\s*;")
ATTRIBUTE = re.compile(r"__attribute__\s*\(\(.*?\)\)+|alignas\s*\([^)]*\)")
BOUNDS = re.compile(r"__launch_bounds__\s*\([^()]*\)")


class CompileError(Exception):
    """The source is no CUDA C that the shim knows."""


def available() -> str | None:
    """The reason why nothing can be compiled here, None where it can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "the simulated GPU runs on Linux x86-64 only"
    return None if shutil.which("g++") else "the simulated GPU needs g++"


def _folder() -> Path:
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        return CACHE
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"gpu_sim-{os.getuid()}"
        folder.mkdir(exist_ok=True)
        return folder


@cache
def _own_text() -> bytes:
    return b"".join((HERE / name).read_bytes() for name in OWN)


def _digest(*parts: str | bytes) -> str:
    made = hashlib.sha256()
    for part in parts:
        made.update(part.encode() if isinstance(part, str) else part)
        made.update(b"\0")
    return made.hexdigest()[:20]


def _headers(options: Iterable[str]) -> bytes:
    """All that an #include may bring in."""
    folders = [Path(option[2:]) for option in options if option.startswith("-I")]
    return b"".join(file.read_bytes() for folder in folders for file in sorted(folder.glob("*.*h")))


def _gcc(*arguments: str | Path, text: str | None = None) -> str:
    run = subprocess.run(["g++", *map(str, arguments)], input=text, capture_output=True, text=True, check=False)
    if run.returncode:
        raise CompileError(run.stderr[-4000:])
    return run.stdout


def _options(options: Iterable[str]) -> list[str]:
    """What of NVRTC's options matters to g++."""
    kept = []
    for option in options:
        if option.startswith(("-I", "-D", "-U")):
            kept.append(option)
        elif option in ("--use_fast_math", "-use_fast_math"):
            raise CompileError(f"{option} gives other bits on each device")
        elif not option.startswith(("--std=", "-std=", "--fmad=", "-fmad=", "-lineinfo", "--generate-line-info", "-G", "-w")):
            raise CompileError(f"the simulated GPU does not know the option {option!r}")
    return kept


def _dynamic(found: re.Match[str]) -> str:
    kind = ATTRIBUTE.sub("", found["type"]).strip()
    return f"{kind}* const {found['name']} = ({kind}*)cu::dyn;"


def _rewritten(text: str, expressions: tuple[str, ...]) -> tuple[str, list[str]]:
    """Preprocessed CUDA C as C++, and its kernels: kernel i is described by the function cu_kernel_i."""
    bounds = {found["name"]: found["bound"] or found["late"] or "0" for found in KERNEL.finditer(text)}
    templates = {expression.partition("<")[0].strip() for expression in expressions}
    names = [name for name in bounds if name not in templates] + list(expressions)
    text = DYNAMIC.sub(_dynamic, text)
    text = BOUNDS.sub("", text)
    text = re.sub(r"\b__shared__\b", "static thread_local", text)
    text = re.sub(r"\b__global__\b", '__attribute__((noinline, visibility("hidden")))', text)
    for number, name in enumerate(names):
        bound = "0" if "<" in name else bounds[name]
        text += (
            f'\nextern "C" __attribute__((visibility("default"), no_sanitize("thread"))) const cu::Kernel* cu_kernel_{number}()'
            f" {{ static const cu::Kernel made = cu::kernel(&{name}, {bound}); return &made; }}\n"
        )
    return text, names


def _runtime(folder: Path) -> list[Path]:
    made = []
    for name in RUNTIME:
        target = folder / f"{name}-{_digest(_own_text())}.o"
        if not target.exists():
            part = _part(target)
            _gcc(
                "-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", "-U_FORTIFY_SOURCE", "-Wall", "-c", HERE / name, "-o", part
            )
            part.replace(target)
        made.append(target)
    return made


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.{os.getpid()}.part")


def _shared_sizes(library: Path, names: list[str]) -> list[int]:
    """Bytes of __shared__ variables for each kernel: its own, and those that belong to no kernel."""
    table = subprocess.run(["readelf", "-sWC", library], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 7) for line in table.partition(".symtab")[2].splitlines() if " TLS " in line]
    sizes = {row[7]: int(row[2], 0) for row in rows if "anchor" not in row[7]}
    of = {name: re.compile(rf"(^|\s|::){re.escape(name)}(\(.*\))?::") for name in names}
    owners = {symbol: [name for name in names if of[name].search(symbol)] for symbol in sizes}
    return [sum(size for symbol, size in sizes.items() if name in owners[symbol] or not owners[symbol]) for name in names]


def _compile(
    source: str, target: Path, listing: Path, kept: list[str], expressions: tuple[str, ...], checked: bool
) -> None:
    folder = target.parent
    flags = [*BASE, *(CHECKED if checked else PLAIN)]
    text = f'#line 1 "kernel.cu"\n{source}'
    text = _gcc("-E", *flags, f"-I{HERE}", "-include", "shim.h", *kept, "-x", "c++", "-", text=text)
    text, names = _rewritten(text, expressions)
    code, part = _part(target.with_suffix(".ii")), _part(target)
    code.write_text(text, encoding="utf-8")
    # The hooks are linked as ours: only the compiler may see -fsanitize.
    _gcc(*flags, "-x", "c++-cpp-output", "-c", code, "-o", code.with_suffix(".o"))
    _gcc("-shared", "-Wl,-Bsymbolic", code.with_suffix(".o"), *_runtime(folder), "-o", part)
    sizes = _shared_sizes(part, names)
    listing.write_text("".join(f"{size} {name}\n" for size, name in zip(sizes, names, strict=True)), encoding="utf-8")
    code.with_suffix(".o").unlink()
    code.unlink()
    part.replace(target)


@cache
def build(source: str, options: tuple[str, ...] = (), expressions: tuple[str, ...] = (), checked: bool = False) -> Library:
    """The library of this source. Raises CompileError."""
    reason = available()
    if reason:
        raise CompileError(reason)
    kept, folder = _options(options), _folder()
    key = _digest(source, repr((kept, expressions, checked)), _headers(kept), _own_text())
    target = folder / f"{key}.so"
    listing = target.with_suffix(".txt")
    with _COMPILING:  # threads of one process share the names of what is half done
        if not (target.exists() and listing.exists()):
            _compile(source, target, listing, kept, expressions, checked)
    kernels = [line.split(" ", 1) for line in listing.read_text(encoding="utf-8").splitlines()]
    return Library(target, [name for _, name in kernels], [int(size) for size, _ in kernels])


class _Described(ctypes.Structure):
    _fields_ = (
        ("call", ctypes.c_void_p),
        ("function", ctypes.c_void_p),
        ("most_threads", ctypes.c_int),
        ("types", ctypes.c_char * 256),
    )


class Library:
    """Compiled kernels: for each name its description, parameter types and bytes of static shared memory."""

    def __init__(self, path: Path, names: list[str], shared: list[int]) -> None:
        self.path = path
        self.loaded = ctypes.CDLL(str(path))
        self.launch = self.loaded.cu_launch
        self.launch.restype = ctypes.c_char_p
        self.shared = dict(zip(names, shared, strict=True))
        self.described, self.types, self.most_threads = {}, {}, {}
        for number, name in enumerate(names):
            describe = getattr(self.loaded, f"cu_kernel_{number}")
            describe.restype = ctypes.POINTER(_Described)
            self.described[name] = describe()
            self.types[name] = describe().contents.types.decode().split()
            self.most_threads[name] = describe().contents.most_threads

    def with_lines(self, message: str) -> str:
        """The message with its @places@ as file and line of the source."""

        def line(found: re.Match[str]) -> str:
            address = f"{max(0, int(found[1], 16) - 1):#x}"
            run = subprocess.run(["addr2line", "-i", "-e", self.path, address], capture_output=True, text=True, check=False)
            places = [Path(row.split(" ")[0]).name for row in run.stdout.splitlines()]
            return f"({next((place for place in places if not place.startswith(OWN)), address)})"

        return re.sub(r"@([0-9a-f]+)@", line, message)
