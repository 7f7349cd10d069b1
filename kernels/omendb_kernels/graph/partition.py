"""partition: overlapping leaves of near rows, by recursive ball carving (PiPNN, arXiv 2602.21247, Algorithm 5).

An item is a set of rows. While it is too large for a leaf, some of its own rows are drawn as leaders and every row joins its
`fanout` nearest leaders: fanout is above one on the first levels only, so that a row is in several leaves and leaves overlap.
All distances are integers and ties go to the smaller row, so the leaves are the same on every backend.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from ..codec import sample_rows
from ..contract import Backend, CodeRows, Int32s, Int64s
from ..parallel import blocks, run
from .settings import Settings

LEADER_SHARE = 0.005
MAX_LEADERS = 1000
SHRUNK = 0.8  # an item that keeps more than this share of its parent was not split by distance: it is cut by order
PLACES = 1 << 19  # of leaders that are asked for at a time: they take memory
LEAST_BLOCK = 1 << 12  # rows that are worth a thread of their own
ITEM = 1000  # numbers hashes of leaders apart from those of other samples


def leaves(points: CodeRows, nodes: Int32s, settings: Settings, ops: Backend, threads: int) -> tuple[Int32s, Int64s]:
    """Leaves of `nodes` (ascending rows): members int32 (t,), offsets int64 (leaves + 1,), each leaf ascending.

    Every node is in a leaf; leaves hold at most `settings.leaf` rows. Cost: n * leaders * D on the first level, less below.
    """
    done: list[Int32s] = []
    level, depth, number = [nodes], 0, ITEM
    while level:
        done += [rows for rows in level if len(rows) <= settings.leaf]
        large = [place for place, rows in enumerate(level) if len(rows) > settings.leaf]
        items, numbers, number = [level[place] for place in large], [number + place for place in large], number + len(level)
        fanout = settings.fanout[depth] if depth < len(settings.fanout) else 1
        level, depth = _carved(points, items, numbers, fanout, ops, threads), depth + 1
    merged = _merge_small(done, settings.leaf // 8, settings.leaf)
    return (np.concatenate(merged) if merged else np.empty(0, np.int32)), _ends(merged)


class _Level(NamedTuple):
    """Items one behind the other: rows of each, all leaders, and where the rows and the leaders of an item begin."""

    items: list[Int32s]
    leaders: Int32s
    offsets: Int64s
    starts: Int64s


def _carved(
    points: CodeRows, items: list[Int32s], numbers: list[int], fanout: int, ops: Backend, threads: int
) -> list[Int32s]:
    """What items are carved into: of each, in order, the rows that joined each of its leaders. numbers: of the items."""
    leaders = [np.empty(0, np.int32)] * len(items)

    def lead(item: int) -> None:
        leaders[item] = _leaders(items[item], numbers[item])

    run(lead, range(len(items)), threads)
    level = _Level(items, np.concatenate([np.empty(0, np.int32), *leaders]), _ends(items), _ends(leaders))
    total = int(level.offsets[-1])
    parts = list(blocks(total, min(max(1, PLACES // fanout), max(LEAST_BLOCK, -(-total // threads)))))
    inner = max(1, threads // max(1, len(parts)))
    joined: list[tuple[int, list[Int32s]]] = [(0, [])] * len(parts)

    def join(part: int) -> None:
        joined[part] = _joined(points, level, parts[part], fanout, ops, inner)

    run(join, range(len(parts)), threads)
    found: list[list[Int32s]] = [[] for _ in level.leaders]
    for part, (first, pieces) in enumerate(joined):
        for leader, piece in enumerate(pieces, first):
            if len(piece):
                found[leader].append(piece)
        joined[part] = 0, []
    clusters: list[Int32s] = []
    parents = np.repeat(np.diff(level.offsets), np.diff(level.starts)).tolist()
    for leader, parent in enumerate(parents):
        if found[leader]:
            clusters += _halved(np.concatenate(found[leader]), parent)
            found[leader] = []  # pieces are let go as they are copied
    return clusters


def _joined(
    points: CodeRows, level: _Level, part: tuple[int, int], fanout: int, ops: Backend, threads: int
) -> tuple[int, list[Int32s]]:
    """Of the rows part[0]..part[1] of a level, whatever items these are of: the first leader in question, and what joins each
    leader from there on, in the order of rows."""
    (low, high), (items, leaders, offsets, starts) = part, level
    first, last = int(np.searchsorted(offsets, low, side="right")) - 1, int(np.searchsorted(offsets, high))
    some = np.concatenate([items[i][max(0, low - offsets[i]) : high - offsets[i]] for i in range(first, last)])
    cuts, begins = np.clip(offsets[first : last + 1], low, high) - low, starts[first : last + 1] - starts[first]
    here = leaders[starts[first] : starts[last]]
    places = ops.assign(points, some, cuts, here, begins, fanout, threads=threads)
    before = np.repeat(begins[:-1].astype(np.int32), np.diff(cuts))  # leaders of the items before a row's own
    kind = np.uint16 if len(here) < 1 << 16 else np.int32  # 16 bits sort by radix
    joins = np.where(places < 0, np.int32(len(here)), places + before[:, None]).astype(kind).ravel()
    members = np.repeat(some, fanout)[np.argsort(joins, kind="stable")]
    ends = np.cumsum(np.bincount(joins, minlength=len(here)))[: len(here)].tolist()
    return int(starts[first]), [members[begin:end] for begin, end in itertools.pairwise([0, *ends])]


def _leaders(rows: Int32s, number: int) -> Int32s:
    """The rows, ascending, that lead an item: one in 200 by hash, two at least."""
    count = min(max(-(-len(rows) // round(1 / LEADER_SHARE)), 2), MAX_LEADERS)
    return np.sort(rows[sample_rows(len(rows), count, number)])


def _ends(lists: list[Int32s]) -> Int64s:
    """int64 (lists + 1,): where each begins, and where the last ends, one behind the other."""
    ends: Int64s = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    return ends


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
