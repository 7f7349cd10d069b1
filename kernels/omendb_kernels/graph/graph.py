"""Graph: the lists of all nodes and where a search enters them. One generation, never changed once it is made."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import aligned_empty, as_count
from ..contract import NO_KEY, CodeRows, Int32s, Int64s
from .settings import Settings

MAX_BEAM = 1 << 16
PER_ENTRANCE = 64  # nodes for each of the router at most, where it is chosen smaller than the settings say
FEW = 12_800  # rows: for fewer the sample is too small to tell whether a smaller router does


@dataclass(frozen=True, eq=False)
class Graph:
    """A graph over the first `rows` rows of a PointSet.

    neighbours: int32 (rows, degree + 1), -1 = none; nearest first, the last column is the slot that connects. router: int32
    (e,), ascending nodes. heads: int32 (rows,), the node that stands for each row: itself, the smallest row of equal code, or
    -1 for a row that has left; None when every row is a node. beam: the default of a search; recall: what it reached on the
    held-back sample when it was tuned, NaN where there were too few rows to measure.
    """

    settings: Settings
    neighbours: Int32s
    router: Int32s
    heads: Int32s | None
    beam: int
    recall: float

    @property
    def rows(self) -> int:
        """Rows the graph knows; later ones are its tail."""
        return len(self.neighbours)

    @property
    def nbytes(self) -> int:
        return self.neighbours.nbytes + self.router.nbytes + (0 if self.heads is None else self.heads.nbytes)

    @functools.cached_property
    def present(self) -> int:
        """Rows that have not left."""
        return self.rows if self.heads is None else int(np.count_nonzero(self.heads >= 0))

    def needless(self, live: NDArray[np.bool_]) -> int:
        """How many of its rows are not `live`, bool (rows,), nor the node of one that is: those that could leave."""
        if self.heads is None:
            return self.rows - int(np.count_nonzero(live))
        needed = live.copy()
        needed[self.heads[live]] = True
        return self.present - int(np.count_nonzero(needed))

    @functools.cached_property
    def nodes(self) -> Int32s:
        """The rows that are nodes, ascending."""
        return nodes_of(self.heads, self.rows)

    @functools.cached_property
    def twins(self) -> Twins | None:
        """The rows that share a node with a smaller one; None when there are none."""
        if self.heads is None:
            return None
        rows = np.flatnonzero((self.heads >= 0) & (self.heads != np.arange(self.rows))).astype(np.int32)
        if not len(rows):
            return None
        order = np.argsort(self.heads[rows], kind="stable")
        return Twins(self.heads[rows][order], rows[order])

    def entrance(self, points: CodeRows) -> CodeRows:
        """The router's rows of `points`, which are those of this graph: gathered once for nodes, once for queries."""
        kind = points.wide is None
        if kind not in self._entrances:
            self._entrances[kind] = points.take(self.router)
        return self._entrances[kind]

    @functools.cached_property
    def shortcut(self) -> dict[str, Any]:
        """What search.py last prepared a shortcut for: (points, ops, search) in one, so that threads see all or none."""
        return {}

    @functools.cached_property
    def _entrances(self) -> dict[bool, CodeRows]:
        return {}

    def take(self, rows: NDArray[np.int64]) -> Graph:
        """The graph over the chosen rows only, renumbered: ascending, and all others have left it (`consolidate_graph`)."""
        rows = rows[rows < self.rows]
        own = rows.astype(np.int32) if self.heads is None else self.heads[rows]
        nodes, first = np.unique(own, return_index=True)  # the smallest chosen row behind a node stands for it from now on
        place = np.full(self.rows, -1, np.int32)
        place[nodes] = first
        neighbours = no_lists(len(rows), self.settings)
        lists = self.neighbours[nodes]
        neighbours[first] = np.where(lists < 0, -1, place[lists])
        heads = None if len(nodes) == len(rows) else place[own]
        return replace(self, neighbours=neighbours, router=np.sort(place[self.router]), heads=heads)

    # ---- leaving and coming back -----------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Facts for JSON and named arrays, all that `restore` needs."""
        arrays: dict[str, NDArray[Any]] = {"neighbours": self.neighbours, "router": self.router}
        if self.heads is not None:
            arrays["heads"] = self.heads
        recall = None if math.isnan(self.recall) else self.recall
        return {"settings": self.settings.facts(), "beam": self.beam, "recall": recall}, arrays

    @classmethod
    def restore(cls, facts: dict[str, Any], arrays: dict[str, NDArray[Any]], rows: int) -> Graph:
        """The graph that `state` described, over at most `rows` rows; arrays are used in place.

        Raises ValueError, KeyError or TypeError where facts, arrays and rows do not fit each other. Node numbers are checked:
        a search of a damaged graph finds wrong rows, but never reaches outside the arrays. Cost: one pass over the lists.
        """
        settings = Settings.of(facts["settings"])
        beam = as_count(facts["beam"], "beam", 1, MAX_BEAM)
        recall = math.nan if facts["recall"] is None else facts["recall"]
        if not (isinstance(recall, (int, float)) and (recall != recall or 0 <= recall <= 1)):  # NaN
            raise ValueError("a recall that is no share")
        neighbours, router, heads = arrays["neighbours"], arrays["router"], arrays.get("heads")
        known = len(neighbours)
        if neighbours.dtype != np.int32 or neighbours.shape != (known, settings.degree + 1) or not 1 <= known <= rows:
            raise ValueError("neighbours of the wrong dtype or shape")
        if router.dtype != np.int32 or router.ndim != 1 or not 1 <= len(router) <= known:
            raise ValueError("a router of the wrong dtype or shape")
        if heads is not None and (heads.dtype != np.int32 or heads.shape != (known,)):
            raise ValueError("heads of the wrong dtype or shape")
        for name, array, least in (("neighbours", neighbours, -1), ("router", router, 0), ("heads", heads, -1)):
            if array is not None and not (least <= int(array.min()) and int(array.max()) < known):
                raise ValueError(f"{name} that name rows which do not exist")
        return cls(settings, neighbours, router, heads, beam, recall)


@dataclass(frozen=True)
class Twins:
    """Pairs of (node, further row of equal code), ordered by both."""

    heads: Int32s
    rows: Int32s

    def among(self, allowed: NDArray[np.bool_]) -> Twins:
        """Those whose further row is allowed."""
        kept = allowed[self.rows]
        return Twins(self.heads[kept], self.rows[kept])


def no_lists(rows: int, settings: Settings) -> Int32s:
    """int32 (rows, degree + 1): a graph without an edge."""
    lists: Int32s = aligned_empty((rows, settings.degree + 1), np.int32)
    lists[:] = -1
    return lists


def nodes_of(heads: Int32s | None, rows: int) -> Int32s:
    """The rows that are their own heads, ascending."""
    everyone = np.arange(rows, dtype=np.int32)
    return everyone if heads is None else everyone[heads == everyone]


def ids_of(keys: Int64s) -> Int32s:
    """int32 ids of keys, -1 for NO_KEY."""
    return np.where(keys == NO_KEY, -1, keys & 0xFFFFFFFF).astype(np.int32)
