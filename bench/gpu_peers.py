"""Other libraries on the card, each run as its users run it: rows and queries lie on the card, and so do the answers."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Protocol

import numpy as np

import omendb_kernels as ok

from .curves import EFFORTS
from .gpu import Device, in_force
from .index import METRICS, as_floats
from .peers import bytes_or_floats

MATRIX = 1 << 29  # distances of torch that stand at a time: 2 GiB
ITOPK: tuple[int, ...] = (32, 64, 96, 128, 160, 192, 256, 384, 512)  # cuVS rounds up to multiples of 32
EXACT: tuple[int, ...] = (0,)  # the dial of what has none


class Peer(Protocol):
    """An index on the card.

    label: its name in the tables; module: what Python imports; metrics: those it serves; efforts: what the dial of a graph is
    turned to, EXACT of an exact scan.
    """

    label: str
    module: str
    metrics: tuple[str, ...]
    efforts: tuple[int, ...]

    @staticmethod
    def form(rows: np.ndarray, metric: str) -> np.ndarray:
        """Rows or queries (n, d) as the library takes them, made on the host, outside any timer."""
        ...

    @classmethod
    def build(cls, rows: Any, metric: str, card: Device) -> Peer:
        """Index rows (n, d) that `form` made and the card holds."""
        ...

    def search(self, queries: Any, k: int, effort: int) -> Any:
        """Ids (m, k) on the card, of queries there; they may still be computed when this returns."""
        ...


def as_they_are(rows: np.ndarray, metric: str) -> np.ndarray:
    """What ours takes."""
    return rows


class OursExact:
    """Certified exact search."""

    label, module, metrics, efforts = "ours", "omendb_kernels", METRICS, EXACT
    form = staticmethod(as_they_are)

    def __init__(self, points: ok.PointSet, card: Device) -> None:
        self.points, self.card = points, card

    @classmethod
    def build(cls, rows: Any, metric: str, card: Device) -> OursExact:
        with in_force(card.backend):
            return cls(ok.PointSet.encode(rows, metric), card)

    def search(self, queries: Any, k: int, effort: int) -> Any:
        with in_force(self.card.backend):
            return ok.knn_certified(queries, self.points, k)[1]


class OursGraph:
    """The graph; its dial is the beam."""

    label, module, metrics, efforts = "ours", "omendb_kernels", METRICS, EFFORTS
    form = staticmethod(as_they_are)

    def __init__(self, graph: ok.Graph, points: ok.PointSet, card: Device) -> None:
        self.graph, self.points, self.card = graph, points, card

    @classmethod
    def build(cls, rows: Any, metric: str, card: Device) -> OursGraph:
        with in_force(card.backend):
            return cls(*ok.build_graph(rows, metric)[:2], card)

    def search(self, queries: Any, k: int, effort: int) -> Any:
        with in_force(self.card.backend):
            return ok.search_graph(self.graph, self.points, queries, k, beam=effort)[1]


class TorchScan:
    """A product and topk in float32, TF32 off: under l2 with the lengths of rows added, for cosine of unit rows."""

    label, module, metrics, efforts = "torch", "torch", METRICS, EXACT
    form = staticmethod(as_floats)

    def __init__(self, rows: Any, metric: str) -> None:
        import torch

        self.torch, self.rows = torch, torch.from_dlpack(rows)
        self.squares = torch.linalg.vector_norm(self.rows, dim=1).square() if metric == "l2" else None

    @classmethod
    def build(cls, rows: Any, metric: str, card: Device) -> TorchScan:
        return cls(rows, metric)

    def search(self, queries: Any, k: int, effort: int) -> Any:
        self.torch.set_float32_matmul_precision("highest")  # no TF32, whatever another library has set
        found = []
        for block in self.torch.from_dlpack(queries).split(max(1, MATRIX // len(self.rows))):
            if self.squares is None:
                found.append((block @ self.rows.T).topk(k).indices)
            else:
                found.append(self.torch.addmm(self.squares, block, self.rows.T, alpha=-2).topk(k, largest=False).indices)
        return self.torch.cat(found)


class FaissFlat:
    """GpuIndexFlat on float32 rows, unit rows under l2 for cosine. By pointers: its Python wrappers take no CuPy arrays, and
    those that take tensors take no parameters of a search."""

    label, module, metrics, efforts = "faiss flat", "faiss", METRICS, EXACT
    form = staticmethod(as_floats)

    def __init__(self, rows: Any, metric: str, card: Device) -> None:
        import faiss

        self.faiss, self.rows, self.card = faiss, rows, card
        self.resources = faiss.StandardGpuResources()
        self.index = self.made(rows.shape[1], faiss.METRIC_INNER_PRODUCT if metric == "ip" else faiss.METRIC_L2)

    def made(self, dim: int, metric: Any) -> Any:
        """The index with its rows."""
        index = self.faiss.GpuIndexFlat(self.resources, dim, metric, self.faiss.GpuIndexFlatConfig())
        index.add_c(len(self.rows), self.floats(self.rows))
        return index

    @classmethod
    def build(cls, rows: Any, metric: str, card: Device) -> FaissFlat:
        return cls(rows, metric, card)

    def floats(self, array: Any) -> Any:
        """The pointer that FAISS takes, as it makes it of an address."""
        return self.faiss.cast_integer_to_float_ptr(address(array))

    def parameters(self, effort: int) -> Any:
        """Those of a search."""
        return None

    def search(self, queries: Any, k: int, effort: int) -> Any:
        distances = self.card.cupy.empty((len(queries), k), np.float32)
        ids = self.card.cupy.empty((len(queries), k), np.int64)
        labels, parameters = self.faiss.cast_integer_to_idx_t_ptr(address(ids)), self.parameters(effort)
        self.index.search_c(len(queries), self.floats(queries), k, self.floats(distances), labels, parameters)
        return ids


class FaissCagra(FaissFlat):
    """GpuIndexCagra with the degrees and the IVF-PQ build that are its defaults; its dial is itopk_size."""

    label, efforts = "faiss CAGRA", ITOPK

    def made(self, dim: int, metric: Any) -> Any:
        index = self.faiss.GpuIndexCagra(self.resources, dim, metric, self.faiss.GpuIndexCagraConfig())
        index.train_c(len(self.rows), self.floats(self.rows))
        return index

    def parameters(self, effort: int) -> Any:
        found = self.faiss.SearchParametersCagra()
        found.itopk_size = effort
        return found


class CuvsScan:
    """brute_force on float32 rows, unit rows under l2 for cosine: its fused kernel is for l2."""

    label, module, metrics, efforts = "cuvs brute force", "cuvs", METRICS, EXACT
    form = staticmethod(as_floats)

    def __init__(self, rows: Any, metric: str) -> None:
        from cuvs.common import Resources

        self.rows = rows  # of which the index may hold a view
        self.resources = Resources()  # one for all calls; without, each makes its own and waits for it
        self.index = self.made("inner_product" if metric == "ip" else "sqeuclidean")

    def made(self, metric: str) -> Any:
        """The index of the rows."""
        from cuvs.neighbors import brute_force

        self.native = brute_force
        return brute_force.build(self.rows, metric=metric, resources=self.resources)

    @classmethod
    def build(cls, rows: Any, metric: str, card: Device) -> CuvsScan:
        return cls(rows, metric)

    def search(self, queries: Any, k: int, effort: int) -> Any:
        return self.native.search(self.index, queries, k, resources=self.resources)[1]


class CuvsCagra(CuvsScan):
    """cagra of degree 64 by NN-descent, unit rows under l2 for cosine, bytes as they are; its dial is itopk_size."""

    label, efforts, degree = "cuvs CAGRA 64", ITOPK, 64
    form = staticmethod(bytes_or_floats)

    def made(self, metric: str) -> Any:
        from cuvs.neighbors import cagra

        self.native = cagra
        degrees = {"graph_degree": self.degree, "intermediate_graph_degree": 2 * self.degree}
        wanted = cagra.IndexParams(metric=metric, build_algo="nn_descent", **degrees)
        return cagra.build(wanted, self.rows, resources=self.resources)

    def search(self, queries: Any, k: int, effort: int) -> Any:
        wanted = self.native.SearchParams(itopk_size=effort)
        return self.native.search(wanted, self.index, queries, k, resources=self.resources)[1]


class CuvsCagra32(CuvsCagra):
    """The same of degree 32."""

    label, degree = "cuvs CAGRA 32", 32


class FlashScan:
    """flash_knn on float32 rows, which it ranks by products in TF32. Knows l2 only: unit rows for cosine, no ip."""

    label, module, metrics, efforts = "flashlib kNN", "flashlib", ("l2", "cosine"), EXACT
    form = staticmethod(as_floats)

    def __init__(self, rows: Any) -> None:
        import flashlib
        import torch

        self.flashlib, self.tensor = flashlib, torch.from_dlpack
        self.index = self.made(self.tensor(rows))

    def made(self, rows: Any) -> Any:
        """What is searched."""
        return rows

    @classmethod
    def build(cls, rows: Any, metric: str, card: Device) -> FlashScan:
        return cls(rows)

    def search(self, queries: Any, k: int, effort: int) -> Any:
        return self.flashlib.flash_knn(self.tensor(queries), self.index, k, return_distances=False)


class FlashCagra(FlashScan):
    """flash_cagra of degree 64; its dial is itopk_size, with the search_width that its own benchmark pairs with it."""

    label, degree = "flashlib CAGRA 64", 64
    efforts: tuple[int, ...] = (48, 64, 96, 128, 160, 192, 256, 384)
    widths: tuple[int, ...] = (1, 1, 2, 2, 1, 1, 2, 2)

    def made(self, rows: Any) -> Any:
        return self.flashlib.flash_cagra_build(rows, graph_degree=self.degree)

    def search(self, queries: Any, k: int, effort: int) -> Any:
        dial = {"itopk_size": effort, "search_width": self.widths[self.efforts.index(effort)]}
        return self.flashlib.flash_cagra_search(self.index, self.tensor(queries), k, **dial)[1]


class FlashCagra32(FlashCagra):
    """The same of degree 32, its default."""

    label, degree = "flashlib CAGRA 32", 32
    efforts, widths = (32, 64, 96, 128, 160, 192), (2, 2, 2, 4, 2, 2)


PEERS: dict[str, tuple[type[Peer], ...]] = {
    "torch": (TorchScan,),
    "faiss": (FaissFlat, FaissCagra),
    "cuvs": (CuvsScan, CuvsCagra32, CuvsCagra),
    "flashlib": (FlashScan, FlashCagra32, FlashCagra),
}
PACKAGES = {"torch": "torch", "faiss": "faiss-gpu-cuvs", "cuvs": "cuvs-cu13", "flashlib": "flashlib"}


def address(array: Any) -> int:
    """Where an array begins, on the card, or on the host for one of NumPy."""
    interface = getattr(array, "__cuda_array_interface__", None) or array.__array_interface__
    return int(interface["data"][0])


def why(error: Exception) -> str:
    """An error in a line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def chosen(names: str) -> list[type[Peer]]:
    """The peers of a comma list that can run; a line for each that cannot. Ends the process on an unknown name."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in PEERS:
            sys.exit(f"unknown peer {name!r}: give some of {', '.join(PEERS)}, separated by commas")
    found: list[type[Peer]] = []
    for name in wanted:
        for kind in PEERS[name] if (lacking := _lacking(name)) is None else ():
            if kind is FaissCagra and not hasattr(importlib.import_module("faiss"), "GpuIndexCagra"):
                lacking = "is a build without CAGRA"
            else:
                found.append(kind)
        if lacking:
            print(f"{name} {lacking}: pip install {PACKAGES[name]}", flush=True)
    return found


def _lacking(name: str) -> str | None:
    """Why a library cannot run here."""
    try:
        module: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        return "is not installed" if error.name == name else f"cannot be imported ({why(error)})"
    except Exception as error:  # noqa: BLE001  a library of the CUDA toolkit that is not there, say
        return f"cannot be imported ({why(error)})"
    if name == "torch" and not module.cuda.is_available():
        return "sees no GPU"
    if name == "faiss" and not hasattr(module, "StandardGpuResources"):
        return "is a build without GPU"
    return None


def versions(kinds: list[type[Peer]]) -> dict[str, str]:
    """Of the libraries of these peers, as they tell it themselves: their packages go by many names."""
    return {kind.module: str(getattr(importlib.import_module(kind.module), "__version__", "unknown")) for kind in kinds}
