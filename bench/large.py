"""A large build made from a real set: seconds by phase, memory, and whether searches still find their way in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import omendb_kernels as ok

from . import sets
from .build import in_child, measured
from .curves import EFFORTS, K, curves
from .header import header
from .index import Ours
from .record import save
from .sets import DataSet
from .tables import number, phases

LEVEL = 0.95  # recall looked for, by larger beams than the tuned one where that finds less
NOISE = 4  # a jittered value differs by at most so much
CLUSTERS, CLUSTERED = 20, 1000  # the densest of PROBED rows, and queries near them
PROBED = 2000
ROUNDS = 5
SEED = 7


def report(folder: Path | None, *, rows: int, threads: int, out: Path | None, unset: Mapping[str, str]) -> int:
    """Print what one build took and found."""
    facts = header(unset, [threads])
    data = sets.largest(sets.chosen(folder), "uint8")
    result = in_child(_measure, data, rows, threads)
    told, found = result["build"]["report"], result["found"]
    print(f"\n{data.name}, jittered to {rows:,} x {data.base.shape[1]} uint8, l2; {threads} threads")
    print(
        f"  build {result['build']['seconds']:.2f} s ({phases(told)}); "
        f"the process grew by {number(result['peak_ratio'], '.2f')} n d 4 bytes"
    )
    for kind, points in found.items():
        cells = [f"{one['recall']:.4f} at beam {one['effort']}, {one['qps']:,.0f} QPS" for one in (points[0], *points[1:][-1:])]
        print(f"  {kind}: recall@{K} {'; '.join(cells)} (the first is the tuned beam)", flush=True)
    save(out, "large", {**facts, "set": data.name, "rows": rows, **result})
    return 0


def jitter(rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """uint8 rows, each value moved by up to NOISE."""
    noise = random.integers(-NOISE, NOISE + 1, rows.shape, dtype=np.int16)
    return np.clip(rows + noise, 0, 255).astype(np.uint8)


def grown(base: np.ndarray, rows: int, random: np.random.Generator) -> np.ndarray:
    """So many rows: the base's own again and again, always jittered, since equal rows would be one node to a graph."""
    large = np.empty((rows, base.shape[1]), np.uint8)
    for start in range(0, rows, len(base)):
        large[start : start + len(base)] = jitter(base[: rows - start], random)
    return large


def densest(data: DataSet, random: np.random.Generator) -> np.ndarray:
    """Of PROBED rows the CLUSTERS whose K-th neighbour is nearest, (CLUSTERS, d)."""
    probed = data.base[random.choice(len(data.base), min(PROBED, len(data.base)), replace=False)]
    distances, _ = ok.knn(probed, data.base, K + 1, data.metric)  # each finds itself first
    return probed[np.argsort(distances[:, -1], kind="stable")[:CLUSTERS]]


def _measure(data: DataSet, rows: int, threads: int) -> dict[str, Any]:
    """In the child. Clustered queries: near a few rows only, so that few of the router's nodes must lead to all answers."""
    random = np.random.default_rng(SEED)
    large = DataSet(data.name, data.metric, grown(data.base, rows, random), data.queries)
    crowd = np.repeat(densest(data, random), CLUSTERED // CLUSTERS, axis=0)
    asked = {"queries": data.queries, "clustered": jitter(crowd, random)}
    index, built = measured("ours", large.base, large.metric, threads)
    assert isinstance(index, Ours)
    assert index.report is not None
    tuned = index.report.beam or K
    efforts = (tuned, *(effort for effort in EFFORTS if effort > tuned))
    found = {
        kind: curves(large, queries, {"ours": index}, threads, ROUNDS, efforts=efforts, enough=LEVEL)["ours"]
        for kind, queries in asked.items()
    }
    ratio = None if built.peak is None else built.peak / large.raw_bytes
    return {"build": asdict(built), "peak_ratio": ratio, "found": found}
