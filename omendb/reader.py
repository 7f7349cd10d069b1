"""Reader: everything that asks a database and changes nothing. `DB` adds what writes."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omendb_kernels import MAX_BEAM, as_count, as_k, as_threads, explained, pairwise, use_device

from . import exchange
from .arrays import as_key, as_path
from .errors import InvalidIds
from .generation import Generation
from .handle import Handle
from .ids import Key
from .results import Record, SearchResults, Stats
from .store import size_of

_ORACLE_VALUES = 1 << 24  # distances that `recall` holds at a time


class Reader(Handle):
    """Each call takes the generation of its moment, once, and needs no lock."""

    # --- facts ---------------------------------------------------------------------------------------------------

    @property
    def dim(self) -> int | None:
        """The dimension; None until the first rows fix it."""
        return self._now.dim

    @property
    def metric(self) -> str:
        """The name of the metric."""
        return self._now.metric

    @property
    def dtype(self) -> str | None:
        """How vectors are kept: float32, float16, bfloat16, int8 or uint8; None until the first rows fix it."""
        return self._now.dtype

    @property
    def ids(self) -> NDArray[Any]:
        """All ids in the order in which the rows were added: int64 or objects of str, (len,). A copy. Cost: O(rows)."""
        now = self._now
        return np.empty(0, np.int64) if now.ids is None else now.ids.take_keys(now.live_rows)

    def __len__(self) -> int:
        return len(self._now)

    def __contains__(self, key: object) -> bool:
        now = self._now
        try:
            known = as_key(key, now.id_kind)
        except InvalidIds:
            return False
        return bool(now.find(_batch_of(known))[0] >= 0)

    def __repr__(self) -> str:
        now = self._generation
        if now is None:
            return "DB(closed)"
        return f"DB(rows={len(now)}, dim={now.dim}, metric={now.metric!r}, dtype={now.dtype!r}, ids={now.id_kind!r})"

    def stats(self) -> Stats:
        """Rows, bytes, codec and file in numbers; see `Stats`. Instant."""
        now = self._now
        codec = None if now.points is None else now.points.state()[0].get("codec")
        graph = None
        if now.graph is not None:
            graph = {**now.graph.state()[0], "rows": now.graph.present, "tail": now.total - now.graph.rows}
        return Stats(
            rows=len(now),
            deleted=now.total - len(now),
            dim=now.dim,
            metric=now.metric,
            dtype=now.dtype,
            ids=now.id_kind,
            index="flat" if graph is None else "graph",
            nbytes=now.nbytes,
            codec=codec,
            graph=graph,
            path=None if self._path is None else str(self._path),
            file_bytes=None if self._path is None else size_of(self._path),
        )

    # --- reading -------------------------------------------------------------------------------------------------

    def search(
        self,
        q: Any,
        k: int = 10,
        *,
        beam: int | None = None,
        exact: bool = False,
        mask: Any = None,
        with_metadata: bool = False,
        explain: bool = False,
        threads: int | None = None,
        device: str | None = None,
    ) -> SearchResults:
        """The k nearest rows of one query (d,) or of each of m queries (m, d), nearest first; see `SearchResults`.

        Without a graph, or with exact=True, the answer is certified exact. Through a graph the distances are exact and the rows
        approximate, as good as the recall that its beam was tuned to; a larger beam finds more and takes longer. Rows not in
        the graph yet are always found. Equal distances come in the order in which rows were added. mask: bool (len(db),) in the
        order of `db.ids`, True = allowed, or the ids allowed; min(k, allowed) rows are found whatever it allows. An empty
        database gives empty arrays. explain: attach how exactness was proved and the plan. threads, device: for this call.
        Raises WrongShape, WrongDtype, NotFinite, ValueTooLarge, ZeroVector, InvalidParameter, InvalidIds, UnknownId.
        """
        now = self._now
        k = as_k(k)
        places = None if beam is None else as_count(beam, "beam", most=MAX_BEAM)
        workers = as_threads(self._threads if threads is None else threads)
        queries, single = now.judge_queries(q)
        plan = None
        if explain or device or self._device:
            with use_device(device or self._device), explained(explain) as plans:
                distances, rows, proof, method = now.search(queries, k, mask, workers, beam=places, exact=exact)
            plan = plans[0] if plans else None
        else:
            distances, rows, proof, method = now.search(queries, k, mask, workers, beam=places, exact=exact)
        if single:
            distances, rows = distances[0], rows[0]
        ids = np.empty(rows.shape, np.int64) if now.ids is None else now.ids.take_keys(rows)
        metadata = _metadata_of(now, rows) if with_metadata else None
        return SearchResults(ids, distances, metadata, proof if explain else None, method, plan)

    def get(self, id: Key) -> Record:  # noqa: A002  the word users look for
        """One row by its id. Raises UnknownId, InvalidIds. The first call after a load reads all ids."""
        now = self._now
        key = as_key(id, now.id_kind)
        row = int(now.rows_of(_batch_of(key))[0])
        assert now.points is not None  # there is such a row
        vector = now.points.vectors[row : row + 1].native()[0].copy()
        return Record(key, vector, now.metadata_at(row))

    def recall(self, queries: Any = None, k: int = 10, *, beam: int | None = None, sample: int = 100) -> float:
        """Measured recall@k: the share of the true k nearest that `search` finds, ties at the k-th distance counted as found.

        The truth is a plain scan that shares no code with search's codes. queries: (m, d); None takes `sample` of the rows,
        evenly spread. 1.0 for an empty database. Cost: m * rows * d float64 operations.
        """
        now = self._now
        k, sample = as_k(k), as_count(sample, "sample")
        places = None if beam is None else as_count(beam, "beam", most=MAX_BEAM)
        if now.points is None or len(now) == 0:
            return 1.0
        if queries is None:
            chosen = now.live_rows[np.linspace(0, len(now) - 1, min(sample, len(now))).astype(np.int64)]
            asked = now.points.vectors[chosen]
        else:
            asked, _ = now.judge_queries(queries)
        k, threads = min(k, len(now)), as_threads(self._threads)
        found = 0
        step = max(1, _ORACLE_VALUES // now.total)
        for start in range(0, len(asked), step):
            block = asked[start : start + step]
            rows = now.search(block, k, None, threads, beam=places).rows
            truth = pairwise(block.native(), now.points, now.metric, precision="exact", threads=threads)
            worst = np.partition(truth[:, now.live_rows], k - 1, axis=1)[:, k - 1 : k]
            for line, near, bar in zip(rows, truth, worst, strict=True):
                found += int(np.count_nonzero(near[np.unique(line)] <= bar))
        return found / (len(asked) * k) if len(asked) else 1.0

    # --- files of other libraries --------------------------------------------------------------------------------

    def to_hnswlib(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the live rows as a file for `hnswlib.Index(space=metric, dim=dim).load_index(path)`; atomic like `save`.

        Labels are the ids. hnswlib's M is 16; its ef, which the file does not keep, is our beam. Rows become float32, of
        length one under cosine; its distances under ip are 1 minus the dot product. Metadata stays behind. Fresh rows are
        put into the graph of the file, and one is built for it where there is none; the database stays as it is. The same
        history of rows gives the same bytes on every machine. Raises InvalidIds for string ids, which hnswlib does not have,
        InvalidInput for a database without rows, and what `save` raises. Cost: a sixth of a build.
        """
        exchange.write_hnswlib(self._now, as_path(path), overwrite=overwrite, threads=self._workers)

    def to_faiss(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the live rows as a file for `faiss.read_index(path)`: an IndexHNSWFlat, its efSearch our beam.

        Behind an IndexIDMap2 where the ids are not 0, 1, 2, ... in order. The metric is METRIC_L2, else METRIC_INNER_PRODUCT;
        under cosine rows are of length one, and queries must be made so: FAISS does not. Else as `to_hnswlib`.
        """
        exchange.write_faiss(self._now, as_path(path), overwrite=overwrite, threads=self._workers)


def _batch_of(key: Key) -> Any:
    return [key] if isinstance(key, str) else np.array([key], np.int64)


def _metadata_of(generation: Generation, rows: NDArray[np.int64]) -> list[Any]:
    if rows.ndim == 2:
        return [_metadata_of(generation, row) for row in rows]
    return [generation.metadata_at(row) for row in rows.tolist()]
