"""Graph indexes of other libraries, as their users run them: M = 16 and an ef of 200 while building, float32 rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import omendb

M, EF_BUILD = 16, 200


@dataclass(frozen=True)
class Index:
    """A built index: search(queries, k, effort, threads) gives ids (m, k); effort is the beam, or ef.

    native: takes queries as the set holds them; others want `as_floats`, made outside the timer.
    """

    search: Callable[[Any, int, int, int], np.ndarray]
    native: bool = False


Builder = Callable[[np.ndarray, str, int], Index]


def as_floats(rows: np.ndarray, metric: str) -> np.ndarray:
    """float32 rows; of length one for cosine, which the peers then search by inner product."""
    floats = rows.astype(np.float32)
    return floats / np.linalg.norm(floats, axis=1, keepdims=True) if metric == "cosine" else floats


def ours(rows: np.ndarray, metric: str, threads: int) -> Index:
    db = omendb.DB.build_from_numpy(rows, metric=metric, threads=threads)
    return Index(lambda q, k, effort, threads: db.search(q, k=k, beam=effort, threads=threads).ids, native=True)


def hnswlib(rows: np.ndarray, metric: str, threads: int) -> Index:
    import hnswlib

    index = hnswlib.Index(space="l2" if metric == "l2" else "ip", dim=rows.shape[1])
    index.init_index(len(rows), M=M, ef_construction=EF_BUILD)
    index.add_items(as_floats(rows, metric), num_threads=threads)

    def search(queries: np.ndarray, k: int, effort: int, threads: int) -> np.ndarray:
        index.set_ef(effort)
        return index.knn_query(queries, k, num_threads=threads)[0].astype(np.int64)

    return Index(search)


def faiss_hnsw(rows: np.ndarray, metric: str, threads: int) -> Index:
    import faiss

    faiss.omp_set_num_threads(threads)
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexHNSWFlat(rows.shape[1], M, kind)
    index.hnsw.efConstruction = EF_BUILD
    index.add(as_floats(rows, metric))

    def search(queries: np.ndarray, k: int, effort: int, threads: int) -> np.ndarray:
        faiss.omp_set_num_threads(threads)
        index.hnsw.efSearch = effort
        return index.search(queries, k)[1]

    return Index(search)


def usearch(rows: np.ndarray, metric: str, threads: int) -> Index:
    from usearch.index import Index as Native

    index = Native(
        ndim=rows.shape[1], metric="l2sq" if metric == "l2" else "ip", connectivity=M, expansion_add=EF_BUILD, dtype="f32"
    )
    index.add(np.arange(len(rows)), as_floats(rows, metric), threads=threads)

    def search(queries: np.ndarray, k: int, effort: int, threads: int) -> np.ndarray:
        index.expansion_search = effort
        return index.search(queries, k, threads=threads).keys.astype(np.int64)

    return Index(search)


BUILDERS: dict[str, Builder] = {"ours": ours, "hnswlib": hnswlib, "faiss": faiss_hnsw, "usearch": usearch}
