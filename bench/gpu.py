"""The day a GPU is at hand: what the card itself reaches, what each op takes beside the model, whole builds beside the CPU,
and beside other libraries on the card (gpu_race.py).

First the gate: the graph and the answers must be the CPU's, bit for bit, or no time is printed. The calls that are timed are
those of a real build and search, recorded and played again.
"""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import omendb_kernels as ok
from omendb_kernels import dispatch
from omendb_kernels.arrays import Rows
from omendb_kernels.contract import CodeRows

from .record import save
from .roofline import DEVICES
from .roofline_kernels import per_op
from .tables import number, ratio, table

if TYPE_CHECKING:
    from .gpu_peers import Peer

BATCH, K = 10_000, 10
GEMM, COPIED = 8192, 1 << 30
SMOKE_ROWS, SMOKE_DIM = 4_500, 40  # more than the graph's `small`: leaves are carved
OPS = ("lengths", "encode", "nearest", "rerank", "pairwise", "assign", "pick", "prune", "link", "score", "adopt", "beam",
       "reach")  # fmt: skip


def report(*, rows: str, dims: str, data: Path | None, rounds: int, peers: str, out: Path | None, smoke: bool) -> int:
    """Print the tables, or run every op once on a small case (`smoke`). 1 where an answer differs from the CPU's.

    peers: the libraries that race ours on the card (gpu_peers.py), in a comma list; those that cannot run get a line.
    """
    why = dispatch.list_backends().get("cupy", "this version knows no backend of that name")
    if why is not None:
        print(f"no cupy backend: {why}")
        return 1
    device = Device(importlib.import_module(dispatch.BACKENDS["cupy"]))
    if smoke:
        return _smoke(device)
    from .gpu_peers import chosen, versions

    kinds = chosen(peers)
    told = versions(kinds)
    result: dict[str, Any] = {"card": device.name, "peaks": device.peaks(rounds), "machine": ok.facts(), "peers": told}
    runs = result["runs"] = []

    def keep(run: dict[str, Any]) -> None:
        """In the file at once: a library may end the process."""
        runs.append(run)
        save(out, "gpu", result, told)

    print(f"{device.name}: {', '.join(f'{name} {number(value)}' for name, value in result['peaks'].items())}")
    if told:
        print(f"peers: {', '.join(f'{name} {version}' for name, version in told.items())}; settings: bench/gpu_peers.py")
    for dim in _numbers(dims):
        for count in _numbers(rows):
            name = f"{count:,} x {dim} float32"
            keep(_run(device, name, _rows(count + BATCH, dim), rounds, BATCH, kinds=kinds))
    if data is not None:
        from .sets import load

        for one in load(data):
            both = np.concatenate([one.base, one.queries])
            keep(_run(device, one.name, both, rounds, len(one.queries), metric=one.metric, kinds=kinds))
    return 0 if all(run["equal"] for run in runs) else 1


def _numbers(words: str) -> list[int]:
    return [int(float(word)) for word in words.split(",") if word]


def _rows(count: int, dim: int) -> np.ndarray:
    """float32 rows in loose clusters, as text embeddings are."""
    rng = np.random.default_rng(11)
    centres = rng.standard_normal((max(1, count // 1000), dim), dtype=np.float32)
    return centres[rng.integers(0, len(centres), count)] + rng.standard_normal((count, dim), dtype=np.float32)


class Device:
    """The card through CuPy: events, peaks, arrays there."""

    def __init__(self, backend: Any) -> None:
        self.cupy, self.backend = importlib.import_module("cupy"), backend
        self.name = self.cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()

    def seconds(self, task: Callable[[], object]) -> float:
        """Of a task, by events: from the first kernel to the last."""
        begin, end = self.cupy.cuda.Event(), self.cupy.cuda.Event()
        begin.record()
        task()
        end.record()
        end.synchronize()
        return float(self.cupy.cuda.get_elapsed_time(begin, end)) / 1e3

    def best(self, task: Callable[[], object], rounds: int) -> float:
        """The median after one that is not counted."""
        task()
        return float(np.median([self.seconds(task) for _ in range(rounds)]))

    def peaks(self, rounds: int) -> dict[str, float]:
        """GB/s of a copy, T operations/s of fp32 and fp16 products: what the card reaches by its own libraries."""
        cupy = self.cupy
        source, target = cupy.zeros(COPIED, np.uint8), cupy.empty(COPIED, np.uint8)
        found = {"copy GB/s": 2 * COPIED / self.best(lambda: cupy.copyto(target, source), rounds) / 1e9}
        for dtype in (np.float32, np.float16):
            a = cupy.ones((GEMM, GEMM), dtype)
            seconds = self.best(lambda a=a: a @ a, rounds)  # type: ignore[misc]
            found[f"gemm {np.dtype(dtype).name} T/s"] = 2 * GEMM**3 / seconds / 1e12
        return found

    def sync(self) -> None:
        """Wait for all that the card was asked for, by whatever library."""
        self.cupy.cuda.Device().synchronize()

    def spare(self) -> None:
        """Give back what CuPy holds and nobody uses."""
        self.cupy.get_default_memory_pool().free_all_blocks()

    def put(self, value: Any) -> Any:
        """The arrays of an argument on the device."""
        if isinstance(value, Rows):
            return Rows(self.cupy.asarray(value.data), value.kind)
        if isinstance(value, CodeRows):
            return CodeRows(*map(self.put, value))
        return self.cupy.asarray(value) if isinstance(value, np.ndarray) else value


class Recorder:
    """A backend that keeps the calls of its ops."""

    def __init__(self, backend: Any) -> None:
        self.NAME, self.backend = backend.NAME, backend
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        if name not in (*OPS, "resident"):
            raise AttributeError(name)  # no shortcut: every op is seen
        op = getattr(self.backend, name)
        if name == "resident":
            return op

        def called(*args: Any, **options: Any) -> Any:
            self.calls.append((name, args, options))
            return op(*args, **options)

        return called


@contextmanager
def in_force(backend: Any) -> Iterator[None]:
    token = dispatch.chosen.set(backend)
    try:
        yield
    finally:
        dispatch.chosen.reset(token)


def _cpu() -> Any:
    name = next(name for name, why in dispatch.list_backends().items() if name in ("numba", "numpy") and why is None)
    return importlib.import_module(dispatch.BACKENDS[name])


def _whole(backend: Any, rows: np.ndarray, queries: np.ndarray, metric: str) -> tuple[dict[str, float], tuple[np.ndarray, ...]]:
    """Seconds of build, search and certified search, transfers with them, and the bits that came out."""
    with in_force(backend):
        start = time.perf_counter()
        graph, points, facts = ok.build_graph(rows, metric)
        built = time.perf_counter()
        ok.search_graph(graph, points, queries[:64], K)  # what is prepared once
        first = time.perf_counter()
        found = ok.search_graph(graph, points, queries, K)[:2]
        searched = time.perf_counter()
        exact = ok.knn_certified(queries, points, K)[:2]
        done = time.perf_counter()
    taken = {"build": built - start, "search": searched - first, "certified": done - searched}
    return taken | {f"build: {phase}": value for phase, value in facts.seconds.items()}, (graph.neighbours, *found, *exact)


def _run(
    device: Device,
    name: str,
    all_rows: np.ndarray,
    rounds: int,
    asked: int = BATCH,
    *,
    metric: str = "l2",
    kinds: Sequence[type[Peer]] = (),
) -> dict[str, Any]:
    """One set, of which the last `asked` rows are queries: the gate, whole times beside the CPU's, each op, then the peers."""
    rows, queries = all_rows[:-asked], all_rows[-asked:]
    _whole(device.backend, rows[:5000], queries[:100], metric)  # compiles
    mine, bits = _whole(device.backend, rows, queries, metric)
    theirs, wanted = _whole(_cpu(), rows, queries, metric)
    equal = all(a.tobytes() == b.tobytes() for a, b in zip(bits, wanted, strict=True))
    print(f"\n{name}: {'equal to' if equal else 'DIFFERENT from'} the CPU's graph and answers")
    run: dict[str, Any] = {"name": name, "equal": equal}
    if not equal:
        return run
    lines = [[what, f"{mine[what]:.3f}", f"{theirs.get(what, 0):.3f}", ratio(theirs.get(what), mine[what])] for what in mine]
    print(table(["seconds", "GPU", "CPU", "CPU / GPU"], lines))
    calls = _recorded(device.backend, rows, queries, metric)
    run |= {"gpu": mine, "cpu": theirs, "ops": _ops(device, calls, len(rows), rows.shape[1], rounds)}
    del calls  # and what they hold on the card
    if kinds:
        from .gpu_race import race
        from .sets import DataSet

        run |= race(device, DataSet(name, metric, rows, queries), wanted[3], kinds, rounds)
    return run


def _recorded(backend: Any, rows: np.ndarray, queries: np.ndarray, metric: str) -> list[Any]:
    """The calls of ops of a whole build and its searches."""
    recorder = Recorder(backend)
    _whole(recorder, rows, queries, metric)
    return recorder.calls


def _ops(device: Device, calls: list[Any], n: int, dim: int, rounds: int) -> list[dict[str, Any]]:
    """Each op's calls of build and searches played again: as they were, and with all arrays on the device."""
    model = next((one for one in DEVICES if re.search(rf"\b{one.name.removesuffix(' SXM')}\b", device.name)), None)
    predicted = per_op(n, dim, model) if model else {}
    found = []
    for op in OPS:
        some = [(args, options) for name, args, options in calls if name == op]
        if not some:
            continue
        call = getattr(device.backend, op)
        asked = device.best(partial(_play, call, some), 1)
        there = [(tuple(map(device.put, args)), {key: device.put(value) for key, value in keys.items()}) for args, keys in some]
        resident = device.best(partial(_play, call, there), rounds)
        found.append({"op": op, "calls": len(some), "asked": asked, "device": resident, "predicted": predicted.get(op)})
    lines = []
    for one in found:
        times = [number(one[key] and one[key] * 1e3, ".3f") for key in ("asked", "device", "predicted")]
        lines.append([one["op"], str(one["calls"]), *times, ratio(one["device"], one["predicted"])])
    print(table(["op", "calls", "ms as called", "ms on the device", "predicted ms", "/ predicted"], lines), flush=True)
    return found


def _play(call: Callable[..., Any], calls: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> None:
    for args, options in calls:
        call(*args, **options)


def _smoke(device: Device) -> int:
    """Every op, small: for compute-sanitizer, which is slow."""
    rows = _rows(SMOKE_ROWS, SMOKE_DIM)
    recorder = Recorder(device.backend)
    for metric in ok.METRICS:
        with in_force(recorder):
            graph, points, _ = ok.build_graph(rows, metric)
            ok.search_graph(graph, points, rows[:50], K, mask=np.arange(len(rows)) % 3 > 0)
            ok.knn(rows[:50], points, K)
            ok.pairwise(rows[:30], rows, metric, precision="exact")
            ok.consolidate_graph(graph, points, np.arange(len(rows)) % 9 > 0)
        with in_force(device.backend):
            ok.search_graph(graph, points, rows[:50], K)
    device.cupy.cuda.Device().synchronize()
    seen = {name for name, _, _ in recorder.calls}
    print(f"ops run: {', '.join(sorted(seen))}; not run: {', '.join(sorted(set(OPS) - seen)) or 'none'}")
    return 0
