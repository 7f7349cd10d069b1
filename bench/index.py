"""One face for ours and for other libraries' indexes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

import omendb


class Index(Protocol):
    """A built index. `tune` once, then `search` or `single`: what it costs to set a parameter is in no time.

    package: what pip installs; module: what Python imports; metrics: those it is run under here.
    """

    package: str
    module: str
    metrics: tuple[str, ...]

    @staticmethod
    def form(rows: np.ndarray, metric: str) -> np.ndarray:
        """Rows or queries (n, d) as the library takes them, made outside any timer."""
        ...

    @classmethod
    def build(cls, rows: np.ndarray, metric: str, threads: int) -> Index:
        """Index rows (n, d) that `form` made."""
        ...

    def tune(self, effort: int, threads: int) -> None:
        """effort: the beam, ef or window of the searches to come; threads: of a batch."""
        ...

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Ids (m, k) of queries (m, d) that `form` made; below 0 where none was found."""
        ...

    def single(self, query: np.ndarray, k: int) -> Any:
        """Whatever the library answers to one query (d,), by its shortest way; one thread when tuned to one."""
        ...

    def save(self, path: Path) -> None:
        """Write to `path`, a file or folder that is not there yet. Its bytes are told as the size of the index."""
        ...

    @classmethod
    def load(cls, path: Path, rows: np.ndarray, metric: str) -> Index:
        """What `save` wrote. rows: some that `form` made, for their dimension and dtype."""
        ...


@runtime_checkable
class Filtered(Protocol):
    """An index that can be asked for some rows only. `tune` as for `search`, `allow` once for a mask, then `masked`.

    filter: what its filter is, and what else the reader of its speed should know.
    """

    filter: str

    def allow(self, mask: np.ndarray) -> Any:
        """The filter that allows the rows of a bool (n,), made outside any timer."""
        ...

    def masked(self, queries: np.ndarray, k: int, allowed: Any) -> np.ndarray:
        """Ids (m, k) of rows that the filter allows, of queries (m, d) that `form` made; below 0 where none was found."""
        ...


METRICS = ("l2", "cosine", "ip")


class Wrapped:
    """An index that holds the library's own as `native`."""

    metrics: tuple[str, ...] = METRICS

    def __init__(self, native: Any) -> None:
        self.native = native


def as_floats(rows: np.ndarray, metric: str) -> np.ndarray:
    """float32 rows; of length one for cosine, where l2 and the inner product then rank alike."""
    floats = rows.astype(np.float32)
    return floats / np.linalg.norm(floats, axis=1, keepdims=True) if metric == "cosine" else floats


class Ours:
    """The database, always with a graph; rows as the set holds them."""

    package, module, metrics = "omendb-kernels", "omendb", METRICS

    def __init__(self, db: omendb.DB, report: omendb.BuildReport | None = None) -> None:
        self.db, self.report = db, report

    @staticmethod
    def form(rows: np.ndarray, metric: str) -> np.ndarray:
        return rows

    @classmethod
    def build(cls, rows: np.ndarray, metric: str, threads: int) -> Ours:
        db = omendb.DB(metric=metric, build_threshold=1, threads=threads)
        return cls(db, db.build(rows))

    def tune(self, effort: int, threads: int) -> None:
        self.beam, self.threads = effort, threads

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        return self.db.search(queries, k=k, beam=self.beam, threads=self.threads).ids

    def single(self, query: np.ndarray, k: int) -> Any:
        return self.db.search(query, k=k, beam=self.beam, threads=self.threads)

    def save(self, path: Path) -> None:
        self.db.save(path)

    @classmethod
    def load(cls, path: Path, rows: np.ndarray, metric: str, threads: int | None = None) -> Ours:
        return cls(omendb.DB.load(path, build_threshold=1, threads=threads))
