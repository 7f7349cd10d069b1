"""Rows a second: a batch inserted into a graph, beside hnswlib; batches appended to a database without one, and to a folder."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import omendb
import omendb_kernels as ok

from . import sets
from .curves import K, recall_of
from .header import counts, header
from .hnsw import Hnswlib
from .index import Index, Ours
from .peers import chosen, versions
from .record import save
from .sets import DataSet
from .tables import number, ratio, table
from .timing import in_turn

EFFORT = 64  # of the search that tells recall after the insert
DURABLE_DIM = 128
LEAST = 100  # rows that `insert_batch` takes
PROBES = 30  # syncs of the disk itself, before and after


class Sizes(NamedTuple):
    """Rows that are inside a graph before, and inserted; rows that are appended, and at a time."""

    inside: int = 100_000
    inserted: int = 10_000
    appended: int = 200_000
    batch: int = 10_000


def report(
    folder: Path | None, *, threads: str, rounds: int, scale: float, out: Path | None, unset: Mapping[str, str]
) -> int:  # fmt: skip
    """Print the tables. scale: of how many rows are written, for a first look."""
    size = Sizes(*(max(LEAST, int(rows * scale)) for rows in Sizes()))
    workers, names = counts(threads), chosen("hnswlib")
    data = sets.largest(sets.chosen(folder))
    facts = header(unset, workers, versions(names))
    inserted = {count: inserts(data, count, rounds, size, peer=bool(names)) for count in workers}
    show_inserts(data, inserted, size)
    appended = {count: appends(data, count, rounds, size) for count in workers}
    print(f"\n{data.name}: {size.appended:,} rows appended without a graph, {size.batch:,} at a time")
    lines = [[str(count), *(number(one[kind]) for kind in one)] for count, one in appended.items()]
    print(table(["threads", *(f"{kind} rows/s" for kind in appended[workers[0]])], lines), flush=True)
    kept = {count: durable(count, size) for count in workers}
    show_durable(kept, size)
    told = {"insert": inserted, "append": {count: {"rows_per_second": one} for count, one in appended.items()}, "durable": kept}
    save(out, "writes", {**facts, "set": data.name, **told}, facts["peers"])
    return 0


def split(data: DataSet, size: Sizes) -> tuple[np.ndarray, np.ndarray]:
    """The rows inside before, and those inserted."""
    inside = min(size.inside, len(data.base) * 9 // 10)
    return data.base[:inside], data.base[inside : inside + size.inserted]


def inserts(data: DataSet, threads: int, rounds: int, size: Sizes, *, peer: bool) -> dict[str, Any]:
    """Rows a second by name, and recall after the insert; each round on a fresh copy, loaded from a file before the clock."""
    inside, added = split(data, size)
    with tempfile.TemporaryDirectory(prefix="bench-writes-") as home:
        fresh = {"ours": _copies_of_ours(inside, added, data.metric, threads, Path(home))}
        if peer:
            fresh["hnswlib"] = _copies_of_hnswlib(inside, added, data.metric, threads, Path(home))
        times: dict[str, list[float]] = {name: [] for name in fresh}
        last: dict[str, Index] = {}
        for round_ in range(rounds + 1):  # the first is not counted
            for name, copy in fresh.items():
                last.pop(name, None)
                index, insert = copy()
                start = time.perf_counter()
                insert()
                if round_:
                    times[name].append(time.perf_counter() - start)
                last[name] = index
        whole = DataSet(data.name, data.metric, data.base[: len(inside) + len(added)], data.queries)
        recalls = {name: _recall(whole, index, threads) for name, index in last.items()}
    return {
        name: {"rows_per_second": len(added) / float(np.median(taken)), "seconds": taken, "recall": recalls[name]}
        for name, taken in times.items()
    }


def _copies_of_ours(inside: np.ndarray, added: np.ndarray, metric: str, threads: int, home: Path) -> Any:
    Ours.build(inside, metric, threads).save(home / "ours")

    def copy() -> tuple[Index, Any]:
        index = Ours.load(home / "ours", inside, metric, threads)
        index.db.get(0)  # reads the ids, as the other library has when it is loaded
        return index, lambda: index.db.insert_batch(added)

    return copy


def _copies_of_hnswlib(inside: np.ndarray, added: np.ndarray, metric: str, threads: int, home: Path) -> Any:
    Hnswlib.build(Hnswlib.form(inside, metric), metric, threads).save(home / "hnswlib")
    rows, ids = Hnswlib.form(added, metric), np.arange(len(inside), len(inside) + len(added))

    def copy() -> tuple[Index, Any]:
        index = Hnswlib.load(home / "hnswlib", rows, metric, most=len(inside) + len(added))
        return index, lambda: index.native.add_items(rows, ids, num_threads=threads)

    return copy


def _recall(data: DataSet, index: Index, threads: int) -> float:
    truth, _ = ok.knn(data.queries, data.base, K, data.metric, threads=threads)
    index.tune(EFFORT, threads)
    return recall_of(data, data.queries, index.search(index.form(data.queries, data.metric), K), truth[:, -1:])


def show_inserts(data: DataSet, inserted: dict[int, dict[str, Any]], size: Sizes) -> None:
    inside, added = split(data, size)
    print(f"\n{data.name}: {len(added):,} rows inserted into a graph over {len(inside):,}; recall at {EFFORT} after it")
    lines = []
    for count, each in inserted.items():
        for name, one in each.items():
            compared = "" if name == "ours" else ratio(each["ours"]["rows_per_second"], one["rows_per_second"])
            lines.append([name, str(count), number(one["rows_per_second"]), compared, f"{one['recall']:.4f}"])
    print(table(["", "threads", "rows/s", "ours / peer", "recall"], lines), flush=True)


def appends(data: DataSet, threads: int, rounds: int, size: Sizes) -> dict[str, float]:
    """Rows a second by dtype: a database filled batch by batch, from nothing, as the set's rows and as float32."""
    rows = np.resize(data.base, (size.appended, data.base.shape[1]))
    forms = {str(rows.dtype): rows, "float32": rows.astype(np.float32)}

    def fill(rows: np.ndarray) -> None:
        db = omendb.DB(metric=data.metric, build_threshold=len(rows) + 1, threads=threads)
        for start in range(0, len(rows), size.batch):
            db.add_batch(rows[start : start + size.batch])

    seconds = in_turn({name: partial(fill, rows) for name, rows in forms.items()}, rounds)
    return {name: size.appended / float(np.median(taken)) for name, taken in seconds.items()}


def durable(threads: int, size: Sizes) -> dict[str, dict[str, float]]:
    """Batches acknowledged by a folder, checkpoints and snapshots that fell due included, beside the disk's own rates."""
    rows = np.random.default_rng(0).standard_normal((size.batch, DURABLE_DIM), dtype=np.float32)
    measured: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-durable-") as home:
        before = _disk(Path(home) / "probe", rows.tobytes())
        for durability in ("full", "normal"):
            with omendb.DB.open(Path(home) / durability, durability=durability, threads=threads) as db:
                db.add_batch(rows)  # fits the codec
                batches = _seconds(partial(db.add_batch, rows), size.appended // size.batch)
                single = _seconds(partial(db.add_batch, rows[:1]), 100)
            measured[durability] = {
                "rows_per_second": len(batches) * size.batch / float(batches.sum()),
                "median_rows_per_second": size.batch / float(np.median(batches)),
                "one_row_ms": 1e3 * float(np.median(single)),
            }
        after = _disk(Path(home) / "probe", rows.tobytes())
    disk = {name: (before[name] + after[name]) / 2 for name in before}
    return {**measured, "disk": disk}


def _seconds(act: Any, times: int) -> np.ndarray:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        act()
        taken.append(time.perf_counter() - start)
    return np.array(taken)


def _disk(path: Path, batch: bytes) -> dict[str, float]:
    """Milliseconds of a sync of 4 KiB; MB/s of as many bytes as a batch has, written and synced."""

    def write(file: Any, data: bytes) -> None:
        file.write(data)
        os.fsync(file.fileno())

    with open(path, "wb", buffering=0) as file:
        syncs = _seconds(partial(write, file, bytes(4096)), PROBES)
        batches = _seconds(partial(write, file, batch), PROBES // 3)
    return {"sync_ms": 1e3 * float(np.median(syncs)), "megabytes_per_second": len(batch) / 1e6 / float(np.median(batches))}


def show_durable(kept: dict[int, dict[str, dict[str, float]]], size: Sizes) -> None:
    print(f"\n{size.appended:,} rows of {DURABLE_DIM} float32 acknowledged by a durable folder, {size.batch:,} at a time")
    lines = []
    for count, each in kept.items():
        disk = each["disk"]
        for durability in ("full", "normal"):
            one = each[durability]
            rates = [number(one["rows_per_second"]), number(one["median_rows_per_second"]), f"{one['one_row_ms']:.2f}"]
            lines.append([durability, str(count), *rates, f"{disk['sync_ms']:.2f}", number(disk["megabytes_per_second"])])
    names = ["durability", "threads", "rows/s", "rows/s, median batch", "one row, ms", "disk: sync, ms", "disk: MB/s"]
    print(table(names, lines), flush=True)
