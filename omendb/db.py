"""DB: the embedded vector database. Judges what comes in, swaps generations, and speaks to files."""

from __future__ import annotations

import logging
import os
import time
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omendb_kernels import PointSet, as_count, as_mask, as_recall, as_threads

from . import check, exchange, mend, snapshot, store
from .arrays import as_keys, as_path
from .background import BUILD_AFTER, QUIET, Schedule
from .errors import (
    AlreadyExists,
    BatchTooSmall,
    CorruptFile,
    InvalidInput,
    InvalidParameter,
    WrongShape,
)
from .generation import Generation, Progress
from .ids import as_key_array
from .publish import check_target
from .reader import Reader
from .results import BuildReport, RepairReport, VerifyReport
from .store import Follower, Writer

log = logging.getLogger("omendb")

RECALL = 0.95  # recall@10 that the beam of a graph is tuned to
BUILD_THRESHOLD = 10_000  # rows below which a graph is not worth its build


class DB(Reader):
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
        device: str | None = None,
    ) -> None:
        """An empty database. metric: "l2" (squared distance), "cosine" or "ip" (minus the dot product): smaller is nearer.

        build_threshold: `build` and `build_index` make a graph from so many rows on. threads: for every call that does not say
        otherwise; None: OMENDB_NUM_THREADS, else all cores of this process. device: "cpu" or "gpu", where all is computed;
        None: wherever it should be quickest, call by call. Raises InvalidParameter, UnknownMetric, UnknownBackend where nothing
        can compute on the device.
        """
        PointSet.empty(1 if dim is None else dim, metric, "float32" if dtype is None else dtype)  # judges all three
        self._begin(Generation(metric, None if dim is None else int(dim), dtype), threads, build_threshold, device)

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
        device: str | None = None,
        progress: Progress | None = None,
    ) -> DB:
        """A new database of these rows: `DB(metric=metric, ...)` and `build` in one call."""
        db = cls(metric=metric, build_threshold=build_threshold, threads=threads, device=device)
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
        with self._writing() as now:
            if len(now):
                raise InvalidInput("build", f"an index of {len(now)} rows", "an empty one; add_batch adds rows")
            rows = now.judge_vectors(vectors)
            if len(rows) == 0:
                raise WrongShape("vectors", "no rows", "at least one row")
            change = now.adding(rows, ids, metadata)
            grown = now.applied(change, threads=self._workers, whole=True, progress=progress)
            return self._index(grown, wanted, started, progress)

    def build_index(self, *, recall: float = RECALL, progress: Progress | None = None) -> BuildReport:
        """Make the graph anew over all rows, the fresh ones included, and free what deleted rows held.

        recall: the beam is the smallest that reaches this recall@10 on rows held back for the purpose (by its standard error
        more). Fewer than `build_threshold` rows are left without a graph: they are searched exactly. Searches go on meanwhile.
        Raises InvalidParameter. The same rows give the same index, byte for byte, on every machine.
        """
        wanted, started = as_recall(recall), time.perf_counter()
        with self._writing() as now:
            return self._index(now.refitted(threads=self._workers), wanted, started, progress)

    def _index(self, now: Generation, recall: float, started: float, progress: Progress | None) -> BuildReport:
        """Publish `now` with its graph; the writer's lock is held."""
        indexed, facts = now.indexed(self._build_threshold, recall, threads=self._workers, progress=progress)
        self._keep(indexed)
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
        with self._writing() as now:
            rows = now.judge_vectors(vectors)
            if len(rows) < least:
                raise BatchTooSmall("vectors", f"{len(rows)} rows", f"at least {least}; add_batch takes any number")
            change = now.adding(rows, ids, metadata)
            if rebuild_index:
                grown = now.applied(change, threads=self._workers)
                self._index(grown.refitted(threads=self._workers), RECALL, started, None)
            else:
                self._commit(now, change)
        return as_key_array(change.keys).copy()

    def upsert(self, vectors: Any, *, ids: Any, metadata: Any = None) -> NDArray[Any]:
        """`add_batch`, replacing the rows that have these ids already (vector and metadata); gives the ids, (n,).

        All or none. A replaced row is as if deleted and added anew: it comes last among rows at equal distance. An index that
        numbers its rows cannot be upserted. Raises what `add_batch` raises.
        """
        with self._writing() as now:
            change = now.upserting(now.judge_vectors(vectors), ids, metadata)
            self._commit(now, change)
        return as_key_array(change.keys).copy()

    def delete(self, ids: Any = None, *, mask: Any = None) -> int:
        """Delete one id, a list or array of ids, or the rows of a mask; gives the number of rows deleted.

        mask: bool (len(db),) in the order of `db.ids`, True = delete. An id given twice counts once. Deleted rows are never
        returned again; their space is freed by `compact`, `build_index` and `save` (in the file). When more than a tenth of a
        graph is dead, its lists are mended. Raises UnknownId, naming the first that is not there, InvalidIds, WrongShape,
        WrongDtype, InvalidParameter unless one of both is given; then nothing is deleted. Cost: O(rows) for the new mask, and
        the mending.
        """
        if (ids is None) == (mask is None):
            raise InvalidParameter("delete", "both ids and mask" if mask is not None else "neither ids nor mask", "one of them")
        with self._writing() as now:
            if mask is not None:
                change = now.deleting_rows(now.live_rows[as_mask(mask, len(now))])
            else:
                single = isinstance(ids, (str, int, np.generic))
                change = now.deleting_rows(now.rows_of(as_keys([ids] if single else ids, now.id_kind)))
            self._commit(now, change)
        return len(change)

    def compact(self, *, secure: bool = False) -> None:
        """Give back what deleted and replaced rows hold, in memory and in the folder; searches and readers go on.

        secure: when it returns, vectors, ids and metadata of deleted rows are in no file of the folder any more (StorageError
        where a reader of another process, on Windows, keeps an old file open). Nothing can be said of copies that the file
        system or the drive keep, nor of sums that deleted rows took part in (the codec's mean, until `build_index`).
        Raises StorageFull, StorageFailed, StorageError; the rows are then as they were. Cost: writing all rows once.
        """
        with self._writing() as now:
            self._keep(now if self._store is not None else now.compacted(threads=self._workers), ())
            if self._store is not None:
                self._store.shrink(secure=secure)

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
        device: str | None = None,
    ) -> DB:
        """Open a saved file, or what a durable folder holds now. It is mapped, and may be shared by any number of processes.

        verify: compare the whole content with its hashes, at the speed of reading the file once; damage anywhere raises.
        verify=False opens in an instant whatever the size and checks header, sizes and seal only: damaged content can then
        make answers wrong, but never reaches outside the file. Rows added later stay in memory until the next `save`.
        build_threshold, threads, device: as for `DB`; a file does not keep them.
        Raises NotFound, NotAnIndex, NewerFormat, CorruptFile, StorageError.
        """
        source = as_path(path)
        db = cls.__new__(cls)
        if store.is_folder(source):
            found = store.read(source, verify=verify, threads=as_threads(threads))
            db._begin(found.generation, threads, build_threshold, device)
            db._file = found.file
            return db
        file = snapshot.Snapshot.open(source)
        if verify:
            file.verify()
        try:
            generation = Generation.restore(file.facts, file.arrays)
        except ValueError as error:
            raise CorruptFile(f"{file.path} is damaged: {error}") from error
        db._begin(generation, threads, build_threshold, device)
        db._file = file
        return db

    @classmethod
    def from_hnswlib(cls, path: str | os.PathLike[str], *, metric: str, dim: int | None = None, **options: Any) -> DB:
        """A new database of the rows in a file of hnswlib's `save_index`, float32; its graph is built anew, theirs is left.

        metric: that of the index ("l2", "ip", "cosine"); the file does not say. dim: what its rows must have, where given.
        options: as for `build_from_numpy`. Labels become integer ids; where they are 0..n-1 rows come in their order and the
        database numbers them. Rows that are marked as deleted are left out. Raises NotFound, CorruptFile, StorageError,
        InvalidParameter, InvalidInput where the file holds what a database cannot, and what `build` raises. Nothing of the file
        is trusted, and neither hnswlib nor FAISS is needed.
        """
        rows, ids = exchange.read_hnswlib(as_path(path), dim=dim)
        return cls.build_from_numpy(rows, ids=ids, metric=metric, **options)

    @classmethod
    def from_faiss(cls, path: str | os.PathLike[str], *, metric: str | None = None, **options: Any) -> DB:
        """A new database of the rows in a file of FAISS's `write_index`: IndexFlat, IndexHNSWFlat, an IndexIDMap(2) of either.

        metric: None takes the file's, "l2" or "ip"; "cosine" is for a file of rows that were made of length one. Else as
        `from_hnswlib`. Raises InvalidInput for other kinds of index.
        """
        rows, ids, found = exchange.read_faiss(as_path(path))
        return cls.build_from_numpy(rows, ids=ids, metric=metric or found, **options)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        mode: str = "rw",
        *,
        dim: int | None = None,
        metric: str | None = None,
        dtype: str | None = None,
        durability: str = "full",
        verify: bool = True,
        build_threshold: int = BUILD_THRESHOLD,
        threads: int | None = None,
        device: str | None = None,
        background: bool = False,
        build_after: int = BUILD_AFTER,
        quiet_seconds: float = QUIET,
        progress: Progress | None = None,
    ) -> DB:
        """Open a durable folder: what a write returns from is kept, whatever happens to the process or the power.

        mode: "rw" writes, and makes the folder where there is none; "create" makes it and refuses one that is there; "r" reads,
        beside a writer and other readers, and follows by `refresh`. One process writes at a time. metric ("l2" when new), dim
        and dtype: as for `DB` in a new folder; in an old one they must be what it has. durability: "full": a write is on the
        disk when it returns; "normal": a power failure may take the last writes, whole and in order, a killed process none.
        verify: as for `load`. build_threshold, threads and device belong to this handle, the folder keeps none of them.

        background: a thread makes the graph anew when `build_after` rows wait outside of it and nobody wrote for
        `quiet_seconds`, or when ten times as many wait. Searches go on, and writes but for the moment in which the result is
        put in force. progress is called in that thread. An error there is logged, and the rows stay as they were.

        Raises InvalidParameter, UnknownMetric; Locked, with the process id of the other writer; NotFound ("r"); AlreadyExists
        ("create", or other files are there); ReadOnly where the folder cannot be written to; CorruptFile, NotAnIndex,
        NewerFormat, StorageError. Cost: mapping the snapshot, and applying what was written since.
        """
        folder, workers = as_path(path), as_threads(threads)
        _one_of("mode", mode, ("r", "rw", "create"))
        _one_of("durability", durability, ("full", "normal"))
        when = Schedule(build_after, quiet_seconds)
        wanted = cls(dim, metric or "l2", dtype=dtype)._now
        db = cls.__new__(cls)
        if mode == "r":
            followed = Follower(folder, verify=verify, threads=workers)
            db._begin(followed.read.generation, threads, build_threshold, device)
            db._followed = followed
        else:
            if mode == "create" and store.is_folder(folder):
                raise AlreadyExists(f"{folder} is an omendb folder already; mode='rw' opens it")
            writer = Writer(folder, wanted, durable=durability == "full", verify=verify, threads=workers)
            db._begin(writer.read.generation, threads, build_threshold, device)
            db._store = writer
        for name, asked in (("dim", dim), ("metric", metric), ("dtype", dtype)):
            found = getattr(db, name)
            if asked not in (None, found):
                db.close()
                raise InvalidParameter(name, repr(asked), f"{found!r}, as it is in {folder}")
        if background:
            db._build_beside_writes(RECALL, when, progress)
        return db

    def refresh(self) -> bool:
        """Take in what the writer of the folder did since; whether there was anything. Forward only. For mode="r".

        Searches under way finish on the rows that they began with. Raises what `open` raises, with nothing changed;
        InvalidInput for a database that was not opened with mode="r".
        """
        with self._lock:
            before = self._now
            if self._followed is None:
                raise InvalidInput("refresh", "a database of its own rows", "one that was opened with mode='r'")
            self._publish(self._followed.refresh(self._workers))
            return self._generation is not before

    def verify(self, *, full: bool = False) -> VerifyReport:
        """Look for damage in the file or the folder that this database came from; see `VerifyReport`. Nothing is changed.

        What is in force is judged as when it is opened, and every change in the journal is compared with its hash. full: every
        byte is read: all blocks of the snapshot, and SQLite's pages. A database without file or folder has nothing to verify.
        """
        now, path = self._now, self._path
        if path is None:
            return VerifyReport((), len(now))
        return check.verify(path, full=full, threads=self._workers, known=self._broken)

    @classmethod
    def repair(cls, path: str | os.PathLike[str], into: str | os.PathLike[str], *, threads: int | None = None) -> RepairReport:
        """Copy what still verifies of a damaged file or folder to the new path `into`; see `RepairReport`.

        Nothing is changed at `path`, and nothing is invented: a row is saved as it was, with id and metadata, or counted as
        lost. Raises AlreadyExists, NotFound, Locked while a writer has the folder open, NewerFormat, StorageError; CorruptFile
        where nothing at all verifies.
        """
        return mend.repair(as_path(path), as_path(into), threads=as_threads(threads))

    def copy(self, path: str | os.PathLike[str]) -> None:
        """Make a durable folder at `path` that holds the live rows of this moment; reads and writes go on meanwhile.

        Of any database, with or without a folder of its own. Raises AlreadyExists, NotFound, StorageError.
        """
        store.create(as_path(path), self._now, threads=self._workers)

    def __enter__(self) -> DB:
        self._now  # noqa: B018  raises when closed
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidParameter(name, repr(value), " or ".join(map(repr, choices)))
