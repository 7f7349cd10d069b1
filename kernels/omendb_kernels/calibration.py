"""calibrate: what the backends do on this very machine, measured, and kept in the user's cache folder.

A dozen calls of a backend are timed whose amounts of work are known (cost.py); the rates are the non-negative ones that explain
these times best, each call weighing the same. A backend that computes on a device is first compared with the host's
bits: `disproof`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from . import dispatch, machine
from .arrays import Rows
from .contract import Backend, CodeRows
from .cost import KINDS, LATENCY, MATRIX_CALLS, SCORED, Amounts, Profile, coding, finish, scan
from .errors import OutOfDeviceMemory
from .graph import DEFAULT, Graph, build
from .metrics import METRICS
from .points import PointSet

log = logging.getLogger("omendb")

VERSION = 1  # of the file; another one is ignored
NODES, ROWS, MANY, DIM, QUERIES = 4096, 20_000, 400_000, 128, 256
LONG_ENOUGH, MOST = 0.06, 5  # seconds of a call's repetitions, and how many
FASTEST = 1e18  # a rate that no time depended on
ROUNDS = 4000  # of coordinate descent: a dozen numbers, far more than they need

Call = tuple[Amounts, Callable[[], object]]


def folder() -> Path:
    """Where measurements are kept: OMENDB_CACHE_DIR, else the user's cache folder."""
    wish = os.environ.get("OMENDB_CACHE_DIR")
    return Path(wish) if wish else platformdirs.user_cache_path("omendb", appauthor=False)


def key() -> str:
    """What measurements are valid for: this processor and its cores, these cards, these library versions."""
    facts = machine.facts()
    cards = facts["gpus"]
    told = [[card["name"], card["driver"]] for card in cards] if isinstance(cards, list) else []
    parts = [VERSION, facts["system"], facts["cpu"], facts["isa"], facts["cores"], told, facts["libraries"]]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def load() -> dict[str, Profile]:
    """Profiles measured on a machine like this one, by backend. A damaged or outdated file is no file: one warning."""
    path = folder() / "profiles.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return {name: _profile(name, entry) for name, entry in told.get(key(), {}).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is ignored: %s: %s; `omendb calibrate` writes it anew", path, type(error).__name__, error)
        return {}


def _profile(name: str, entry: dict[str, Any]) -> Profile:
    rates = Amounts(**{kind: float(entry["rates"][kind]) for kind in KINDS})
    if not all(np.isfinite(rate) and rate > 0 for rate in rates):
        raise ValueError(f"the rates of {name!r} are not positive numbers")
    transfer = entry["transfer"]
    return Profile(name, str(entry["device"]), rates, str(entry["source"]), None if transfer is None else float(transfer))


def save(profiles: dict[str, Profile]) -> Path:
    """Write them beside those of other machines that share the folder; whole or not at all. The file."""
    path = folder() / "profiles.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        told = {}
    told = told if isinstance(told, dict) else {}
    told[key()] = {name: profile.json() for name, profile in profiles.items()}
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(told, indent=1), encoding="utf-8")
    os.replace(aside, path)
    return path


def calibrate(report: Callable[[str], None] = lambda line: None) -> dict[str, Profile]:
    """Measures every backend that can be used here and leaves the profiles for later processes; about ten seconds.

    report: is told what is done. A device that fails the comparison of bits is not measured, and so never chosen by a plan
    until it passes.
    """
    host = dispatch.first_of("cpu")
    graph, _ = build(PointSet.encode(sample(NODES)[0], "l2"), 0.9, DEFAULT, threads=1)
    found: dict[str, Profile] = {}
    for device, names in dispatch.DEVICES.items():
        for name in names:
            ops = dispatch.load(name)
            if isinstance(ops, str):
                report(f"{name}: not measured: {ops}")
            elif device == "gpu" and (reason := disproof(ops, host)):
                report(f"{name}: not measured: {reason}")
            else:
                found[name] = measure(ops, graph, device)
                report(f"{name}: measured")
    report(f"written to {save(found)}")
    return found


def measure(ops: Backend, graph: Graph, device: str) -> Profile:
    """The profile of a backend: one thread on a processor. graph: of the first rows of `sample`."""
    rates = rates_of([(work, _seconds(call)) for work, call in _calls(ops, graph)])
    transfer = _transfer(ops) if device == "gpu" else None
    return Profile(ops.NAME, device, rates, f"measured {time.strftime('%Y-%m-%d')}", transfer)


def rates_of(times: list[tuple[Amounts, float]]) -> Amounts:
    """The rates, of each kind, that explain these times: least squares of relative errors, no rate negative."""
    share = np.array([[amount / taken for amount in work] for work, taken in times])
    used = share.max(axis=0) > 0
    scale = np.where(used, np.sqrt((share**2).sum(axis=0)), 1.0)
    columns = share / scale
    gram, wanted, found = columns.T @ columns, columns.sum(axis=0), np.zeros(len(KINDS))
    for _ in range(ROUNDS):
        for j in np.flatnonzero(used):
            found[j] = max(0.0, found[j] + (wanted[j] - gram[j] @ found) / gram[j, j])
    unit = found / scale
    return Amounts(*(float(1 / one) if one > 1 / FASTEST else FASTEST for one in unit))


def _seconds(call: Callable[[], object]) -> float:
    """The shortest of a few, the first not counted: it compiles, or asks for memory."""
    call()
    taken: list[float] = []
    while not taken or (sum(taken) < LONG_ENOUGH and len(taken) < MOST):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)


def sample(rows: int = ROWS, dim: int = DIM) -> tuple[Rows, CodeRows]:
    """Rows and codes to measure with: clustered, the same each time."""
    random = np.random.Generator(np.random.Philox(7))
    centres = random.integers(-80, 80, (rows // 50, dim))
    codes = (centres[np.arange(rows) % len(centres)] + random.integers(-40, 41, (rows, dim))).astype(np.int8)
    norms = (codes.astype(np.int32) ** 2).sum(axis=1, dtype=np.int32)
    return Rows(codes.astype(np.float32), "float32"), CodeRows(codes, norms)


def _calls(ops: Backend, graph: Graph) -> list[Call]:
    """Calls that differ in what they do most of."""
    rows, codes = sample()
    n, d, m = ROWS, DIM, QUERIES
    queries, some = codes.take(slice(0, m)), rows[:m]
    narrow = CodeRows(np.ascontiguousarray(codes.codes[:, :32]), codes.norms)
    neighbours, nodes = graph.neighbours, codes.take(slice(0, graph.rows))
    entries = np.full((m, 1), graph.router[0], np.int32)
    offset, scale, l2 = np.zeros(d, np.float32), np.ones(1), METRICS["l2"].code
    beam = 32
    looked = SCORED * beam * m
    walk = Amounts(walked=looked, gathered=looked * (d + 4 + LATENCY))
    many_rows, many = sample(MANY)  # more than caches hold
    far = (np.arange(m * 64, dtype=np.int64).reshape(m, 64) * 104_729 % MANY).astype(np.int32)
    scattered = Amounts(gathered=m * 64 * (d + 4 + LATENCY))
    one, short, fewest = queries.take(slice(0, 1)), narrow.take(slice(0, m)), codes.take(slice(0, 64))
    return [
        (scan(1, 64, d, 1), lambda: ops.nearest(one, fewest, 1, None, threads=1)),
        (scan(1, n, d, 10), lambda: ops.nearest(one, codes, 10, None, threads=1)),
        (scan(m, n, d, 10), lambda: ops.nearest(queries, codes, 10, None, threads=1)),
        (scan(m, n, 32, 10), lambda: ops.nearest(short, narrow, 10, None, threads=1)),
        (scan(m, n, d, 200), lambda: ops.nearest(queries, codes, 200, None, threads=1)),
        (_matrix(m, 4096, d, "float32"), lambda: ops.pairwise(some, rows[:4096], l2, "float32", threads=1)),
        (_matrix(16, n, d, "float32"), lambda: ops.pairwise(rows[:16], rows, l2, "float32", threads=1)),
        (_matrix(16, 4096, d, "exact"), lambda: ops.pairwise(rows[:16], rows[:4096], l2, "exact", threads=1)),
        (finish(m, 64, d, 4), lambda: ops.rerank(some, many_rows, far, 10, l2, lengths=None, lower=None, threads=1)),
        (coding(n, d, 4), lambda: ops.encode(rows, None, offset, None, scale, threads=1)),
        (scattered, lambda: ops.score(many, far[:, 0], far, 24, threads=1)),
        (walk, lambda: ops.beam(queries, nodes, neighbours, entries, beam, 2, threads=1)),
    ]  # fmt: skip


def _matrix(m: float, n: float, d: float, precision: str) -> Amounts:
    if precision == "exact":
        return Amounts(streamed=4 * m * n, float64=m * n * d)
    return Amounts(calls=MATRIX_CALLS, streamed=12 * m * n + 12 * d * (m + n), float32=2 * m * n * d)


def disproof(ops: Backend, host: Backend) -> str:
    """What a backend gets wrong, "" if it gives the host's bits on a sample: scans, exact distances, codes. Half a second.

    Raises OutOfDeviceMemory, which proves nothing.
    """
    rows, codes = sample(2000)
    some, few = rows[:70], codes.take(slice(0, 70))
    lines = ((np.arange(70)[:, None] * 37 + np.arange(40) * 11) % len(rows)).astype(np.int32)
    offset, l2 = rows.data.mean(axis=0, dtype=np.float32), METRICS["l2"].code
    asked: dict[str, Callable[[Backend], Any]] = {
        "nearest": lambda one: one.nearest(few, codes, 20, None, threads=1),
        "rerank": lambda one: one.rerank(some, rows, lines, 10, l2, lengths=None, lower=None, threads=1),
        "encode": lambda one: one.encode(rows, None, offset, None, np.array([0.77]), threads=1),
        "score": lambda one: one.score(codes, lines[:, 0], lines, 24, threads=1),
    }
    for op, ask in asked.items():
        try:
            same = _same(ask(ops), ask(host))
        except OutOfDeviceMemory:
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, the backend is not to be used
            return f"{op} failed: {type(error).__name__}: {error}"
        if not same:
            return f"{op} does not give the bits of {host.NAME} here; please report it with `python -m omendb_kernels`"
    return ""


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple):
        return all(map(_same, a, b))
    return bool(np.array_equal(a, b))


def _transfer(ops: Any) -> float:
    """Bytes a second to the device, through memory that is not pinned, as users' arrays come."""
    block = np.zeros(1 << 26, np.int8)
    return block.nbytes / _seconds(lambda: ops.resident(block)[:1].get())
