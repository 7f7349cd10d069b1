"""build: a whole graph at once. Partition, pick, prune, link, prune (PiPNN, arXiv 2602.21247), repair, and the beam tuned on
rows that were held back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .. import exact as exact_search
from ..codec import sample_rows
from ..contract import Backend, CodeRows, Int32s
from ..dispatch import backend
from ..parallel import blocks
from .graph import FEW, MAX_BEAM, PER_ENTRANCE, Graph, ids_of, no_lists, nodes_of
from .insert import attach, pools_of
from .partition import leaves
from .place import fetched, placed, placed_codes
from .repair import repair
from .router import router_of
from .search import search
from .settings import Settings
from .twins import heads_of

if TYPE_CHECKING:
    from ..points import PointSet

Progress = Callable[[str, int, int], None]

SAMPLE, SAMPLE_SHARE, LEAST_SAMPLE, SAMPLE_ITEM = 256, 50, 16, 4  # rows held back: at most 256, one in 50; their hash
LEAST_ROUTER = 256  # a smaller one saves nothing
TUNED_K = 10
LEAST_BEAM = 20  # a pool of little more than k rests on luck where many queries are alike
UNTUNED_BEAM = 64  # at least, where too few rows could be held back
PARTS, LEAST_PART = 12, 16_384  # nodes are pruned and linked in so many parts, of so many at least: candidates take memory
LADDER = 1.15  # each beam tried is so much larger than the one before


@dataclass
class BuildFacts:
    """What a build did: seconds by phase, links that repair made, the largest sum of array bytes it held at once."""

    seconds: dict[str, float] = field(default_factory=dict)
    repaired: int = 0
    peak_bytes: int = 0


class _Clock:
    """Times the phases and tells them to the caller."""

    def __init__(self, facts: BuildFacts, progress: Progress | None) -> None:
        self.facts, self.progress = facts, progress
        self.start = time.perf_counter()

    def begin(self, phase: str) -> None:
        """Tell the caller that a phase begins."""
        if self.progress is not None:
            self.progress(phase, 0, 1)

    def lap(self, phase: str, nbytes: int = 0) -> None:
        """A phase has ended; nbytes: arrays that it held."""
        now = time.perf_counter()
        self.facts.seconds[phase] = self.facts.seconds.get(phase, 0.0) + now - self.start
        self.facts.peak_bytes = max(self.facts.peak_bytes, nbytes)
        self.start = now
        if self.progress is not None:
            self.progress(phase, 1, 1)


def build(
    points: PointSet, recall: float, settings: Settings, *, threads: int, progress: Progress | None = None
) -> tuple[Graph, BuildFacts]:
    """A graph over all rows of `points` (with a codec), its beam tuned to this recall@10, and what the build did.

    The same rows give the same bytes for any `threads` and backend. progress(phase, done, total) is told of each phase.
    """
    ops, total = backend(), len(points)
    facts = BuildFacts()
    clock = _Clock(facts, progress)
    clock.begin("twins")
    heads = heads_of(points.nodes, np.arange(total, dtype=np.int32))
    nodes = nodes_of(heads, total)
    held = np.sort(nodes[sample_rows(len(nodes), min(SAMPLE, len(nodes) // SAMPLE_SHARE), SAMPLE_ITEM)])
    if len(held) < LEAST_SAMPLE:
        held = held[:0]
    base = np.setdiff1d(nodes, held, assume_unique=True).astype(np.int32)
    codes = placed_codes(points.nodes, ops)
    clock.lap("twins")
    neighbours = fresh_lists(codes, base, settings, ops, threads, clock, points.nbytes)
    clock.begin("repair")
    router = router_of(codes, neighbours, base, settings.router, settings, ops, threads)
    facts.repaired = repair(codes, neighbours, router, base, ops, threads)
    clock.lap("repair")
    # What is held back is not there yet, and neither are its twins.
    away = np.isin(heads, held)
    untuned = max(UNTUNED_BEAM, len(nodes))  # so few nodes are cheap: all of them
    graph = Graph(settings, neighbours, router, np.where(away, -1, heads).astype(np.int32), untuned, math.nan)
    if len(held):
        clock.begin("tune")
        graph = _tuned(graph, points, codes, held, ~away, recall, ops, threads)
        clock.lap("tune")
        clock.begin("insert")
        attach(codes, neighbours, held, pools_of(graph, codes, held, ops, threads), settings, ops, threads)
        facts.repaired += repair(codes, neighbours, router, nodes, ops, threads)
        clock.lap("insert")
    graph = replace(graph, neighbours=neighbours, heads=None if len(nodes) == total else heads)
    return graph, facts


def fresh_lists(
    codes: CodeRows, nodes: Int32s, settings: Settings, ops: Backend, threads: int, clock: _Clock | None = None, held: int = 0
) -> Int32s:  # fmt: skip
    """int32 (n, degree + 1): the lists of `nodes`, their reserved slots free. held: bytes that the caller holds."""
    clock = clock or _Clock(BuildFacts(), None)
    clock.begin("partition")
    if len(nodes) <= settings.small:
        members, offsets, k = nodes, np.array([0, len(nodes)], np.int64), settings.small_k
    else:
        members, offsets = leaves(codes, nodes, settings, ops, threads)
        k = settings.pick_k
    clock.lap("partition", held + members.nbytes)
    clock.begin("pick")
    members, offsets = placed(members, ops), placed(offsets, ops)
    reservoir = ops.pick(codes, members, offsets, k, settings.reservoir, threads=threads)
    clock.lap("pick", held + members.nbytes + reservoir.nbytes)
    del members, offsets  # a third of what a build holds
    codes, placed_nodes = placed_codes(codes, ops), placed(nodes, ops)
    parts = list(blocks(len(nodes), max(LEAST_PART, -(-len(nodes) // PARTS))))
    # What is kept is written over the reservoirs it came from: it is never longer than what was read before it.
    room = reservoir
    if settings.reservoir < settings.degree:
        room = placed(np.empty((len(nodes), settings.degree), np.int64), ops)
    kept = room.ravel()[: len(nodes) * settings.degree].reshape(len(nodes), settings.degree)
    clock.begin("prune")
    for start, stop in parts:
        pruned = ops.prune(codes, reservoir[placed_nodes[start:stop]], settings.degree, settings.alpha, threads=threads)
        kept[start:stop] = pruned
    clock.lap("prune", held + reservoir.nbytes + (settings.reservoir + settings.degree) * 8 * len(pruned))
    neighbours = no_lists(len(codes.codes), settings)
    held += reservoir.nbytes + neighbours.nbytes
    for start, stop in parts:
        some = placed_nodes[start:stop]
        clock.begin("link")
        linked = ops.link(some, kept[start:stop], placed_nodes, kept, settings.reservoir, threads=threads)
        clock.lap("link", held + linked.nbytes)
        clock.begin("prune")
        pruned = ops.prune(codes, linked, settings.degree, settings.alpha, threads=threads)
        neighbours[nodes[start:stop], :-1] = ids_of(fetched(pruned))
        clock.lap("prune", held + linked.nbytes + pruned.nbytes)
        del linked, pruned  # before the next part makes its own
    return neighbours


def _tuned(
    graph: Graph, points: PointSet, codes: CodeRows, held: Int32s, there: NDArray[np.bool_], recall: float,
    ops: Backend, threads: int,
) -> Graph:  # fmt: skip
    """The graph with the smallest beam of a ladder, from LEAST_BEAM on, that reaches this recall@10 on the rows held back, and
    with the smallest router that does so at that beam.

    It is reached where the mean is above it by its own standard error: the sample is small.
    """
    queries = points.vectors[held.astype(np.int64)]
    k = min(TUNED_K, int(there.sum()))
    truth, _, _ = exact_search.search(points, queries, k, there, exact=True, threads=threads)

    def reached(graph: Graph) -> tuple[bool, Graph]:
        distances, _, _ = search(graph, points, queries, k, None, graph.beam, threads=threads)
        hits: list[int] = (distances <= truth[:, -1:]).sum(axis=1).tolist()
        # In whole numbers as far as can be: the same decision on every machine.
        total, squares, m = sum(hits), sum(hit * hit for hit in hits), len(hits)
        error = math.sqrt((squares * m - total * total) / m**3) / k
        return total / (m * k) - error >= recall, replace(graph, recall=total / (m * k))

    graph = replace(graph, beam=LEAST_BEAM)
    while True:
        enough, graph = reached(graph)
        if enough or graph.beam >= MAX_BEAM // 8 or graph.beam >= len(points):
            break
        graph = replace(graph, beam=math.ceil(graph.beam * LADDER))
    count = len(graph.router)
    while enough and graph.rows >= FEW and count // 2 >= max(LEAST_ROUTER, len(points) / PER_ENTRANCE):
        count //= 2
        router = router_of(codes, graph.neighbours, graph.nodes, count, graph.settings, ops, threads)
        enough, smaller = reached(replace(graph, router=router))
        graph = smaller if enough else graph
    return graph
