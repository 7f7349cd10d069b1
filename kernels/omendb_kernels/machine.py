"""What this machine offers. The only file that asks the hardware and the environment."""

from __future__ import annotations

import os
import platform
from importlib import metadata

from .arrays import as_count
from .errors import InvalidParameter


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


def facts() -> dict[str, object]:
    """Facts of this machine and its libraries, ready for JSON: the first thing to paste into a report."""
    libraries = ("numpy", "numba", "llvmlite", "threadpoolctl", "cupy-cuda12x", "cupy-cuda13x", "triton", "torch")
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cores(),
        "threads": as_threads(),
        "libraries": {name: version for name in libraries if (version := version_of(name))},
    }
