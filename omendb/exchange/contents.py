"""Contents: what goes into a foreign file: float32 rows, integer ids, and the graph with upper layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omendb_kernels import Hnsw, PointSet, build_graph, layer_graph

from ..errors import InvalidIds, InvalidInput
from ..generation import Generation

BLOCK = 1 << 14  # rows that are written at a time


@dataclass(frozen=True, eq=False)
class Contents:
    """points: n rows; ids: int64 (n,); hnsw: over them; beam: what a search needs for the recall the graph was tuned to."""

    points: PointSet
    ids: NDArray[np.int64]
    hnsw: Hnsw
    beam: int

    @classmethod
    def of(cls, now: Generation, call: str, *, threads: int) -> Contents:
        """The live rows. A graph is built where there is none. Raises InvalidIds for string ids, InvalidInput for no rows."""
        if now.id_kind == "str":
            raise InvalidIds("ids", "strings", f"integers, or rows that the database numbers: the file of {call} has no others")
        now = now.compacted(threads=threads)
        if now.points is None or now.ids is None:
            raise InvalidInput(call, "a database without rows", "at least one row")
        points, graph = now.points, now.graph
        if graph is None:
            graph, points, _ = build_graph(points, threads=threads)
        ids = now.ids.take_keys(np.arange(now.total))
        return cls(points, ids, layer_graph(graph, points, threads=threads), graph.beam)

    def blocks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Rows in order, float32 (b, d); of length one under cosine, rounded once."""
        for start in range(0, len(self.points), BLOCK):
            here = slice(start, start + BLOCK)
            rows = self.points.vectors[here].float32()
            if self.points.metric == "cosine":
                assert self.points.lengths is not None
                rows = (rows.astype(np.float64) / self.points.lengths[here, None]).astype(np.float32)
            yield here, rows
