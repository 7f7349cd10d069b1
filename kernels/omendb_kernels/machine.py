"""What this machine offers. The only file that asks the hardware and the environment.

Graphics cards are asked through their driver's management library (nvidia-ml-py), which neither starts CUDA, so that a forked
child may still use it, nor loads CuPy.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import platform
import subprocess
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from .arrays import as_count
from .errors import InvalidParameter

LIBRARIES = ("numpy", "numba", "llvmlite", "threadpoolctl", "cupy-cuda12x", "cupy-cuda13x", "triton", "torch")
# What the kernels make use of, the widest first: a processor is of the first of these classes that it has all of.
ISA_CLASSES = (("AVX512_ICL",), ("AVX512_SKX",), ("AVX2", "FMA3"), ("ASIMDDP",), ("ASIMD",))


@dataclass(frozen=True)
class Gpu:
    """A card as its driver tells of it: bytes of memory, in all and free now; capability 90 for 9.0; clocks in GHz.

    cores: of float32; memory_clock and bus: of its memory, whose peak is 2 * clock * bus / 8 bytes a second.
    """

    name: str
    memory: int
    free: int
    capability: int
    driver: str
    cores: int
    clock: float
    memory_clock: float
    bus: int


def cores() -> int:
    """The cores this process may use (its affinity, not the machine's total)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def as_threads(threads: object = None) -> int:
    """Threads for one call: the argument, else OMENDB_NUM_THREADS, else `cores()`. Raises InvalidParameter."""
    if threads is not None:
        return as_count(threads, "threads", most=1024)
    wish = os.environ.get("OMENDB_NUM_THREADS", "")
    if not wish:
        return cores()
    if not wish.isdecimal() or not 1 <= int(wish) <= 1024:
        raise InvalidParameter("OMENDB_NUM_THREADS", repr(wish), "an integer from 1 to 1024")
    return int(wish)


def version_of(distribution: str) -> str | None:
    """The installed version of a distribution, None when it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def installed(module: str) -> bool:
    """Whether a module can be imported, which is not done."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


@functools.cache
def cpu_model() -> str:
    """The processor's own name, "" where the system does not tell. Under Linux on x86 with the numbers of its family and model:
    some virtual machines call every generation "AMD EPYC"."""
    try:
        if platform.system() == "Linux":
            return _named_by(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")) or platform.machine()
        if platform.system() == "Darwin":
            asked = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return platform.machine()
    return platform.processor()


def _named_by(cpuinfo: str) -> str:
    """What Linux tells of the first processor."""
    pairs = (line.split(":", 1) for line in cpuinfo.split("\n\n")[0].splitlines() if ":" in line)
    told = {key.strip(): value.strip() for key, value in pairs}
    numbers = ", ".join(f"{word} {told[key]}" for key, word in (("cpu family", "family"), ("model", "model")) if key in told)
    name = told.get("model name", "")
    return f"{name} ({numbers})" if name and numbers else name


@functools.cache
def isa() -> str:
    """The widest class of vector instructions that the kernels make use of here: of ISA_CLASSES, "baseline" below them."""
    for module in ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath"):  # NumPy 2, NumPy 1
        try:
            features = importlib.import_module(module).__cpu_features__
        except (ImportError, AttributeError):
            continue
        return next((names[0] for names in ISA_CLASSES if all(features.get(name) for name in names)), "baseline")
    return "baseline"


def memory() -> int | None:
    """Bytes of memory of this machine or, if that is less, of the container; None where the system does not tell."""
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return whole
    return min(whole, int(limit)) if limit.isdecimal() else whole


def gpus() -> tuple[list[Gpu], str]:
    """The NVIDIA cards that this process may use, and why there are none, "" if there are some. Asks the driver each time."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return [], f"CUDA_VISIBLE_DEVICES is {visible!r}"
    try:
        import pynvml
    except ImportError:
        return [], "the driver cannot be asked: nvidia-ml-py is not installed (it comes with omendb-kernels[cuda13])"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return [], f"no NVIDIA driver: {error}"
    try:
        found = [_gpu(pynvml, i) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        return [], f"the NVIDIA driver does not answer: {error}"
    finally:
        pynvml.nvmlShutdown()
    chosen = [int(i) for i in visible.split(",")] if visible and visible.replace(",", "").isdecimal() else range(len(found))
    cards = [found[i] for i in chosen if i < len(found)]
    return cards, "" if cards else "no NVIDIA card"


def _gpu(nvml: object, index: int) -> Gpu:
    ask = vars(nvml)
    card = ask["nvmlDeviceGetHandleByIndex"](index)
    name, driver = ask["nvmlDeviceGetName"](card), ask["nvmlSystemGetDriverVersion"]()
    room = ask["nvmlDeviceGetMemoryInfo"](card)
    major, minor = ask["nvmlDeviceGetCudaComputeCapability"](card)
    return Gpu(
        name=name if isinstance(name, str) else name.decode(),
        memory=int(room.total),
        free=int(room.free),
        capability=10 * major + minor,
        driver=driver if isinstance(driver, str) else driver.decode(),
        cores=int(ask["nvmlDeviceGetNumGpuCores"](card)),
        clock=ask["nvmlDeviceGetMaxClockInfo"](card, ask["NVML_CLOCK_SM"]) / 1000,
        memory_clock=ask["nvmlDeviceGetMaxClockInfo"](card, ask["NVML_CLOCK_MEM"]) / 1000,
        bus=int(ask["nvmlDeviceGetMemoryBusWidth"](card)),
    )


def unserved() -> list[str]:
    """What this machine has that no backend computes on, in words."""
    found = []
    if platform.system() == "Darwin":
        found.append("Metal is not served: searches run on this Mac's processor")
    if Path("/dev/kfd").exists():  # the driver of AMD's cards
        found.append("AMD cards are not served: searches run on the processor")
    return found


def facts() -> dict[str, object]:
    """Facts of this machine and its libraries, ready for JSON: the first thing to paste into a report."""
    cards, why = gpus()
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "isa": isa(),
        "cores": cores(),
        "threads": as_threads(),
        "memory": memory(),
        "gpus": [asdict(card) for card in cards] or why,
        "libraries": {name: version for name in LIBRARIES if (version := version_of(name))},
    }
