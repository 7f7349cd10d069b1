"""The other libraries by name, each run as its users run it and with rows in the form that is fastest for it."""

from __future__ import annotations

import shutil
import sys
import tempfile
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from .hnsw import Faiss, Flat, Hnswlib, Usearch
from .index import Index, Ours, Wrapped, as_floats

SVS_DEGREE, SVS_WINDOW, SVS_ALPHA, SVS_ALPHA_IP = 32, 200, 1.2, 0.95
NGT_EDGES, NGT_SEARCH_EDGES = 20, 60  # of PANNG in ann-benchmarks


def bytes_or_floats(rows: np.ndarray, metric: str) -> np.ndarray:
    """uint8 rows under l2 as they are, others as float32."""
    return rows if rows.dtype == np.uint8 and metric == "l2" else as_floats(rows, metric)


def halves(rows: np.ndarray, metric: str) -> np.ndarray:
    """float16 rows, of length one for cosine."""
    return as_floats(rows, metric).astype(np.float16)


class Svs(Wrapped):
    """SVS Vamana on plain rows, unit rows under l2 for cosine. Never its LVQ codes, which end the process on processors that
    they were not made for."""

    package, module = "scalable-vs", "svs"
    form = staticmethod(bytes_or_floats)

    @staticmethod
    def distance(metric: str) -> Any:
        import svs

        svs.logging.set_level(svs.logging.level.off)
        return svs.DistanceType.MIP if metric == "ip" else svs.DistanceType.L2

    @classmethod
    def build(cls, rows: np.ndarray, metric: str, threads: int) -> Svs:
        import svs

        alpha = SVS_ALPHA_IP if metric == "ip" else SVS_ALPHA
        wanted = svs.VamanaBuildParameters(graph_max_degree=SVS_DEGREE, window_size=SVS_WINDOW, alpha=alpha)
        return cls(svs.Vamana.build(wanted, rows, cls.distance(metric), num_threads=threads))

    def tune(self, effort: int, threads: int) -> None:
        self.native.num_threads = threads
        self.native.search_window_size = effort

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        return self.native.search(queries, k)[0]

    def single(self, query: np.ndarray, k: int) -> Any:
        return self.native.search(query, k)

    def save(self, path: Path) -> None:
        path.mkdir()
        self.native.save(*(str(path / part) for part in ("config", "graph", "rows")))

    @classmethod
    def load(cls, path: Path, rows: np.ndarray, metric: str) -> Svs:
        import svs

        stored = svs.VectorDataLoader(str(path / "rows"), getattr(svs, rows.dtype.name))
        return cls(svs.Vamana(str(path / "config"), svs.GraphLoader(str(path / "graph")), stored, cls.distance(metric)))


class Svs16(Svs):
    """SVS Vamana on float16 rows."""

    form = staticmethod(halves)


class Ngt:
    """NGT's ANNG with the numbers of edges of ann-benchmarks' PANNG, whose pruning only its command-line tool does."""

    package, module, metrics = "ngt", "ngtpy", ("l2", "cosine")
    form = staticmethod(bytes_or_floats)

    def __init__(self, path: Path, home: tempfile.TemporaryDirectory[str] | None = None) -> None:
        import ngtpy

        self.path, self.home = path, home  # home: lives as long as the index
        self.native = ngtpy.Index(str(path), log_disabled=True)

    @classmethod
    def build(cls, rows: np.ndarray, metric: str, threads: int) -> Ngt:
        import ngtpy

        home = tempfile.TemporaryDirectory(prefix="bench-ngt-")
        path = Path(home.name) / "anng"
        kind = "Byte" if rows.dtype == np.uint8 else "Float"
        ngtpy.create(str(path), rows.shape[1], NGT_EDGES, NGT_SEARCH_EDGES, "L2", kind)
        index = cls(path, home)
        index.native.batch_insert(rows, num_threads=threads)
        return index

    def tune(self, effort: int, threads: int) -> None:
        """Its own dial is epsilon, how far beyond the k-th distance it looks: -.06 at an effort of 10, .05 more an octave."""
        self.native.set(epsilon=-0.06 + 0.05 * float(np.log2(effort / 10)))
        threadpool_limits(threads, user_api="openmp")  # its batches take as many threads as OpenMP gives

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        import ngtpy

        found = ngtpy.BatchResults()
        self.native.batch_search(queries, found, k, with_distance=False)
        return found.get_ids()

    def single(self, query: np.ndarray, k: int) -> Any:
        return self.native.search(query, k, with_distance=False)

    def save(self, path: Path) -> None:
        self.native.save()
        shutil.copytree(self.path, path)

    @classmethod
    def load(cls, path: Path, rows: np.ndarray, metric: str) -> Ngt:
        return cls(path)


PEERS: dict[str, type[Index]] = {
    "hnswlib": Hnswlib,
    "faiss": Faiss,
    "usearch": Usearch,
    "svs": Svs,
    "svs16": Svs16,
    "ngt": Ngt,
    "flat": Flat,
}
KINDS: dict[str, type[Index]] = {"ours": Ours, **PEERS}


def chosen(names: str) -> list[str]:
    """The peers of a comma list that are installed; a line for each that is not. Ends the process on an unknown name."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in PEERS:
            sys.exit(f"unknown peer {name!r}: give some of {', '.join(PEERS)}, separated by commas")
    there = [name for name in wanted if util.find_spec(PEERS[name].module)]
    for name in wanted:
        if name not in there:
            print(f"{name} is not installed: pip install {PEERS[name].package}", flush=True)
    return there


def versions(names: list[str]) -> dict[str, str]:
    """The version of each peer's package."""
    return {name: metadata.version(PEERS[name].package) for name in names}
