"""Approximate search through a graph beside other libraries in one run: builds, memory, speed at equal recall, latency."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from . import peers as libraries
from . import sets as data_sets
from .build import Built, build, load_or_build
from .curves import EFFORTS, LEVELS, K, at_recall, curves, singles
from .header import counts, header
from .index import Index, Ours
from .masks import WrongAnswer, masked, shares
from .record import Record
from .sets import DataSet
from .tables import show

ALONE = 100  # queries that the gate asks one at a time too


def report(
    folder: Path | None,
    *,
    sets: str,
    peers: str,
    threads: str,
    rounds: int,
    builds: int,
    masks: str,
    out: Path | None,
    resume: bool,
    unset: Mapping[str, str],
) -> int:
    """Print tables a set, write JSON; 1 when the gate is red, and then no time of that set."""
    names, workers, allowed = libraries.chosen(peers), counts(threads), shares(masks)
    wanted = data_sets.chosen(folder, sets)
    facts = {**header(unset, workers, libraries.versions(names)), "k": K}
    chosen = {"sets": [[data.name, *data.base.shape] for data in wanted], "peers": names}
    options = {**chosen, "threads": workers, "rounds": rounds, "builds": builds, "masks": allowed}
    record = Record("ann", out, options, facts, resume=resume)
    with record.interruptible():
        for data in wanted:
            if not (whole := record.get(data.name)) or len(whole["runs"]) < len(workers):
                own = {count: Ours.build(data.base, data.metric, count) for count in workers}
                if trouble := gate(data, own):
                    print(f"RED: {data.name}: {trouble}. No times.")
                    return 1
                fit = [name for name in names if data.metric in libraries.PEERS[name].metrics]
                try:
                    with tempfile.TemporaryDirectory(prefix="bench-ann-") as home:
                        whole = measure(data, own, fit, rounds, builds, allowed, Path(home), record)
                except WrongAnswer as wrong:
                    print(f"RED: {data.name}: {wrong}. No times.")
                    return 1
            show(whole)
        record.write(finished=True)
    return 0


def gate(data: DataSet, own: dict[int, Ours]) -> str:
    """What is wrong with ours, else nothing: ids that exist, none twice in an answer, the same for any number of threads
    while building and searching, the same one query at a time."""
    for kind, queries in data.asked.items():
        for effort in (EFFORTS[0], EFFORTS[-1]):
            answers = []
            for count, index in own.items():
                index.tune(effort, count)
                answers.append(index.search(queries, K))
            ids = answers[0]
            if not ids.size:
                return f"nothing to look for or in ({kind})"
            if ids.min() < 0 or ids.max() >= len(data.base):
                return f"an id out of range ({kind})"
            if not (np.diff(np.sort(ids, axis=1), axis=1) > 0).all():
                return f"an id twice in an answer ({kind})"
            if not all(np.array_equal(ids, other) for other in answers):
                return f"ids differ between {' and '.join(map(str, own))} threads ({kind})"
            if not all(
                np.array_equal(index.single(query, K).ids, row) for query, row in zip(queries[:ALONE], ids, strict=False)
            ):
                return f"ids of one query alone differ from those in a batch ({kind})"
    return ""


def measure(
    data: DataSet, own: dict[int, Ours], names: list[str], rounds: int, builds: int, allowed: list[float], home: Path,
    record: Record,
) -> dict[str, Any]:  # fmt: skip
    """Everything about one set, for JSON, kept after each thread count; counts that are in the record already are not measured
    again. Ours is searched where it was built, peers as loaded from what a child saved."""
    np.save(home / "base.npy", data.base)
    rows, dim = data.base.shape
    result = {"set": data.name, "rows": rows, "dim": dim, "dtype": str(data.base.dtype), "metric": data.metric}
    runs: list[dict[str, Any]] = list((record.get(data.name) or {"runs": []})["runs"])
    done = {run["threads"] for run in runs}
    for count, ours in own.items():
        if count in done:
            continue
        built = build_all(data, names, count, builds, home)
        indexes: dict[str, Index] = {"ours": ours}
        for name in names:
            indexes[name] = load_or_build(name, data.base, data.metric, count, home / f"{name}-{count}")
        found = {kind: curves(data, queries, indexes, count, rounds) for kind, queries in data.asked.items()}
        single = None if runs else singles(data, indexes, found["queries"])  # one thread, whatever built it: once is enough
        told = {"build": built, "curves": found, "at_recall": levels(found), "single": single}
        runs.append({"threads": count, **told, "masks": masked(data, indexes, found["queries"], allowed, count, rounds)})
        record.put(data.name, {**result, "runs": runs, "speedups": speedups(runs)})
    return record.results[data.name]


def build_all(data: DataSet, names: list[str], threads: int, builds: int, home: Path) -> dict[str, Any]:
    """Each library built in a process of its own: ours `builds` times, half of them after the peers; medians."""

    def one(name: str) -> Built:
        return build(name, home / "base.npy", data.metric, threads, home / f"{name}-{threads}")

    before = (builds + 1) // 2
    own = [one("ours") for _ in range(before)]
    built = {name: [one(name)] for name in names}
    own += [one("ours") for _ in range(builds - before)]
    return {name: _summary(times, data.raw_bytes) for name, times in {"ours": own, **built}.items()}


def _summary(times: list[Built], raw_bytes: int) -> dict[str, Any]:
    """Medians of builds of one library; peak_ratio: over the bytes of its rows as float32."""
    middle = sorted(times, key=lambda built: built.seconds)[len(times) // 2]
    peaks = [built.peak for built in times if built.peak is not None]
    peak = float(np.median(peaks)) if peaks else None
    return {
        **asdict(middle),
        "seconds": float(np.median([built.seconds for built in times])),
        "all_seconds": [built.seconds for built in times],
        "peak": peak,
        "peak_ratio": None if peak is None else peak / raw_bytes,
    }


def levels(found: dict[str, Any]) -> dict[str, Any]:
    """Queries a second at each recall, by kind of queries and library."""
    return {
        kind: {name: {str(level): at_recall(points, level) for level in LEVELS} for name, points in by_name.items()}
        for kind, by_name in found.items()
    }


def speedups(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Ours with each further thread count over the first: builds, and batches at each recall."""
    first, result = runs[0], {}
    for run in runs[1:]:
        factors = {"build": first["build"]["ours"]["seconds"] / run["build"]["ours"]["seconds"]}
        slow, fast = (each["at_recall"]["queries"]["ours"] for each in (first, run))
        factors |= {f"search at {level}": fast[level] / slow[level] for level in slow if slow[level] and fast[level]}
        result[f"{first['threads']} -> {run['threads']}"] = factors
    return result
