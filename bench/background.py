"""What a build in the background costs those who search and write meanwhile: their latencies beside the idle ones."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import omendb
from omendb.background import Builder, Schedule
from omendb.db import RECALL

from . import sets
from .curves import K
from .header import header
from .sets import DataSet
from .tables import table

IDLE = 4.0  # seconds of each idle stretch
PAUSE = 0.01  # seconds between inserts


def report(folder: Path | None, *, threads: int, rounds: int, out: Path | None, unset: Mapping[str, str]) -> int:
    """Print the table."""
    data = max(sets.chosen(folder), key=lambda one: len(one.base))
    facts = header(unset, [threads])
    with tempfile.TemporaryDirectory(prefix="bench-background-") as home:
        measured = latencies(data, Path(home), threads, rounds)
    show(data, measured)
    if out:
        out.write_text(json.dumps({**facts, "set": data.name, "rows": len(data.base), **measured}, indent=1))
    return 0


def latencies(data: DataSet, home: Path, threads: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of single searches and inserts of one row into a durable folder, idle and during builds, in turn.

    Builds take half of the threads; searches are asked with one.
    """
    times: dict[str, dict[str, list[float]]] = {when: {"search": [], "insert": []} for when in ("idle", "build")}
    seconds = []
    with omendb.DB.open(home / "db", metric=data.metric, threads=threads, build_threshold=1) as db:
        db.build(data.base)
        builder: Builder = db._build_beside_writes(RECALL, Schedule(None), None)
        builder.build(RECALL, None)  # compiled, and warm
        for _ in range(rounds):
            asked_during(db, data, times["idle"], partial(time.sleep, IDLE))
            start = time.perf_counter()
            asked_during(db, data, times["build"], partial(builder.build, RECALL, None))
            seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, **{when: {act: quantiles(found) for act, found in one.items()} for when, one in times.items()}}


def asked_during(db: omendb.DB, data: DataSet, times: dict[str, list[float]], work: Callable[[], object]) -> None:
    """Search in one thread and insert in another until the work is done."""
    over = threading.Event()
    queries, place = data.queries, iter(range(10**9))

    def search() -> None:
        db.search(queries[next(place) % len(queries)], K, threads=1)

    def insert() -> None:
        db.add_batch(data.base[:1])

    def ask(act: Callable[[], None], pause: float, found: list[float]) -> None:
        while not over.is_set():
            start = time.perf_counter()
            act()
            found.append(1e3 * (time.perf_counter() - start))
            if pause:
                time.sleep(pause)

    askers = [
        threading.Thread(target=ask, args=(search, 0, times["search"])),
        threading.Thread(target=ask, args=(insert, PAUSE, times["insert"])),
    ]
    for asker in askers:
        asker.start()
    try:
        work()
    finally:
        over.set()
        for asker in askers:
            asker.join()


def quantiles(found: list[float]) -> dict[str, float]:
    median, most = np.quantile(found, [0.5, 0.99])
    return {"count": len(found), "p50": float(median), "p99": float(most), "most": max(found)}


def show(data: DataSet, measured: dict[str, Any]) -> None:
    shape = "x".join(map(str, data.base.shape))
    print(f"\n{data.name} ({shape}): builds beside the writes, {np.median(measured['seconds']):.1f} s each; milliseconds")
    lines = []
    for act in ("search", "insert"):
        for when in ("idle", "build"):
            one, idle = measured[when][act], measured["idle"][act]
            values = [f"{one[name]:.3f}" for name in ("p50", "p99", "most")]
            lines.append([f"{act}, {when}", str(one["count"]), *values, f"{one['p99'] / idle['p99']:.2f}x"])
    print(table(["", "calls", "p50", "p99", "longest", "p99 / idle"], lines), flush=True)
