"""partition: overlapping leaves of near rows, by recursive ball carving (PiPNN, arXiv 2602.21247, Algorithm 5).

An item is a set of rows. While it is too large for a leaf, some of its own rows are drawn as leaders and every row joins its
`fanout` nearest leaders: fanout is above one on the first levels only, so that a row is in several leaves and leaves overlap.
All distances are integers and ties go to the smaller row, so the leaves are the same on every backend.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..codec import sample_rows
from ..contract import Backend, CodeRows, Int32s, Int64s
from ..keys import unpack
from ..parallel import blocks, run
from .place import fetched, taken
from .settings import Settings

LEADER_SHARE = 0.005
MAX_LEADERS = 1000
SHRUNK = 0.8  # an item that keeps more than this share of its parent was not split by distance: it is cut by order
BLOCK, LEAST_BLOCK = 1 << 16, 1 << 12  # rows that look for their leaders at a time: their keys take memory
ITEM = 1000  # numbers hashes of leaders apart from those of other samples


@dataclass(frozen=True)
class _Item:
    rows: Int32s  # ascending
    level: int
    number: int


def leaves(points: CodeRows, nodes: Int32s, settings: Settings, ops: Backend, threads: int) -> tuple[Int32s, Int64s]:
    """Leaves of `nodes` (ascending rows): members int32 (t,), offsets int64 (leaves + 1,), each leaf ascending.

    Every node is in a leaf; leaves hold at most `settings.leaf` rows. Cost: n * leaders * D on the first level, less below.
    """
    done: list[Int32s] = []
    level, number = [_Item(nodes, 0, ITEM)], ITEM + 1
    while level:
        found: list[list[Int32s]] = [[] for _ in level]
        inner = 1 if len(level) > 1 else threads

        def carve(i: int, level: list[_Item] = level, found: list[list[Int32s]] = found, inner: int = inner) -> None:
            found[i] = _carve(points, level[i], settings, ops, inner)

        run(carve, [i for i, item in enumerate(level) if len(item.rows) > settings.leaf], threads)
        below: list[_Item] = []
        for item, clusters in zip(level, found, strict=True):
            if len(item.rows) <= settings.leaf:
                done.append(item.rows)
            for rows in clusters:
                below.append(_Item(rows, item.level + 1, number))
                number += 1
        level = below
    merged = _merge_small(done, settings.leaf // 8, settings.leaf)
    offsets = np.zeros(len(merged) + 1, np.int64)
    np.cumsum([len(rows) for rows in merged], out=offsets[1:])
    return (np.concatenate(merged) if merged else np.empty(0, np.int32)), offsets


def _carve(points: CodeRows, item: _Item, settings: Settings, ops: Backend, threads: int) -> list[Int32s]:
    rows, size = item.rows, len(item.rows)
    count = min(max(-(-size // round(1 / LEADER_SHARE)), 2), MAX_LEADERS)
    leaders = np.sort(rows[sample_rows(size, count, item.number)])
    fanout = min(settings.fanout[item.level] if item.level < len(settings.fanout) else 1, count)
    targets = taken(points, leaders, ops)
    parts = list(blocks(size, min(BLOCK, max(LEAST_BLOCK, -(-size // threads)))))
    inner = max(1, threads // len(parts))
    joined: list[list[Int32s]] = [[] for _ in parts]

    def join(i: int) -> None:
        some = rows[slice(*parts[i])]
        keys = ops.nearest(taken(points, some, ops), targets, fanout, None, threads=inner)
        places = fetched(unpack(keys)[1].astype(np.int16)).ravel()
        members = np.repeat(some, fanout)[np.argsort(places, kind="stable")]  # by leader, then by row; 16 bits sort by radix
        joined[i] = np.split(members, np.cumsum(np.bincount(places, minlength=count))[:-1])

    run(join, range(len(parts)), threads)
    clusters = [np.concatenate(pieces) for pieces in zip(*joined, strict=True) if any(map(len, pieces))]
    return [piece for cluster in clusters for piece in _halved(cluster, size)]


def _halved(cluster: Int32s, parent: int) -> list[Int32s]:
    """A cluster that hardly shrank, cut in two halves by row order that share one row; others as they are."""
    if len(cluster) <= SHRUNK * parent:
        return [cluster]
    middle = len(cluster) // 2
    return [cluster[: middle + 1], cluster[middle:]]


def _merge_small(found: list[Int32s], least: int, most: int) -> list[Int32s]:
    """Leaves under `least` rows are joined to the next small ones until they reach it; none grows past `most`."""
    out, open_ = [], np.empty(0, np.int32)
    for rows in found:
        if len(rows) >= least:
            out.append(rows)
            continue
        joined = np.union1d(open_, rows)
        if len(joined) > most:
            out.append(open_)
            joined = rows
        open_ = joined
        if len(open_) >= least:
            out.append(open_)
            open_ = np.empty(0, np.int32)
    if len(open_):
        out.append(open_)
    return out
