"""Files of other libraries: what ours reach when hnswlib and FAISS search them, and theirs when we do, at equal ef."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import omendb_kernels as ok
from omendb import DB

from . import sets
from .curves import K, recall_of
from .header import header
from .index import Index, Ours
from .peers import PEERS, chosen, versions
from .record import save
from .sets import DataSet
from .tables import number, table

EFFORTS = (20, 40, 80, 160)
BEHIND, OF = 0.005, 1000  # points of recall, of so many queries; of fewer, chance moves it by more


def report(folder: Path | None, *, names: str, threads: int, out: Path | None, unset: Mapping[str, str]) -> int:
    """Print a table for each set and way; 1 where an exported graph stays behind ours by more than half a point (of a thousand
    queries)."""
    peers = chosen("hnswlib,faiss")
    facts, behind, measured = header(unset, [threads], versions(peers)), 0, {}
    for data in sets.chosen(folder, names):
        truth, _ = ok.knn(data.queries, data.base, K, data.metric, threads=threads)
        with tempfile.TemporaryDirectory(prefix="bench-exchange-") as home:
            out_of_ours = exported(data, peers, truth[:, -1:], threads, Path(home))
            into_ours = imported(data, peers, truth[:, -1:], threads, Path(home))
        show(f"{data.name}: our graph, searched by", out_of_ours)
        show(f"{data.name}: their rows, built by us and searched; beside their own graphs", into_ours)
        ours = np.array(out_of_ours["ours"]["recall"])
        gap = max((float((ours - out_of_ours[name]["recall"]).max()) for name in peers), default=0.0)
        print(f"ours is ahead of what we exported by {100 * gap:.2f} points at most", flush=True)
        behind |= gap > BEHIND * max(1.0, OF / len(data.queries)) ** 0.5
        measured[data.name] = {"exported": out_of_ours, "imported": into_ours}
    save(out, "exchange", {**facts, "efforts": EFFORTS, "results": measured}, facts["peers"])
    return int(behind)


def exported(data: DataSet, peers: list[str], worst: np.ndarray, threads: int, home: Path) -> dict[str, Any]:
    """Seconds to write, bytes and recalls by name; ours: seconds to build."""
    start = time.perf_counter()
    own = Ours.build(data.base, data.metric, threads)
    told = {"ours": {"seconds": time.perf_counter() - start, **recalls(data, own, worst, threads)}}
    for name in peers:
        path, start = home / f"ours.{name}", time.perf_counter()
        (own.db.to_hnswlib if name == "hnswlib" else own.db.to_faiss)(path)
        told[name] = {"seconds": time.perf_counter() - start, "nbytes": path.stat().st_size}
        loaded = PEERS[name].load(path, PEERS[name].form(data.base[:1], data.metric), data.metric)
        told[name] |= recalls(data, loaded, worst, threads)
    return told


def imported(data: DataSet, peers: list[str], worst: np.ndarray, threads: int, home: Path) -> dict[str, Any]:
    """Recalls of the peer's own graph, and of what we make of its file, with the seconds that takes."""
    told: dict[str, Any] = {}
    for name in peers:
        path = home / f"theirs.{name}"
        index = PEERS[name].build(PEERS[name].form(data.base, data.metric), data.metric, threads)
        index.save(path)
        told[name] = recalls(data, index, worst, threads)
        start = time.perf_counter()
        load = DB.from_hnswlib if name == "hnswlib" else DB.from_faiss
        db = load(path, metric=data.metric, build_threshold=1, threads=threads)
        told[f"ours of {name}"] = {"seconds": time.perf_counter() - start, **recalls(data, Ours(db), worst, threads)}
    return told


def recalls(data: DataSet, index: Index, worst: np.ndarray, threads: int) -> dict[str, list[float]]:
    """Recall at each of EFFORTS."""
    asked, found = index.form(data.queries, data.metric), []
    for effort in EFFORTS:
        index.tune(effort, threads)
        found.append(recall_of(data, data.queries, index.search(asked, K), worst))
    return {"recall": found}


def show(title: str, told: dict[str, Any]) -> None:
    """One table."""
    print(f"\n{title}")
    lines = [
        [name, number(one.get("seconds"), ".2f"), *(f"{recall:.4f}" for recall in one["recall"])] for name, one in told.items()
    ]
    print(table(["", "seconds", *(f"ef {effort}" for effort in EFFORTS)], lines), flush=True)
