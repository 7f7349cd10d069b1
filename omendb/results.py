"""What the database gives back: small values without behaviour of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omendb_kernels import Plan, Proof

from .extras import needed
from .ids import IdKind, Key

Metadata = dict[str, Any]


@dataclass(frozen=True, eq=False)
class SearchResults:
    """The nearest rows, nearest first; equal distances in the order in which the rows were added.

    ids: int64, or objects of str; distances: float32. Both of shape (c,) for one query and (m, c) for m queries,
    c = min(k, rows allowed). metadata: a list (of lists) of the same shape, None unless it was asked for.
    method: "exact" where all answers are certified, "graph" where the graph was searched. proof: how exactness was proved,
    None unless `explain=True` and the method is "exact". plan: what computed the answer and why, how long that was expected to
    take and took, and what else could have; None unless `explain=True`, or where nothing had to be computed.

    One query: iteration gives (id, distance), or (id, distance, metadata). Many: iteration gives one SearchResults each.
    A slice gives SearchResults.
    """

    ids: NDArray[Any]
    distances: NDArray[np.float32]
    metadata: list[Any] | None = None
    proof: Proof | None = None
    method: str = "exact"
    plan: Plan | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int | slice) -> Any:
        metadata = None if self.metadata is None else self.metadata[i]
        if self.ids.ndim == 2 or isinstance(i, slice):
            return SearchResults(self.ids[i], self.distances[i], metadata, method=self.method)
        key, distance = self.ids[i], float(self.distances[i])
        key = key if isinstance(key, str) else int(key)
        return (key, distance) if self.metadata is None else (key, distance, metadata)

    def to_list(self) -> list[Any]:
        """A dict for each row found: id, distance, and metadata where it was asked for. Many queries: a list of such lists."""
        if self.ids.ndim == 2:
            return [one.to_list() for one in self]
        columns = self._columns()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def to_arrow(self) -> Any:
        """A pyarrow.Table with a row for each row found: id (int64 or string), distance (float32), metadata (JSON as string).

        Of many queries, before these: query (int64), the number of the query. Raises MissingLibrary (the extra "arrow").
        """
        pa = needed("pyarrow", "arrow")
        columns = self._columns()
        if "metadata" in columns:
            texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in columns["metadata"]]
            columns["metadata"] = pa.array(texts, pa.string())
        keys = pa.string() if self.ids.dtype == object else pa.int64()
        distances = pa.array(self.distances.ravel(), pa.float32())
        return pa.table({**columns, "id": pa.array(columns["id"], keys), "distance": distances})

    def to_pandas(self) -> Any:
        """A pandas.DataFrame of the columns of `to_arrow`; metadata are dicts. Raises MissingLibrary (the extra "arrow")."""
        pandas = needed("pandas", "arrow")
        columns = self._columns()
        if "metadata" in columns:
            columns["metadata"] = pandas.Series(columns["metadata"], dtype=object)
        return pandas.DataFrame({**columns, "distance": self.distances.ravel()})

    def _columns(self) -> dict[str, Any]:
        """Plain lists with an entry for each row found."""
        columns: dict[str, Any] = {"id": self.ids.ravel().tolist(), "distance": self.distances.ravel().tolist()}
        if self.ids.ndim == 2:
            m, c = self.ids.shape
            columns = {"query": np.repeat(np.arange(m), c).tolist(), **columns}
        if self.metadata is not None:
            columns["metadata"] = [row for line in self.metadata for row in line] if self.ids.ndim == 2 else self.metadata
        return columns


@dataclass(frozen=True, eq=False)
class Record:
    """One row as it was given: its id, its vector (d,) in its own dtype, its metadata."""

    id: Key
    vector: NDArray[Any]
    metadata: Metadata | None


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    rows; seconds of the wall clock, and by phase; index: "graph" or "flat"; recall@10 on rows held back while the beam was
    tuned, and that beam; repaired: links that made unreachable nodes reachable; peak_bytes: of the arrays held at once.
    """

    rows: int
    seconds: float
    index: str = "flat"
    phases: dict[str, float] = field(default_factory=dict)
    recall: float | None = None
    beam: int | None = None
    repaired: int = 0
    peak_bytes: int = 0

    @property
    def rows_per_second(self) -> float:
        return self.rows / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class Stats:
    """Facts about a database.

    rows: live ones; deleted: rows that still take space until the next save; dim and dtype: None until the first rows fix
    them; ids: their kind, likewise; nbytes: vectors, codes, ids and metadata, mapped or in memory; codec: scale, bounds
    and so on, None while rows are searched without codes; graph: beam, recall, settings, rows inside and rows in the tail,
    None without one; path and file_bytes: of the file that was loaded or the folder that is open, else None.
    """

    rows: int
    deleted: int
    dim: int | None
    metric: str
    dtype: str | None
    ids: IdKind | None
    index: str
    nbytes: int
    codec: dict[str, Any] | None
    graph: dict[str, Any] | None
    path: str | None
    file_bytes: int | None


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found.

    problems: one line for each, none when all is well; rows: live ones; changes: in the journal of a folder, behind its
    snapshot; nbytes: that were read and compared with their hashes.
    """

    problems: tuple[str, ...]
    rows: int
    changes: int = 0
    nbytes: int = 0

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(frozen=True)
class RepairReport:
    """What `repair` saved and what it could not.

    rows: saved, each as it was; lost_rows: of the snapshot, and of the changes that could be read, that did not verify;
    lost_changes: in the journal that could not be read, of unknown size. problems: one line for each. Where changes are lost,
    rows that they deleted or replaced may be back.
    """

    rows: int
    lost_rows: int
    lost_changes: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems
