"""Ours and other libraries' indexes behind one face, each run as its users run it and with rows in its fastest form."""

from __future__ import annotations

import sys
import tempfile
from abc import ABC, abstractmethod
from importlib import metadata, util
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

import omendb

M, EF_BUILD = 16, 200  # of the HNSW libraries
SVS_DEGREE, SVS_WINDOW, SVS_ALPHA = 32, 200, 1.2
NGT_EDGES, NGT_OUT, NGT_IN = 100, 10, 120  # ONNG, as its authors run it in ann-benchmarks


def as_floats(rows: np.ndarray, metric: str) -> np.ndarray:
    """float32 rows; of length one for cosine, which the peers then search by inner product or l2: both rank alike."""
    floats = rows.astype(np.float32)
    return floats / np.linalg.norm(floats, axis=1, keepdims=True) if metric == "cosine" else floats


class Index(ABC):
    """A built index. `tune` once, then `search` or `single`: what a setting costs is in no time."""

    package: ClassVar[str]  # the distribution, as pip names it
    module: ClassVar[str]

    form = staticmethod(as_floats)  # rows or queries (n, d) and a metric -> the form that the library takes

    @classmethod
    @abstractmethod
    def build(cls, rows: np.ndarray, metric: str, threads: int) -> Index:
        """Index rows that `form` made."""

    @abstractmethod
    def tune(self, effort: int, threads: int) -> None:
        """effort: the beam, ef or window; threads: for batches."""

    @abstractmethod
    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        """Ids (m, k) of queries (m, d) that `form` made."""

    @abstractmethod
    def single(self, query: np.ndarray, k: int) -> Any:
        """Whatever the library answers to one query (d,), by its shortest way; one thread when tuned to one."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write to `path`, a file or a folder that is not there yet. Its bytes are the size of the index."""

    @classmethod
    @abstractmethod
    def load(cls, path: Path, dim: int, metric: str) -> Index:
        """What `save` wrote."""


class Ours(Index):
    """The database, always with a graph; rows as the set holds them."""

    package, module = "omendb-kernels", "omendb"

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
    def load(cls, path: Path, dim: int, metric: str) -> Ours:
        return cls(omendb.DB.load(path, build_threshold=1))


class Hnswlib(Index):
    """hnswlib."""

    package = module = "hnswlib"

    def __init__(self, native: Any) -> None:
        self.native = native

    @classmethod
    def empty(cls, dim: int, metric: str) -> Any:
        import hnswlib

        return hnswlib.Index(space="l2" if metric == "l2" else "ip", dim=dim)

    @classmethod
    def build(cls, rows: np.ndarray, metric: str, threads: int) -> Hnswlib:
        native = cls.empty(rows.shape[1], metric)
        native.init_index(len(rows), M=M, ef_construction=EF_BUILD)
        native.add_items(rows, num_threads=threads)
        return cls(native)

    def tune(self, effort: int, threads: int) -> None:
        self.native.set_ef(effort)
        self.threads = threads

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        return self.native.knn_query(queries, k, num_threads=self.threads)[0].astype(np.int64)

    def single(self, query: np.ndarray, k: int) -> Any:
        return self.native.knn_query(query, k, num_threads=self.threads)

    def save(self, path: Path) -> None:
        self.native.save_index(str(path))

    @classmethod
    def load(cls, path: Path, dim: int, metric: str, room: int = 0) -> Hnswlib:
        native = cls.empty(dim, metric)
        native.load_index(str(path), max_elements=room)
        return cls(native)


class Faiss(Index):
    """FAISS HNSWFlat."""

    package, module = "faiss-cpu", "faiss"

    def __init__(self, native: Any) -> None:
        self.native = native

    @classmethod
    def empty(cls, dim: int, metric: str) -> Any:
        import faiss

        native = faiss.IndexHNSWFlat(dim, M, faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)
        native.hnsw.efConstruction = EF_BUILD
        return native

    @classmethod
    def build(cls, rows: np.ndarray, metric: str, threads: int) -> Faiss:
        import faiss

        faiss.omp_set_num_threads(threads)
        native = cls.empty(rows.shape[1], metric)
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

    def save(self, path: Path) -> None:
        import faiss

        faiss.write_index(self.native, str(path))

    @classmethod
    def load(cls, path: Path, dim: int, metric: str) -> Faiss:
        import faiss

        return cls(faiss.read_index(str(path)))


class Flat(Faiss):
    """FAISS Flat: exact, whatever the effort."""

    @classmethod
    def empty(cls, dim: int, metric: str) -> Any:
        import faiss

        return faiss.IndexFlatL2(dim) if metric == "l2" else faiss.IndexFlatIP(dim)

    def tune(self, effort: int, threads: int) -> None:
        import faiss

        faiss.omp_set_num_threads(threads)


class Usearch(Index):
    """usearch."""

    package = module = "usearch"

    def __init__(self, native: Any) -> None:
        self.native = native

    @classmethod
    def build(cls, rows: np.ndarray, metric: str, threads: int) -> Usearch:
        from usearch.index import Index as Native

        kind = "l2sq" if metric == "l2" else "ip"
        native = Native(ndim=rows.shape[1], metric=kind, connectivity=M, expansion_add=EF_BUILD, dtype="f32")
        native.add(np.arange(len(rows)), rows, threads=threads)
        return cls(native)

    def tune(self, effort: int, threads: int) -> None:
        self.native.expansion_search = effort
        self.threads = threads

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        return self.native.search(queries, k, threads=self.threads).keys.astype(np.int64)

    def single(self, query: np.ndarray, k: int) -> Any:
        return self.native.search(query, k, threads=self.threads)

    def save(self, path: Path) -> None:
        self.native.save(str(path))

    @classmethod
    def load(cls, path: Path, dim: int, metric: str) -> Usearch:
        from usearch.index import Index as Native

        return cls(Native.restore(str(path)))


class Svs(Index):
    """SVS Vamana on plain rows: uint8 as they are under l2, its fastest form, else float32. Never its LVQ codes, which end
    the process on processors that they were not made for."""

    package, module = "scalable-vs", "svs"

    def __init__(self, native: Any) -> None:
        self.native = native

    @staticmethod
    def form(rows: np.ndarray, metric: str) -> np.ndarray:
        return rows if rows.dtype == np.uint8 and metric == "l2" else as_floats(rows, metric)

    @classmethod
    def build(cls, rows: np.ndarray, metric: str, threads: int) -> Svs:
        import svs

        _no_ip(metric, cls)
        wanted = svs.VamanaBuildParameters(graph_max_degree=SVS_DEGREE, window_size=SVS_WINDOW, alpha=SVS_ALPHA)
        return cls(svs.Vamana.build(wanted, rows, svs.DistanceType.L2, num_threads=threads))

    def tune(self, effort: int, threads: int) -> None:
        self.native.num_threads = threads
        self.native.search_window_size = effort

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        return self.native.search(queries, k)[0].astype(np.int64)

    def single(self, query: np.ndarray, k: int) -> Any:
        return self.native.search(query[None], k)

    def save(self, path: Path) -> None:
        path.mkdir()
        kind = str(self.native.query_types[0]).split(".")[-1]  # the rows' type comes first
        (path / "type").write_text(kind)
        self.native.save(*(str(path / part) for part in ("config", "graph", "data")))

    @classmethod
    def load(cls, path: Path, dim: int, metric: str) -> Svs:
        import svs

        kind = getattr(svs.DataType, (path / "type").read_text())
        graph, rows = svs.GraphLoader(str(path / "graph")), svs.VectorDataLoader(str(path / "data"), kind)
        return cls(svs.Vamana(str(path / "config"), graph, rows, svs.DistanceType.L2, query_type=kind, num_threads=1))


class Svs16(Svs):
    """SVS Vamana on float16 rows."""

    @staticmethod
    def form(rows: np.ndarray, metric: str) -> np.ndarray:
        return as_floats(rows, metric).astype(np.float16)


class Ngt(Index):
    """NGT's ONNG. It has no batch call from Python: a batch is a loop of single searches on one thread."""

    package, module = "ngt", "ngtpy"

    def __init__(self, path: Path, home: Any = None) -> None:
        import ngtpy

        self.path, self.home = path, home  # home: the temporary folder, which lives as long as the index
        self.native = ngtpy.Index(str(path), read_only=True, log_disabled=True)

    @staticmethod
    def form(rows: np.ndarray, metric: str) -> np.ndarray:
        return Svs.form(rows, metric)

    @classmethod
    def build(cls, rows: np.ndarray, metric: str, threads: int) -> Ngt:
        import ngtpy

        _no_ip(metric, cls)
        home = tempfile.TemporaryDirectory(prefix="bench-ngt-")
        raw, done = Path(home.name) / "anng", Path(home.name) / "onng"
        kind = "Byte" if rows.dtype == np.uint8 else "Float"
        ngtpy.create(str(raw), rows.shape[1], NGT_EDGES, 0, "L2", kind)
        native = ngtpy.Index(str(raw), log_disabled=True)
        native.batch_insert(rows, num_threads=threads, build=False)
        native.build_index(num_threads=threads)
        native.save()
        native.close()
        optimizer = ngtpy.Optimizer(num_of_outgoings=NGT_OUT, num_of_incomings=NGT_IN, log_disabled=True)
        # Only the graph's links: what else it tunes takes most of a minute at 6,000 rows, and our effort gives epsilon.
        optimizer.set_processing_modes(True, False, False, False)
        optimizer.execute(str(raw), str(done))
        return cls(done, home)

    def tune(self, effort: int, threads: int) -> None:
        """Its own dial is epsilon, how far beyond the k-th distance it explores: -.1 at an effort of 10, .04 more an octave."""
        self.native.set(epsilon=-0.1 + 0.04 * float(np.log2(effort / 10)))

    def search(self, queries: np.ndarray, k: int) -> np.ndarray:
        found = np.full((len(queries), k), -1, np.int64)  # it may find fewer than k
        for line, query in zip(found, queries, strict=True):
            ids = self.native.search(query, k, with_distance=False)
            line[: len(ids)] = ids
        return found

    def single(self, query: np.ndarray, k: int) -> Any:
        return self.native.search(query, k, with_distance=False)

    def save(self, path: Path) -> None:
        import shutil

        shutil.copytree(self.path, path)

    @classmethod
    def load(cls, path: Path, dim: int, metric: str) -> Ngt:
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


def _no_ip(metric: str, kind: type[Index]) -> None:
    if metric == "ip":
        raise ValueError(f"{kind.package} is not run under ip: its build parameters here are those of l2")


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
