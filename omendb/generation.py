"""Generation: everything an index holds at one moment, never changed once it is made.

Adding and deleting give the next generation. A search works on the one it began with, without a lock, whatever the writer
does meanwhile. Only one writer at a time may derive a generation from another (`DB` sees to it).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from omendb_kernels import (
    BuildFacts,
    Graph,
    PointSet,
    Proof,
    Rows,
    as_count,
    as_mask,
    as_queries,
    as_vectors,
    build_graph,
    consolidate_graph,
    extend_graph,
    knn_certified,
    search_graph,
)

from .arrays import as_array, as_ids, as_keys, as_metadata
from .changes import Change
from .columns import Stream, Texts
from .errors import CorruptFile, DuplicateId, InvalidIds, OmenError, UnknownId
from .ids import IdKind, Ids, Keys, as_list
from .results import BuildReport, Metadata
from .snapshot import Arrays, Content, Facts, under

Progress = Callable[[str, int, int], None]

DEAD_SHARE = 0.1  # of the graph's rows: when more are deleted, their nodes leave


class Found(NamedTuple):
    """Distances float32 and rows int64, (m, c); the proof of exactness, None where there is none; "exact" or "graph"."""

    distances: NDArray[np.float32]
    rows: NDArray[np.int64]
    proof: Proof | None
    method: str


@dataclass(frozen=True)
class Generation:
    """metric; dim, dtype and id_kind, None until the first rows fix them; the rows, None while there are none.

    live: bool (rows,), False for deleted rows, None when all are live. next_row: the next running number for an id. graph:
    over the first rows; the later ones are its tail.
    """

    metric: str
    dim: int | None = None
    dtype: str | None = None
    id_kind: IdKind | None = None
    points: PointSet | None = None
    ids: Ids | None = None
    metadata: Texts | None = None
    live: NDArray[np.bool_] | None = None
    next_row: int = 0
    graph: Graph | None = None

    @cached_property
    def live_rows(self) -> NDArray[np.int64]:
        """The rows that are not deleted, in the order in which they were added."""
        return np.flatnonzero(self.live) if self.live is not None else np.arange(self.total, dtype=np.int64)

    @property
    def total(self) -> int:
        """Rows, deleted ones included."""
        return 0 if self.points is None else len(self.points)

    def __len__(self) -> int:
        return self.total if self.live is None else len(self.live_rows)

    @property
    def nbytes(self) -> int:
        parts = (self.points, self.ids, self.metadata, self.live, self.graph)
        return sum(part.nbytes for part in parts if part is not None)

    # --- reading -------------------------------------------------------------------------------------------------

    def find(self, keys: Keys) -> NDArray[np.int64]:
        """The row of each id, -1 where no live row has it."""
        if self.ids is None or len(self) == 0:
            return np.full(len(keys), -1, np.int64)
        rows = self.ids.find(keys)
        return rows if self.live is None else np.where((rows >= 0) & self.live[rows], rows, -1)

    def rows_of(self, keys: Keys) -> NDArray[np.int64]:
        """The rows of these ids; UnknownId for the first that is not there."""
        rows = self.find(keys)
        if (rows < 0).any():
            raise UnknownId(f"no row has the id {as_list(keys)[int(np.argmin(rows))]!r}")
        return rows

    def metadata_at(self, row: int) -> Metadata | None:
        """A row's metadata. Raises CorruptFile."""
        text = b"" if self.metadata is None else self.metadata[row]
        if not text:
            return None
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CorruptFile(f"the metadata of a row is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise CorruptFile("the metadata of a row is not an object")
        return value

    def judge_vectors(self, vectors: Any) -> Rows:
        """Rows that fit this index. Raises what `as_vectors` raises."""
        return as_vectors(vectors, metric=self.metric, dim=self.dim, dtype=self.dtype)

    def judge_queries(self, queries: Any) -> tuple[Rows, bool]:
        """Rows of queries, and whether one 1-D query came. Any dimension is right while no row has fixed it."""
        dim = self.dim
        if dim is None:
            try:
                shape = np.shape(queries)
            except ValueError:  # ragged, which as_queries says better
                shape = ()
            dim = max(1, shape[-1]) if shape else 1
        return as_queries(queries, metric=self.metric, dim=dim)

    def search(
        self, queries: Rows, k: int, mask: Any, threads: int, *, beam: int | None = None, exact: bool = False
    ) -> Found:
        """The nearest rows, (m, min(k, rows allowed)), by (distance, row): through the graph where there is one.

        mask: bool in the order of the live rows, or ids; None for all. exact: by the certified scan in any case.
        """
        allowed = self._allowed(mask)
        columns = min(k, self.total if allowed is None else int(np.count_nonzero(allowed)))
        if self.points is None or columns == 0 or len(queries) == 0:
            nothing = np.empty((len(queries), columns), np.float32)
            return Found(nothing, np.empty(nothing.shape, np.int64), Proof(), "exact")
        if self.graph is None or exact:
            found = Found(*knn_certified(queries, self.points, columns, mask=allowed, threads=threads), "exact")
        else:
            distances, rows, report = search_graph(
                self.graph, self.points, queries, columns, beam=beam, mask=allowed, threads=threads
            )
            found = Found(distances, rows, None, "exact" if report.scanned == len(queries) else "graph")
        if (found.rows < 0).any():  # fewer rows than there are: only where a file lied about its codes
            raise CorruptFile("the codes of the loaded file are damaged: a search missed rows; load it with verify=True")
        return found

    def _allowed(self, mask: Any) -> NDArray[np.bool_] | None:
        """bool (rows,): the live rows that a mask or ids allow; None for every row."""
        if mask is None:
            return self.live
        mask = as_array(mask, "mask")
        try:
            flags = np.asarray(mask).dtype == np.bool_
        except ValueError:  # ragged, which as_keys says better
            flags = False
        if flags:
            allowed = as_mask(mask, len(self))
            if self.live is None:
                return allowed
            rows = self.live_rows[allowed]
        else:
            rows = self.rows_of(as_keys(mask, self.id_kind, "mask"))
        scattered = np.zeros(self.total, np.bool_)
        scattered[rows] = True
        return scattered

    # --- the next generation -------------------------------------------------------------------------------------

    def adding(self, rows: Rows, ids: Any, metadata: Any) -> Change:
        """These judged rows with ids that are new. Raises InvalidIds, DuplicateId, InvalidMetadata."""
        kind, keys = as_ids(ids, len(rows), self.id_kind)
        texts = as_metadata(metadata, len(rows))
        if keys is None:
            keys = np.arange(self.next_row, self.next_row + len(rows), dtype=np.int64)
        else:
            self._refuse_known(keys)
        return Change("add", kind, keys, rows, texts)

    def upserting(self, rows: Rows, ids: Any, metadata: Any) -> Change:
        """These judged rows in the place of those that have their ids. Raises InvalidIds, DuplicateId, InvalidMetadata."""
        if ids is None or self.id_kind == "row":
            raise InvalidIds("ids", "none to replace by", "an index of integer or string ids, and one for each row")
        kind, keys = as_ids(ids, len(rows), self.id_kind)
        assert keys is not None
        return Change("upsert", kind, keys, rows, as_metadata(metadata, len(rows)))

    def deleting_rows(self, rows: NDArray[np.int64]) -> Change:
        """These live rows gone; a row that is named twice goes once."""
        if self.ids is None or len(rows) == 0:
            return Change("delete", self.id_kind or "int", np.empty(0, np.int64))
        gone = self.ids.take_keys(np.unique(rows))
        return Change("delete", self.ids.kind, gone.tolist() if self.ids.kind == "str" else gone)

    def applied(self, change: Change, *, threads: int, whole: bool = False, progress: Progress | None = None) -> Generation:
        """The generation after a change that was judged for this one.

        whole: these are all rows there will be for long: the codec is fitted to all of them, not to the first.
        """
        if len(change) == 0:
            return self
        if change.verb == "delete":
            return self._without(self.rows_of(change.keys), threads)
        if change.verb == "add":
            return self._with(change, threads, whole, progress)
        known = self.find(change.keys)
        return self._without(known[known >= 0], threads)._with(change, threads, whole, progress)

    def _with(self, change: Change, threads: int, whole: bool, progress: Progress | None) -> Generation:
        rows, keys, kind = change.rows, change.keys, change.kind
        assert rows is not None
        first = len(self) == 0
        graph = None if first else self.graph
        points = self._with_rows(rows, first, whole, threads, progress)
        return Generation(
            self.metric,
            rows.dim,
            rows.kind,
            kind,
            points,
            Ids.of(kind, keys) if first or self.ids is None else self.ids.append(keys),
            self._grown_metadata(change.texts, len(rows), first),
            None if first or self.live is None else np.concatenate([self.live, np.ones(len(rows), np.bool_)]),
            self.next_row if isinstance(keys, list) or kind != "row" else int(keys[-1]) + 1,
            None if graph is None else extend_graph(graph, points, threads=threads),
        )

    def _with_rows(self, rows: Rows, first: bool, whole: bool, threads: int, progress: Progress | None) -> PointSet:
        if whole:
            report = None if progress is None else lambda done, total: progress("encode", done, total)
            return PointSet.encode(rows, self.metric, threads=threads, progress=report)
        before = None if first else self.points
        if before is None:
            before = PointSet.empty(rows.dim, self.metric, rows.kind)
        return before.extend(rows, refit=self.graph is None, threads=threads)

    def indexed(self, least: int, recall: float, *, threads: int, progress: Progress | None) -> tuple[Generation, BuildFacts]:
        """The generation with a graph over all rows, tuned to this recall; without one where there are fewer than `least`."""
        if self.points is None or self.total < least:
            return replace(self, graph=None), BuildFacts()
        graph, points, facts = build_graph(self.points, recall=recall, threads=threads, progress=progress)
        return replace(self, points=points, graph=graph), facts

    def report(self, facts: BuildFacts, seconds: float) -> BuildReport:
        """What the build that made this generation did."""
        graph = self.graph
        phases = {phase: round(taken, 6) for phase, taken in facts.seconds.items()}
        if graph is None:
            return BuildReport(len(self), seconds, phases=phases)
        recall = None if math.isnan(graph.recall) else graph.recall
        return BuildReport(len(self), seconds, "graph", phases, recall, graph.beam, facts.repaired, facts.peak_bytes)

    def refitted(self, *, threads: int) -> Generation:
        """The live rows only, coded anew by a codec fitted to all of them, without a graph."""
        now = replace(self, graph=None).compacted(threads=threads)
        if now.points is None:
            return now
        return replace(now, points=PointSet.view(now.points.vectors, self.metric, threads=threads))

    def _refuse_known(self, keys: Keys) -> None:
        for i in np.flatnonzero(self.find(keys) >= 0).tolist():
            raise DuplicateId(f"ids[{i}]", f"{as_list(keys)[i]!r}, which is in the index", "ids that are not in the index yet")

    def _grown_metadata(self, texts: list[bytes] | None, n: int, first: bool) -> Texts | None:
        """A column only once a row has metadata; the rows before it then have none."""
        before = None if first else self.metadata
        if before is None and texts is None:
            return None
        if before is None:
            before = Texts.of(b"" for _ in range(0 if first else self.total))
        return before.append(texts or [b""] * n)

    def _without(self, rows: NDArray[np.int64], threads: int) -> Generation:
        if len(rows) == 0:
            return self
        live = np.ones(self.total, np.bool_) if self.live is None else self.live.copy()
        live[rows] = False
        return replace(self, live=live)._mended(threads)

    def _mended(self, threads: int) -> Generation:
        """The dead nodes of the graph gone, once they are many."""
        if self.graph is None or self.live is None or self.points is None:
            return self
        known = self.live[: self.graph.rows]
        if self.graph.needless(known) <= DEAD_SHARE * self.graph.present:
            return self
        return replace(self, graph=consolidate_graph(self.graph, self.points, known, threads=threads))

    def compacted(self, *, threads: int) -> Generation:
        """The generation with the deleted rows gone; itself when there are none."""
        if self.live is None or self.points is None or self.ids is None:
            return self
        rows = self.live_rows
        if len(rows) == 0:
            return replace(self, points=None, ids=None, metadata=None, live=None, graph=None)
        return replace(
            self,
            points=self.points.take(rows),
            ids=self.ids.take(rows),
            metadata=None if self.metadata is None else self.metadata.take(rows),
            live=None,
            graph=self._live_graph(threads),
        )

    def _live_graph(self, threads: int) -> Graph | None:
        """The graph of the live rows only, by their new numbers."""
        if self.graph is None or self.live is None or self.points is None:
            return self.graph
        whole = consolidate_graph(self.graph, self.points, self.live[: self.graph.rows], threads=threads)
        return None if whole is None else whole.take(self.live_rows)

    # --- leaving and coming back ---------------------------------------------------------------------------------

    def state(self, *, threads: int) -> tuple[Facts, Content]:
        """JSON facts and named arrays of the live rows, all that `restore` needs. Rows are copied only as they are written."""
        facts: Facts = {
            "metric": self.metric,
            "dim": self.dim,
            "dtype": self.dtype,
            "ids": self.id_kind,
            "next_row": self.next_row,
            "rows": len(self),
        }
        content: dict[str, Any] = {}
        if len(self) == 0 or self.points is None or self.ids is None:
            return facts, content
        rows = None if self.live is None else self.live_rows
        facts["points"], points = _state_of(self.points, rows)
        if not math.isfinite(facts["points"]["max_length"]):
            raise CorruptFile("the lengths of the loaded file are damaged; load it with verify=True")
        content |= {f"points.{name}": array for name, array in points.items()}
        ids = self.ids if rows is None else self.ids.take(rows)
        content |= {f"ids.{name}": array for name, array in ids.arrays().items()}
        if (graph := self._live_graph(threads)) is not None:
            facts["graph"], lists = graph.state()
            content |= {f"graph.{name}": array for name, array in lists.items()}
        if self.metadata is not None:
            texts = self.metadata.arrays() if rows is None else self.metadata.streams(rows)
            content |= {f"metadata.{name}": array for name, array in texts.items()}
        return facts, content

    @classmethod
    def restore(cls, facts: Facts, arrays: Arrays) -> Generation:
        """The generation that `state` described; arrays are used in place. ValueError where they contradict each other."""
        try:
            return cls._restore(facts, arrays)
        except (KeyError, TypeError, OverflowError, RecursionError, OmenError) as error:  # of numbers and lists beyond reason
            raise ValueError(f"not the state of an index: {error!r}") from error

    @classmethod
    def _restore(cls, facts: Facts, arrays: Arrays) -> Generation:
        metric, dim, dtype, kind = facts["metric"], facts["dim"], facts["dtype"], facts["ids"]
        PointSet.empty(1 if dim is None else dim, metric, "float32" if dtype is None else dtype)  # judges all three
        if kind not in (None, "row", "int", "str"):
            raise ValueError("an unknown kind of ids")
        next_row = as_count(facts["next_row"], "next_row", 0, 2**62)  # far from where adding rows would overflow
        rows = as_count(facts["rows"], "rows", 0)
        empty = cls(metric, dim, dtype, kind, next_row=next_row)
        if rows == 0:
            return empty
        points = PointSet.restore(facts["points"], under("points.", arrays))
        if (points.metric, points.dim, points.kind, len(points)) != (metric, dim, dtype, rows):
            raise ValueError("the rows are not what the facts say")
        if not 0 <= points.max_length < math.inf:
            raise ValueError("the longest row is of an impossible length")
        if kind is None:
            raise ValueError("rows without ids")
        ids = Ids.restore(kind, under("ids.", arrays), rows, next_row)
        texts = under("metadata.", arrays)
        metadata = Texts.restore(texts["bytes"], texts["offsets"], rows) if texts else None
        graph = Graph.restore(facts["graph"], under("graph.", arrays), rows) if "graph" in facts else None
        if graph is not None and points.codec is None:
            raise ValueError("a graph over rows without codes")
        return replace(empty, points=points, ids=ids, metadata=metadata, graph=graph)


def _state_of(points: PointSet, rows: NDArray[np.int64] | None) -> tuple[Facts, Content]:
    """What `points.take(rows).state()` would give, without the copy; None: of all rows."""
    facts, arrays = points.state()
    if rows is None:
        return facts, arrays
    longest = float(arrays["lengths"][rows].max()) if points.metric == "ip" else 0.0
    whole = ("offset", "signs")  # of the codec, not of rows
    taken = {name: array if name in whole else Stream.taking(array, rows) for name, array in arrays.items()}
    return {**facts, "rows": len(rows), "max_length": longest}, taken
