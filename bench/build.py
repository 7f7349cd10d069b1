"""One build in a fresh process, for its seconds and its memory: nothing that ran before can help or hide."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from .curves import K
from .index import Index, Ours
from .peers import KINDS

WARM_ROWS = 5000  # more than the graph's `small`: every kernel of a build compiles


@dataclass(frozen=True)
class Built:
    """What a build took.

    seconds: from rows in the library's form to an index that answers. peak: bytes by which the process grew at most, over
    its size with these rows loaded; None where the system does not tell. nbytes: of the saved index; None where it
    was not saved. load: "seconds" from that file, which the system still has in memory, to the answer of one query; what is
    checked on the way is the library's choice. report: ours only, its BuildReport.
    """

    name: str
    threads: int
    seconds: float
    peak: int | None
    nbytes: int | None
    report: dict[str, Any] | None = None
    load: dict[str, float] | None = None


def in_child(task: Callable[..., Any], *args: Any) -> Any:
    """What a function of a module gives in a fresh process, which begins with nothing of this one's memory."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(task, *args).result()


def build(name: str, base: Path, metric: str, threads: int, saved: Path) -> Built:
    """Build in a child process from a .npy file of rows, and save to `saved` unless that is there."""
    return in_child(_child, name, base, metric, threads, saved)


def load_or_build(name: str, base: np.ndarray, metric: str, threads: int, saved: Path) -> Index:
    """The index that a child saved; built again here where the library could not save it."""
    kind = KINDS[name]
    if saved.exists():
        return kind.load(saved, kind.form(base[:1], metric), metric)
    print(f"{name} could not save its index: built again", flush=True)
    return kind.build(kind.form(base, metric), metric, threads)


def _child(name: str, base: Path, metric: str, threads: int, saved: Path) -> Built:
    kind = KINDS[name]
    rows = kind.form(np.load(base), metric)
    index, built = measured(name, rows, metric, threads)
    if not saved.exists():
        with suppress(RuntimeError, OSError):
            index.save(saved)
    if not saved.exists():
        return built
    index.tune(K, threads)
    index.single(rows[0], K)  # what is prepared once a process
    start = time.perf_counter()
    again = kind.load(saved, rows[:1], metric)
    again.tune(K, threads)
    again.single(rows[0], K)
    return replace(built, nbytes=size(saved), load={"seconds": time.perf_counter() - start})


def measured(name: str, rows: np.ndarray, metric: str, threads: int) -> tuple[Index, Built]:
    """Index rows that the library's `form` made, the clock and the memory of this process watched; nothing is saved."""
    kind = KINDS[name]
    warm_up(kind, rows, metric, threads)
    before = resident()
    reset = reset_peak()
    start = time.perf_counter()
    index = kind.build(rows, metric, threads)
    seconds = time.perf_counter() - start
    peak = status("VmHWM") - before if reset else None
    report = asdict(index.report) if isinstance(index, Ours) and index.report else None
    return index, Built(name, threads, seconds, peak, None, report)


def warm_up(kind: type[Index], rows: np.ndarray, metric: str, threads: int) -> None:
    """Import the library; compile, where it is ours and the cache is cold. A library that compiles nothing needs no rows."""
    few = rows[: WARM_ROWS if kind is Ours else 100]
    kind.build(few, metric, threads)


def resident() -> int:
    """Bytes of this process in memory, after giving back what is free."""
    gc.collect()
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
    return status("VmRSS")


def status(field: str) -> int:
    """Bytes of a field of this process's status, 0 where the system keeps none."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0


def reset_peak() -> bool:
    """Start VmHWM anew from what is resident; False where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def size(path: Path) -> int | None:
    """Bytes of a file, or of all files in a folder; None where there is nothing."""
    if path.is_dir():
        return sum(inner.stat().st_size for inner in path.rglob("*") if inner.is_file())
    return path.stat().st_size if path.exists() else None
