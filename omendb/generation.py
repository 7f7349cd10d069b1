"""Generation: everything an index holds at one moment, never changed once it is made.

Adding and deleting give the next generation. A search works on the one it began with, without a lock, whatever the writer
does meanwhile. Only one writer at a time may derive a generation from another (`DB` sees to it).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omendb_kernels import (
    PointSet,
    Proof,
    Rows,
    as_count,
    as_mask,
    as_queries,
    as_vectors,
    knn_certified,
)

from .arrays import as_ids, as_metadata
from .columns import Texts
from .errors import CorruptFile, DuplicateId, OmenError, UnknownId
from .ids import IdKind, Ids, Keys, as_list
from .snapshot import Arrays, Facts

Progress = Callable[[int, int], None]

_PROGRESS_ROWS = 16_384  # coded between two reports of progress


@dataclass(frozen=True)
class Generation:
    """metric; dim, dtype and id_kind, None until the first rows fix them; the rows, None while there are none.

    live: bool (rows,), False for deleted rows, None when all are live. next_row: the next running number for an id.
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
        parts = (self.points, self.ids, self.metadata, self.live)
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

    def metadata_at(self, row: int) -> bytes:
        """The JSON of a row's metadata, b"" for none."""
        return b"" if self.metadata is None else self.metadata[row]

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

    def search(self, queries: Rows, k: int, mask: Any, threads: int) -> tuple[NDArray[np.float32], NDArray[np.int64], Proof]:
        """Distances and rows (m, min(k, rows allowed)), by (distance, row), and the proof of their exactness."""
        allowed = as_mask(mask, len(self))
        if allowed is not None and self.live is not None:
            scattered = np.zeros(self.total, np.bool_)
            scattered[self.live_rows] = allowed
            allowed = scattered
        allowed = self.live if allowed is None else allowed
        columns = min(k, self.total if allowed is None else int(np.count_nonzero(allowed)))
        if self.points is None or columns == 0 or len(queries) == 0:
            nothing = np.empty((len(queries), columns), np.float32)
            return nothing, np.empty(nothing.shape, np.int64), Proof()
        distances, found, proof = knn_certified(queries.native(), self.points, columns, mask=allowed, threads=threads)
        if (found < 0).any():  # fewer rows than there are: only where a file lied about its codes
            raise CorruptFile("the codes of the loaded file are damaged: a search missed rows; load it with verify=True")
        return distances, found, proof

    # --- the next generation -------------------------------------------------------------------------------------

    def add(
        self, rows: Rows, ids: Any, metadata: Any, *, threads: int, progress: Progress | None = None
    ) -> tuple[Generation, Keys]:
        """The generation with these judged rows behind, and their ids, which are judged before anything is made."""
        kind, keys = as_ids(ids, len(rows), self.id_kind)
        texts = as_metadata(metadata, len(rows))
        if keys is None:
            keys = np.arange(self.next_row, self.next_row + len(rows), dtype=np.int64)
        else:
            self._refuse_known(keys)
        if len(rows) == 0:
            return self, keys
        first = len(self) == 0
        before = None if first else self.points
        if before is None:
            before = PointSet.empty(rows.dim, self.metric, rows.kind)
        grown = Generation(
            self.metric,
            rows.dim,
            rows.kind,
            kind,
            _extended(before, rows, threads, progress),
            Ids.of(kind, keys) if first or self.ids is None else self.ids.append(keys),
            self._grown_metadata(texts, len(rows), first),
            None if first or self.live is None else np.concatenate([self.live, np.ones(len(rows), np.bool_)]),
            self.next_row + (len(rows) if kind == "row" else 0),
        )
        return grown, keys

    def _refuse_known(self, keys: Keys) -> None:
        known = np.flatnonzero(self.find(keys) >= 0)
        if known.size:
            i = int(known[0])
            raise DuplicateId(f"ids[{i}]", f"{as_list(keys)[i]!r}, which is in the index", "ids that are not in the index yet")

    def _grown_metadata(self, texts: list[bytes] | None, n: int, first: bool) -> Texts | None:
        """A column only once a row has metadata; the rows before it then have none."""
        before = None if first else self.metadata
        if before is None and texts is None:
            return None
        if before is None:
            before = Texts.of(b"" for _ in range(0 if first else self.total))
        return before.append(texts or [b""] * n)

    def delete(self, keys: Keys) -> tuple[Generation, int]:
        """The generation without these ids, and how many rows that were. UnknownId when one is not there."""
        rows = np.unique(self.rows_of(keys))
        if len(rows) == 0:
            return self, 0
        live = np.ones(self.total, np.bool_) if self.live is None else self.live.copy()
        live[rows] = False
        return replace(self, live=live), len(rows)

    def compacted(self) -> Generation:
        """The generation with the deleted rows gone; itself when there are none."""
        if self.live is None or self.points is None or self.ids is None:
            return self
        rows = self.live_rows
        if len(rows) == 0:
            return replace(self, points=None, ids=None, metadata=None, live=None)
        metadata = None if self.metadata is None else self.metadata.take(rows)
        return replace(self, points=self.points.take(rows), ids=self.ids.take(rows), metadata=metadata, live=None)

    # --- leaving and coming back ---------------------------------------------------------------------------------

    def state(self) -> tuple[Facts, Arrays]:
        """JSON facts and named arrays of the live rows, all that `restore` needs."""
        now = self.compacted()
        facts: Facts = {
            "metric": now.metric,
            "dim": now.dim,
            "dtype": now.dtype,
            "ids": now.id_kind,
            "next_row": now.next_row,
            "rows": now.total,
        }
        arrays: Arrays = {}
        if now.points is not None and now.ids is not None:
            facts["points"], points = now.points.state()
            if not math.isfinite(now.points.max_length):
                raise CorruptFile("the lengths of the loaded file are damaged; load it with verify=True")
            arrays |= {f"points.{name}": array for name, array in points.items()}
            arrays |= {f"ids.{name}": array for name, array in now.ids.arrays().items()}
        if now.metadata is not None:
            arrays |= {f"metadata.{name}": array for name, array in now.metadata.arrays().items()}
        return facts, arrays

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
        points = PointSet.restore(facts["points"], _under("points.", arrays))
        if (points.metric, points.dim, points.kind, len(points)) != (metric, dim, dtype, rows):
            raise ValueError("the rows are not what the facts say")
        if not 0 <= points.max_length < math.inf:
            raise ValueError("the longest row is of an impossible length")
        if kind is None:
            raise ValueError("rows without ids")
        ids = Ids.restore(kind, _under("ids.", arrays), rows, next_row)
        texts = _under("metadata.", arrays)
        metadata = Texts.restore(texts["bytes"], texts["offsets"], rows) if texts else None
        return replace(empty, points=points, ids=ids, metadata=metadata)


def _extended(points: PointSet, rows: Rows, threads: int, progress: Progress | None) -> PointSet:
    """Always `extend`, the first time too: how calls cut the rows must not show in the codes."""
    step = len(rows) if progress is None else _PROGRESS_ROWS
    for start in range(0, len(rows), step):
        points = points.extend(rows[start : start + step], threads=threads)
        if progress is not None:
            progress(min(start + step, len(rows)), len(rows))
    return points


def _under(prefix: str, arrays: Arrays) -> Arrays:
    """The arrays whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
