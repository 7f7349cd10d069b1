"""hnsw: the graph with upper layers and with twins as nodes of their own, as the files of other libraries hold one.

A row's highest layer is drawn by hash: it reaches layer l with probability m^-l (Malkov, Yashunin, TPAMI 2020), and goes one
higher where it has none of the layer above near by (cover.py). Layer 0 is the graph; an upper one is built at once over its
own rows, by the same phases. Those libraries enter layer 0 at one row, found by a short walk, and expand one row at a time. Two
things make up for it: free places of lists are filled, and rows of layer 1 keep far links of there in layer 0, which lead a
search that entered in the wrong cluster to the right one.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from itertools import count, takewhile

import numpy as np
from numpy.typing import NDArray

from ..codec import SEED, hash_order
from ..contract import Backend, CodeRows, Int32s
from ..parallel import blocks
from .build import fresh_lists
from .cover import covering
from .graph import Graph, Twins
from .insert import insert, insert_due
from .place import placed_codes
from .repair import repair
from .settings import Settings

LEVEL_ITEM = 5  # numbers the hash that draws levels
LEAST_SHARE = 1e-9  # FAISS has no layer for rarer levels
FAR_SHARE = 4  # one in so many places of layer 1 is a far link of layer 0
BLOCK = 1 << 16  # rows whose lists are packed at a time


@dataclass(frozen=True, eq=False)
class Layer:
    """rows: int32 (r,), ascending; lists: int32 (r, width), the rows that each of them leads to, then -1."""

    rows: Int32s
    lists: Int32s


@dataclass(frozen=True, eq=False)
class Hnsw:
    """A hierarchy over rows 0..n-1. m: places of a list above layer 0, which has 2 m; layers: from 0, that of all rows, up;
    entry: the row of the top layer where searches begin.
    """

    m: int
    layers: tuple[Layer, ...]
    entry: int

    def __len__(self) -> int:
        return len(self.layers[0].rows)

    @property
    def level_shares(self) -> list[float]:
        """The share of rows whose highest layer was to be 0, 1, ...; no layer is higher than they tell."""
        return level_shares(self.m)

    @functools.cached_property
    def levels(self) -> NDArray[np.uint8]:
        """uint8 (n,): the highest layer of each row."""
        levels = np.zeros(len(self), np.uint8)
        for level, layer in enumerate(self.layers):
            levels[layer.rows] = level
        return levels


def level_shares(m: int) -> list[float]:
    """The share of rows whose highest layer is 0, 1, ..., as far as it is 1e-9 or more; m >= 2."""
    return list(takewhile(lambda share: share >= LEAST_SHARE, ((1 - 1 / m) / m**level for level in count())))


def layered(graph: Graph, points: CodeRows, ops: Backend, threads: int) -> Hnsw:
    """The hierarchy over all of `points`, those behind the graph's own inserted. No row may have left the graph.

    The same rows give the same bytes on every backend. Cost: that of building a graph of n / (m - 1) rows.
    """
    graph = insert_due(graph, points, ops, threads)
    n = len(points.codes)
    if graph.rows < n:
        graph = insert(graph, points, np.arange(graph.rows, n, dtype=np.int32), ops, threads)
    m = max(3, -(-(graph.settings.degree + 1) // 2))  # a list has room for three links of twins and what its node's loses
    hashes = hash_order(SEED, LEVEL_ITEM, n)[graph.nodes]
    entry = int(graph.nodes[hashes.argmin()])
    upper = _upper_layers(graph, points, m, hashes, entry, ops, threads)
    lists = graph.neighbours.copy()
    if upper:
        _keep_far(lists, upper[0], m // FAR_SHARE)
        codes = placed_codes(points, ops)
        repair(codes, lists, np.array([entry], np.int32), graph.nodes, ops, threads)
    lists = _with_twins(_with_returns(_packed(lists, 2 * m)), graph.twins)
    return Hnsw(m, (Layer(np.arange(n, dtype=np.int32), lists), *upper), entry)


def _upper_layers(
    graph: Graph, points: CodeRows, m: int, hashes: NDArray[np.uint64], entry: int, ops: Backend, threads: int
) -> list[Layer]:
    """Those above layer 0, upwards; hashes: of the graph's nodes."""
    settings = replace(graph.settings, degree=m - 1)
    upper: list[Layer] = []
    rows, lists, places = graph.nodes, graph.neighbours, graph.nodes
    for level in range(1, len(level_shares(m))):
        chosen = covering(lists, places, hashes, 2**64 // m**level, len(hashes) // 2)
        if not chosen.any():
            break
        hashes, rows = hashes[chosen], rows[chosen]
        lists, places = _layer_lists(points, rows, entry, settings, ops, threads), np.arange(len(rows), dtype=np.int32)
        upper.append(Layer(rows, np.where(lists < 0, -1, rows[lists])))
    return upper


def _keep_far(lists: Int32s, layer: Layer, count: int) -> None:
    """Replace the last links of this layer's rows in `lists`, in place, by up to `count` of the last in `layer`; slots stay."""
    own, above = lists[layer.rows, :-1], layer.lists[:, ::-1]
    known = (above[:, :, None] == own[:, None, :]).any(axis=2)
    far = _packed(np.where(known, -1, above), count)
    near = np.arange(own.shape[1]) < own.shape[1] - (far >= 0).sum(axis=1)[:, None]
    lists[layer.rows, :-1] = _packed(np.column_stack([np.where(near, own, -1), far]), own.shape[1])


def _layer_lists(points: CodeRows, rows: Int32s, entry: int, settings: Settings, ops: Backend, threads: int) -> Int32s:
    """The lists of a graph over these rows, as places among them; all of it is reached from about `entry`."""
    codes, everyone = placed_codes(points.take(rows), ops), np.arange(len(rows), dtype=np.int32)
    lists = fresh_lists(codes, everyone, settings, ops, threads)
    root = np.searchsorted(rows, [entry]).astype(np.int32)
    repair(codes, lists, root, everyone, ops, threads)
    return _with_returns(_packed(lists, settings.degree + 1))


def _packed(lists: Int32s, width: int) -> Int32s:
    """int32 (r, width): the first `width` places in use of each list, then -1."""
    packed = np.full((len(lists), width), -1, np.int32)
    for start, stop in blocks(len(lists), BLOCK):
        there = lists[start:stop] >= 0
        places = there.cumsum(axis=1) - 1
        there &= places < width
        packed[start:stop][np.nonzero(there)[0], places[there]] = lists[start:stop][there]
    return packed


def _with_returns(lists: Int32s) -> Int32s:
    """The lists, in place, their free places filled with rows that lead there: those that rank the row highest first."""
    given, used, width = lists.copy(), (lists >= 0).sum(axis=1), lists.shape[1]
    for place in range(width):
        sources = np.flatnonzero(given[:, place] >= 0)
        targets = given[sources, place]
        open_ = used[targets] < width
        sources, targets = sources[open_], targets[open_]
        lacking = ~(lists[targets] == sources[:, None]).any(axis=1)
        sources, targets = sources[lacking], targets[lacking]
        order = np.argsort(targets, kind="stable")  # smaller sources first
        sources, targets = sources[order], targets[order]
        nodes, first, counts = np.unique(targets, return_index=True, return_counts=True)
        places = used[targets] + np.arange(len(targets)) - np.repeat(first, counts)
        fits = places < width
        lists[targets[fits], places[fits]] = sources[fits]
        used[nodes] = np.minimum(used[nodes] + counts, width)
    return lists


def _with_twins(lists: Int32s, twins: Twins | None) -> Int32s:
    """The lists, in place, in which twins are found: as a binary tree below their node, since it may be a tree of thousands.

    What a full list of a node loses to its two children, the farthest, the first child has: a twin's list is its node's from
    the far end.
    """
    if twins is None:
        return lists
    width, heads, rows = lists.shape[1], twins.heads, twins.rows
    nodes, first, sizes = np.unique(heads, return_index=True, return_counts=True)
    start, size = np.repeat(first, sizes), np.repeat(sizes, sizes)
    number = np.arange(len(rows)) - start + 1  # in the tree; the node itself is 0

    def member(wanted: NDArray[np.int64]) -> Int32s:
        """The row of this number in the tree of each pair, -1 where it has none."""
        inside = rows[np.minimum(start + wanted - 1, len(rows) - 1)]
        return np.where(wanted > size, -1, np.where(wanted == 0, heads, inside))

    far = lists[heads][:, ::-1]
    links = [member((number - 1) // 2), member(2 * number + 1), member(2 * number + 2)]
    lists[rows] = _packed(np.column_stack([*links, far]), width)
    children = [rows[first], np.where(sizes > 1, rows[np.minimum(first + 1, len(rows) - 1)], -1)]
    lists[nodes] = _packed(np.column_stack([*children, lists[nodes]]), width)
    return lists
