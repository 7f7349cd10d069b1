"""Libraries of HNSW graphs, float32 rows, M = 16 and an ef of 200 while building; and FAISS Flat. Usearch's Python takes no
filter (2.26)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .index import METRICS, Wrapped, as_floats

M, EF_BUILD = 16, 200


class Hnswlib:
    """hnswlib."""

    package, module, metrics = "hnswlib", "hnswlib", METRICS
    filter = "a Python function for each row it meets, one thread, one query at a time; raises where it finds fewer than k"
    form = staticmethod(as_floats)

    def __init__(self, dim: int, metric: str) -> None:
        import hnswlib

        self.native = hnswlib.Index(space="l2" if metric == "l2" else "ip", dim=dim)

    @classmethod
    def build(cls, rows: np.ndarray, metric: str, threads: int) -> Hnswlib:
        index = cls(rows.shape[1], metric)
        index.native.init_index(len(rows), M=M, ef_construction=EF_BUILD)
        index.native.add_items(rows, num_threads=threads)
        return index

    def tune(self, effort: int, threads: int) -> None:
        self.native.set_ef(effort)
        self.threads = threads

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        return self.native.knn_query(queries, k, num_threads=self.threads)[0]

    def single(self, query: np.ndarray, k: int) -> Any:
        return self.native.knn_query(query, k, num_threads=self.threads)

    def allow(self, mask: np.ndarray) -> Any:
        return mask.tolist().__getitem__

    def masked(self, queries: np.ndarray, k: int, allowed: Any) -> np.ndarray:
        return np.stack([self._masked(query, k, allowed) for query in queries])

    def _masked(self, query: np.ndarray, k: int, allowed: Any) -> np.ndarray:
        """A query that raises has found nothing; in a batch it would take the others' answers along."""
        try:
            return self.native.knn_query(query, k, num_threads=1, filter=allowed)[0][0].astype(np.int64)
        except RuntimeError as error:
            if "contiguous" not in str(error):
                raise
            return np.full(k, -1)

    def save(self, path: Path) -> None:
        self.native.save_index(str(path))

    @classmethod
    def load(cls, path: Path, rows: np.ndarray, metric: str, most: int = 0) -> Hnswlib:
        """most: rows that it shall have room for."""
        index = cls(rows.shape[1], metric)
        index.native.load_index(str(path), max_elements=most)
        return index


class Faiss(Wrapped):
    """FAISS HNSWFlat."""

    package, module = "faiss-cpu", "faiss"
    filter = "a bitmap"
    form = staticmethod(as_floats)

    @classmethod
    def build(cls, rows: np.ndarray, metric: str, threads: int) -> Faiss:
        import faiss

        faiss.omp_set_num_threads(threads)
        native = faiss.IndexHNSWFlat(rows.shape[1], M, faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)
        native.hnsw.efConstruction = EF_BUILD
        native.add(rows)
        return cls(native)

    def tune(self, effort: int, threads: int) -> None:
        import faiss

        faiss.omp_set_num_threads(threads)
        self.native.hnsw.efSearch = effort

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        return self.native.search(queries, k)[1]

    def single(self, query: np.ndarray, k: int) -> Any:
        return self.native.search(query[None], k)

    def allow(self, mask: np.ndarray) -> Any:
        import faiss

        return faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))

    def masked(self, queries: np.ndarray, k: int, allowed: Any) -> np.ndarray:
        import faiss

        wanted = faiss.SearchParametersHNSW(sel=allowed, efSearch=self.native.hnsw.efSearch)
        return self.native.search(queries, k, params=wanted)[1]

    def save(self, path: Path) -> None:
        import faiss

        faiss.write_index(self.native, str(path))

    @classmethod
    def load(cls, path: Path, rows: np.ndarray, metric: str) -> Faiss:
        import faiss

        return cls(faiss.read_index(str(path)))


class Flat(Faiss):
    """FAISS Flat: exact, whatever the effort."""

    @classmethod
    def build(cls, rows: np.ndarray, metric: str, threads: int) -> Flat:
        import faiss

        native = faiss.IndexFlatL2(rows.shape[1]) if metric == "l2" else faiss.IndexFlatIP(rows.shape[1])
        native.add(rows)
        return cls(native)

    def tune(self, effort: int, threads: int) -> None:
        import faiss

        faiss.omp_set_num_threads(threads)

    def masked(self, queries: np.ndarray, k: int, allowed: Any) -> np.ndarray:
        import faiss

        return self.native.search(queries, k, params=faiss.SearchParameters(sel=allowed))[1]


class Usearch(Wrapped):
    """usearch."""

    package, module = "usearch", "usearch"
    form = staticmethod(as_floats)

    @classmethod
    def build(cls, rows: np.ndarray, metric: str, threads: int) -> Usearch:
        from usearch.index import Index

        kind = "l2sq" if metric == "l2" else "ip"
        native = Index(ndim=rows.shape[1], metric=kind, connectivity=M, expansion_add=EF_BUILD, dtype="f32")
        native.add(np.arange(len(rows)), rows, threads=threads)
        return cls(native)

    def tune(self, effort: int, threads: int) -> None:
        self.native.expansion_search = effort
        self.threads = threads

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        return self.native.search(queries, k, threads=self.threads).keys

    def single(self, query: np.ndarray, k: int) -> Any:
        return self.native.search(query, k, threads=self.threads)

    def save(self, path: Path) -> None:
        self.native.save(str(path))

    @classmethod
    def load(cls, path: Path, rows: np.ndarray, metric: str) -> Usearch:
        from usearch.index import Index

        return cls(Index.restore(str(path)))
