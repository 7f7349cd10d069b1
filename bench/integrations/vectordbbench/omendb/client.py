"""omendb in VectorDBBench: a durable folder that one process writes and any number read."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from vectordb_bench.backend.filter import Filter, FilterOp
from vectordb_bench.backend.payload import PayloadProfile

import omendb

from ..api import VectorDB
from .config import OmenDBCaseConfig

NEVER = 2**31 - 1  # rows, before there is a graph
_TURN = threading.Lock()  # of the threads that insert: one of them takes the writer's lock of the folder


class OmenDB(VectorDB):
    """Copied into every process of a run, and opened there by `init`: for reading, until the first write.

    So searching processes never wait for a lock. Their searches take one thread each; builds take all cores.
    """

    supported_filter_types: ClassVar[list[FilterOp]] = [FilterOp.NonFilter, FilterOp.NumGE, FilterOp.StrEqual]
    name = "OmenDB"
    thread_safe = True

    def __init__(
        self,
        dim: int,
        db_config: dict[str, Any],
        db_case_config: OmenDBCaseConfig,
        collection_name: str = "vectors",
        drop_old: bool = False,
        with_scalar_labels: bool = False,
        **kwargs: Any,
    ) -> None:
        index, home = db_case_config.index_param(), Path(db_config["path"])
        self.dim, self.folder, self.labels = dim, home / collection_name, home / f"{collection_name}.labels.npy"
        self.recall, self.search_options = index["recall"], db_case_config.search_param()
        self.with_scalar_labels = with_scalar_labels
        threshold = {"build_threshold": NEVER} if index["exact"] else {}
        self.writing = {"durability": db_config["durability"], **threshold}
        self.db: omendb.DB | None = None
        self.mask: np.ndarray | None = None
        if drop_old:
            self._drop()
            self._compile(index["metric"])
        home.mkdir(parents=True, exist_ok=True)
        omendb.DB.open(self.folder, dim=dim, metric=index["metric"]).close()

    def _drop(self) -> None:
        """Remove the old folder. What is no omendb folder, or a damaged one, is left alone: CorruptFile, NotAnIndex."""
        try:
            omendb.DB.open(self.folder, "r", verify=False).close()
        except omendb.NotFound:
            return
        shutil.rmtree(self.folder)
        self.labels.unlink(missing_ok=True)

    def _compile(self, metric: str) -> None:
        """Kernels are compiled when they are first called, once after an install: no part of the load that is timed."""
        rows = np.random.default_rng(0).standard_normal((6_000, 16), dtype=np.float32)
        with omendb.DB.build_from_numpy(rows, metric=metric, build_threshold=1) as db:
            for exact in (False, True):
                db.search(rows[0], exact=exact, threads=1)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is open: the process that gets it calls `init`."""
        return {**self.__dict__, "db": None, "mask": None}

    @contextmanager
    def init(self) -> Iterator[None]:
        """Open for reading, and search once, which loads the kernels into this process.

        Runners count this in their rates of queries (not in latencies): no hashes are compared, the run itself wrote the file.
        """
        self.db, self.may_write = omendb.DB.open(self.folder, "r", verify=False), False
        self.search_embedding([1.0] * self.dim, 1)
        try:
            yield
        finally:
            self.db.close()
            self.db = self.mask = None

    def _writer(self) -> omendb.DB:
        """The folder, from now on open for writing; once for all threads. Raises Locked where another process writes."""
        with _TURN:
            assert self.db is not None, "init() comes first"
            if not self.may_write:
                self.db.close()
                self.db, self.may_write = omendb.DB.open(self.folder, verify=False, **self.writing), True
            return self.db

    def need_normalize_cosine(self) -> bool:
        """No: rows and queries may be of any length."""
        return False

    def insert_embeddings(
        self, embeddings: list[list[float]], metadata: list[int], labels_data: list[str] | None = None, **kwargs: Any
    ) -> tuple[int, Exception | None]:
        """All of the batch or nothing, on the disk when it returns; metadata: the ids."""
        notes = [{"label": label} for label in labels_data] if self.with_scalar_labels and labels_data is not None else None
        try:
            self._writer().add_batch(embeddings, ids=metadata, metadata=notes)
        except omendb.OmenError as error:
            return 0, error
        return len(metadata), None

    def optimize(self, data_size: int | None = None) -> None:
        """Build the graph, unless all is to be exact; write the labels in the order of the rows, to be masks of searches."""
        db = self._writer()
        db.build_index(recall=self.recall)
        if self.with_scalar_labels:
            notes = (db.get(key).metadata for key in db.ids.tolist())
            np.save(self.labels, np.array([note["label"] if note else "" for note in notes], dtype=np.str_))

    def prepare_filter(self, filters: Filter) -> None:
        """The rows that searches may find from now on. Runners call it before `init` too, when there is nothing to prepare."""
        if self.db is None:
            return
        self.mask = None
        if filters.type == FilterOp.NumGE:
            self.mask = self.db.ids >= filters.int_value
        elif filters.type == FilterOp.StrEqual:
            self.mask = np.load(self.labels) == filters.label_value

    def search_embedding(
        self,
        query: list[float],
        k: int = 100,
        payload_profile: PayloadProfile = PayloadProfile.IDS_ONLY,
        tenant: str | None = None,
        **kwargs: Any,
    ) -> list[int]:
        """Ids, nearest first."""
        assert self.db is not None, "init() comes first"
        return self.db.search(query, k, mask=self.mask, threads=1, **self.search_options).ids.tolist()
