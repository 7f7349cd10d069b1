"""DB: the embedded vector database. Judges what comes in, swaps generations, and speaks to files."""

from __future__ import annotations

import logging
import os
import threading
import time
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omendb_kernels import MAX_BEAM, PointSet, as_count, as_k, as_recall, as_threads, pairwise

from . import snapshot
from .arrays import as_key, as_keys, as_path
from .errors import BatchTooSmall, Closed, CorruptFile, InvalidIds, InvalidInput, WrongShape
from .generation import Generation, Progress
from .ids import Key, as_key_array
from .publish import check_target
from .results import BuildReport, Record, SearchResults, Stats

log = logging.getLogger("omendb")

RECALL = 0.95  # recall@10 that the beam of a graph is tuned to
BUILD_THRESHOLD = 10_000  # rows below which a graph is not worth its build
_ORACLE_VALUES = 1 << 24  # distances that `recall` holds at a time


class DB:
    """Vectors with ids and metadata, searched exactly, or through a graph where many rows were built or indexed.

    Thread-safe: any number of threads may search while one writes (writers wait for each other). A search sees the rows
    of one moment; a batch is added whole or not at all, and whatever raises has changed nothing.

    The first rows fix what is still open: the dimension, the dtype (float64 and lists become float32; float16, bfloat16,
    int8, uint8 stay) and the kind of ids (running numbers when none are given, integers, or strings).
    """

    def __init__(
        self,
        dim: int | None = None,
        metric: str = "l2",
        *,
        dtype: str | None = None,
        build_threshold: int = BUILD_THRESHOLD,
        threads: int | None = None,
    ) -> None:
        """An empty database. metric: "l2" (squared distance), "cosine" or "ip" (minus the dot product): smaller is nearer.

        build_threshold: `build` and `build_index` make a graph from so many rows on. threads: for every call that does not say
        otherwise; None: OMENDB_NUM_THREADS, else all cores of this process. Raises InvalidParameter, UnknownMetric.
        """
        PointSet.empty(1 if dim is None else dim, metric, "float32" if dtype is None else dtype)  # judges all three
        self._open(Generation(metric, None if dim is None else int(dim), dtype), threads, build_threshold)

    def _open(self, generation: Generation, threads: int | None, build_threshold: int = BUILD_THRESHOLD) -> None:
        self._threads = None if threads is None else as_threads(threads)
        self._build_threshold = as_count(build_threshold, "build_threshold")
        self._generation: Generation | None = generation
        self._writer = threading.Lock()
        self._file: snapshot.Snapshot | None = None

    # --- facts ---------------------------------------------------------------------------------------------------

    @property
    def _now(self) -> Generation:
        generation = self._generation
        if generation is None:
            raise Closed("this database was closed")
        return generation

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
            path=None if self._file is None else str(self._file.path),
            file_bytes=None if self._file is None else self._file.nbytes,
        )

    # --- writing -------------------------------------------------------------------------------------------------

    @classmethod
    def build_from_numpy(
        cls,
        vectors: Any,
        *,
        ids: Any = None,
        metadata: Any = None,
        metric: str = "l2",
        recall: float = RECALL,
        build_threshold: int = BUILD_THRESHOLD,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> DB:
        """A new database of these rows: `DB(metric=metric, ...)` and `build` in one call."""
        db = cls(metric=metric, build_threshold=build_threshold, threads=threads)
        db.build(vectors, ids=ids, metadata=metadata, recall=recall, progress=progress)
        return db

    def build(
        self,
        vectors: Any,
        *,
        ids: Any = None,
        metadata: Any = None,
        recall: float = RECALL,
        progress: Progress | None = None,
    ) -> BuildReport:
        """Fill an empty database with (n, d) vectors, n >= 1, which are copied; from `build_threshold` rows on with a graph.

        ids: none (the rows are numbered), n integers >= 0 or n non-empty strings. metadata: n dicts that JSON can hold, or
        None for a row. recall: what the graph's beam is tuned to, see `build_index`. progress(phase, done, total) is called as
        the work goes on. Raises, with nothing changed, InvalidInput when there are rows already, and what `add_batch` raises;
        WrongShape for no rows; InvalidParameter.
        """
        wanted, started = as_recall(recall), time.perf_counter()
        with self._writer:
            now, threads = self._now, as_threads(self._threads)
            if len(now):
                raise InvalidInput("build", f"an index of {len(now)} rows", "an empty one; add_batch adds rows")
            rows = now.judge_vectors(vectors)
            if len(rows) == 0:
                raise WrongShape("vectors", "no rows", "at least one row")
            grown, _ = now.add(rows, ids, metadata, threads=threads, whole=True, progress=progress)
            return self._index(grown, wanted, started, progress)

    def build_index(self, *, recall: float = RECALL, progress: Progress | None = None) -> BuildReport:
        """Make the graph anew over all rows, the fresh ones included, and free what deleted rows held.

        recall: the beam is the smallest that reaches this recall@10 on rows held back for the purpose (by its standard error
        more). Fewer than `build_threshold` rows are left without a graph: they are searched exactly. Searches go on meanwhile.
        Raises InvalidParameter. The same rows give the same index, byte for byte, on every machine.
        """
        wanted, started = as_recall(recall), time.perf_counter()
        with self._writer:
            return self._index(self._now.refitted(threads=as_threads(self._threads)), wanted, started, progress)

    def _index(self, now: Generation, recall: float, started: float, progress: Progress | None) -> BuildReport:
        """Publish `now` with its graph; the writer's lock is held."""
        threads = as_threads(self._threads)
        indexed, facts = now.indexed(self._build_threshold, recall, threads=threads, progress=progress)
        self._publish(indexed)
        report = indexed.report(facts, time.perf_counter() - started)
        log.info("built: %s", report)
        return report

    def insert_batch(self, vectors: Any, *, ids: Any = None, metadata: Any = None, min_batch: int = 100) -> NDArray[Any]:
        """The bulk call: `add_batch` for at least `min_batch` rows; BatchTooSmall for fewer."""
        return self._add(vectors, ids, metadata, as_count(min_batch, "min_batch"))

    def add_batch(self, vectors: Any, *, ids: Any = None, metadata: Any = None, rebuild_index: bool = False) -> NDArray[Any]:
        """Add (n, d) vectors behind those that are there, all or none, and give their ids, (n,). n = 0 is no error.

        ids and metadata as for `build`; ids must be new and of the kind that the index has. Where there is a graph, the rows
        enter it batch by batch; until then, and without one, they are searched exactly. rebuild_index: `build_index` with them.
        Raises, with nothing changed, WrongShape, WrongDtype, NotFinite, ValueTooLarge, ZeroVector, InvalidIds,
        DuplicateId, InvalidMetadata.
        """
        return self._add(vectors, ids, metadata, 0, rebuild_index=rebuild_index)

    def _add(self, vectors: Any, ids: Any, metadata: Any, least: int, *, rebuild_index: bool = False) -> NDArray[Any]:
        started = time.perf_counter()
        with self._writer:
            now, threads = self._now, as_threads(self._threads)
            rows = now.judge_vectors(vectors)
            if len(rows) < least:
                raise BatchTooSmall("vectors", f"{len(rows)} rows", f"at least {least}; add_batch takes any number")
            grown, keys = now.add(rows, ids, metadata, threads=threads)
            if rebuild_index:
                self._index(grown.refitted(threads=threads), RECALL, started, None)
            else:
                self._publish(grown)
        return as_key_array(keys).copy()

    def upsert(self, vectors: Any, *, ids: Any, metadata: Any = None) -> NDArray[Any]:
        """`add_batch`, replacing the rows that have these ids already (vector and metadata); gives the ids, (n,).

        All or none. A replaced row is as if deleted and added anew: it comes last among rows at equal distance. An index that
        numbers its rows cannot be upserted. Raises what `add_batch` raises.
        """
        with self._writer:
            now = self._now
            grown, keys = now.upsert(now.judge_vectors(vectors), ids, metadata, threads=as_threads(self._threads))
            self._publish(grown)
        return as_key_array(keys).copy()

    def _publish(self, generation: Generation) -> None:
        if self._generation is None:
            raise Closed("this database was closed meanwhile")
        self._generation = generation

    def delete(self, ids: Any) -> int:
        """Delete one id, or a list or array of ids; gives the number of rows deleted. An id given twice counts once.

        Deleted rows are never returned again; their space is freed by `save` (in the file) and `build_index`. When more than a
        tenth of a graph is dead, its lists are mended. Raises UnknownId, naming the first that is not there, InvalidIds; then
        nothing is deleted. Cost: O(rows) for the new mask, and the mending.
        """
        with self._writer:
            now = self._now
            single = isinstance(ids, (str, int, np.generic))
            keys = as_keys([ids] if single else ids, now.id_kind)
            left, deleted = now.delete(keys, threads=as_threads(self._threads))
            self._publish(left)
        return deleted

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
    ) -> SearchResults:
        """The k nearest rows of one query (d,) or of each of m queries (m, d), nearest first; see `SearchResults`.

        Without a graph, or with exact=True, the answer is certified exact. Through a graph the distances are exact and the rows
        approximate, as good as the recall that its beam was tuned to; a larger beam finds more and takes longer. Rows not in
        the graph yet are always found. Equal distances come in the order in which rows were added. mask: bool (len(db),) in the
        order of `db.ids`, True = allowed, or the ids allowed; min(k, allowed) rows are found whatever it allows. An empty
        database gives empty arrays. explain: attach how exactness was proved. threads: for this call.
        Raises WrongShape, WrongDtype, NotFinite, ValueTooLarge, ZeroVector, InvalidParameter, InvalidIds, UnknownId.
        """
        now = self._now
        k = as_k(k)
        places = None if beam is None else as_count(beam, "beam", most=MAX_BEAM)
        workers = as_threads(self._threads if threads is None else threads)
        queries, single = now.judge_queries(q)
        distances, rows, proof, method = now.search(queries, k, mask, workers, beam=places, exact=exact)
        if single:
            distances, rows = distances[0], rows[0]
        ids = np.empty(rows.shape, np.int64) if now.ids is None else now.ids.take_keys(rows)
        metadata = _metadata_of(now, rows) if with_metadata else None
        return SearchResults(ids, distances, metadata, proof if explain else None, method)

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

    # --- files ---------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the live rows into one file, atomically and durably: `path` holds the old file or the whole new one.

        The same history of rows gives the same bytes on every machine. Searches and writes go on meanwhile. On Windows a
        file that is loaded somewhere cannot be replaced. Raises AlreadyExists (without `overwrite=True`), NotFound for a
        missing folder, StorageError with the system's reason.
        """
        now, target = self._now, as_path(path)
        check_target(target, overwrite)
        facts, arrays = now.state(threads=as_threads(self._threads))
        snapshot.write(target, facts, arrays, overwrite=overwrite)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        verify: bool = True,
        build_threshold: int = BUILD_THRESHOLD,
        threads: int | None = None,
    ) -> DB:
        """Open a saved file. It is mapped, not read into memory, and may be shared by any number of processes.

        verify: compare the whole content with its hashes, at the speed of reading the file once; damage anywhere raises.
        verify=False opens in an instant whatever the size and checks header, sizes and seal only: damaged content can then
        make answers wrong, but never reaches outside the file. Rows added later stay in memory until the next `save`.
        build_threshold, threads: as for `DB`; a file does not keep them.
        Raises NotFound, NotAnIndex, NewerFormat, CorruptFile, StorageError.
        """
        file = snapshot.Snapshot.open(as_path(path))
        if verify:
            file.verify()
        try:
            generation = Generation.restore(file.facts, file.arrays)
        except ValueError as error:
            raise CorruptFile(f"{file.path} is damaged: {error}") from error
        db = cls.__new__(cls)
        db._open(generation, threads, build_threshold)
        db._file = file
        return db

    def close(self) -> None:
        """Let go of rows and file. Searches under way finish; any later call raises Closed. Closing twice is no error."""
        self._generation = self._file = None

    def __enter__(self) -> DB:
        self._now  # noqa: B018  raises when closed
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _batch_of(key: Key) -> Any:
    return [key] if isinstance(key, str) else np.array([key], np.int64)


def _metadata_of(generation: Generation, rows: NDArray[np.int64]) -> list[Any]:
    if rows.ndim == 2:
        return [_metadata_of(generation, row) for row in rows]
    return [generation.metadata_at(row) for row in rows.tolist()]
