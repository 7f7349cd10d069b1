"""Libraries of the card without a card: what bench/gpu_peers.py calls, with the signatures that they really have.

Read from NVIDIA/cuvs at fdd404f (26.10) and v26.08.01, facebookresearch/faiss at 02dbb4e (1.15), flashlib 0.4.0 and
FlashML-org/flashlib at 81e5dea (0.3.0). They compute on the processor: FAISS by the one that is installed, by pointers as on a
card; the others by NumPy and torch. A graph's dial works: at 32 two of ten ids are wrong, at 64 one, above none.
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace

import numpy as np

METRICS = {"sqeuclidean", "inner_product", "cosine", "euclidean", "l2"}  # of cuvs.distance.DISTANCE_TYPES
DTYPES = (np.float32, np.float16, np.int8, np.uint8)


def nearest(queries, rows, k, ip=False):
    """Row numbers (m, k), nearest first, and the farthest row of each query."""
    queries, rows = (np.asarray(part, np.float64) for part in (queries, rows))
    found = -2 * (1 + ip) * queries @ rows.T + (0 if ip else (rows**2).sum(axis=1))
    order = np.argsort(found, axis=1, kind="stable")
    return order[:, :k], order[:, -1:]


def dialled(ids, farthest, itopk):
    """`ids` as a graph finds them that keeps so many candidates."""
    found = ids.copy()
    wrong = max(0, 3 - itopk // 32)
    found[:, found.shape[1] - wrong :] = farthest
    return found


# ---- cuvs ----------------------------------------------------------------------------------------------------------


class Resources:
    def __init__(self, stream=None, memory_tracking_csv_path=None, memory_tracking_sample_interval_ms=10):
        pass


def _checked(array, dtypes, resources):
    assert isinstance(resources, Resources)
    if array.dtype not in dtypes:
        raise TypeError(f"dtype {array.dtype} not supported")
    if not array.flags.c_contiguous:
        raise ValueError("Row major input is expected")
    return array


class BruteForce:
    def build(self, dataset, metric="sqeuclidean", metric_arg=2.0, resources=None):
        assert metric in METRICS
        return SimpleNamespace(rows=_checked(dataset, DTYPES[:2], resources), ip=metric == "inner_product")

    def search(self, index, queries, k, neighbors=None, distances=None, resources=None, prefilter=None):
        ids, _ = nearest(_checked(queries, DTYPES[:2], resources), index.rows, k, index.ip)
        return np.zeros(ids.shape, np.float32), ids


class Cagra:
    class IndexParams:
        def __init__(
            self,
            *,
            metric="sqeuclidean",
            intermediate_graph_degree=128,
            graph_degree=64,
            build_algo="ivf_pq",
            nn_descent_niter=20,
            ivf_pq_build_params=None,
            ivf_pq_search_params=None,
            ace_params=None,
            refinement_rate=1.0,
        ):
            assert metric in METRICS
            assert build_algo in {"ivf_pq", "nn_descent", "iterative_cagra_search", "ace"}
            assert graph_degree <= intermediate_graph_degree
            self.metric = metric

    class SearchParams:
        def __init__(
            self,
            *,
            max_queries=0,
            itopk_size=64,
            max_iterations=0,
            algo="auto",
            team_size=0,
            search_width=1,
            min_iterations=0,
            thread_block_size=0,
            hashmap_mode="auto",
            hashmap_min_bitlen=0,
            hashmap_max_fill_rate=0.5,
            num_random_samplings=1,
            rand_xor_mask=0x128394,
            persistent=False,
            persistent_lifetime=None,
            persistent_device_usage=None,
        ):
            self.itopk_size = itopk_size

    def build(self, index_params, dataset, resources=None):
        assert isinstance(index_params, Cagra.IndexParams)
        return SimpleNamespace(rows=_checked(dataset, DTYPES, resources), ip=index_params.metric == "inner_product")

    def search(self, search_params, index, queries, k, neighbors=None, distances=None, resources=None, filter=None):  # noqa: A002
        assert isinstance(search_params, Cagra.SearchParams)
        assert queries.dtype == index.rows.dtype
        found = nearest(_checked(queries, DTYPES, resources), index.rows, k, index.ip)
        ids = dialled(*found, search_params.itopk_size)
        return np.zeros(ids.shape, np.float32), ids.astype(np.uint32)


def cuvs():
    """cuvs and its modules, by name."""
    package, common, neighbors = ModuleType("cuvs"), ModuleType("cuvs.common"), ModuleType("cuvs.neighbors")
    package.__version__ = "26.10.00"
    common.Resources = Resources
    neighbors.brute_force, neighbors.cagra = BruteForce(), Cagra()
    return {"cuvs": package, "cuvs.common": common, "cuvs.neighbors": neighbors}


# ---- flashlib ------------------------------------------------------------------------------------------------------


class Flashlib(ModuleType):
    __version__ = "0.4.0"

    def __init__(self, torch):
        super().__init__("flashlib")
        self.torch = torch

    def _found(self, queries, rows, k):
        assert all(type(part) is self.torch.Tensor and part.dim() == 2 for part in (queries, rows))
        assert queries.dtype == rows.dtype == self.torch.float32
        return nearest(queries.numpy(), rows.numpy(), k)

    def flash_knn(self, x, c, k, *, tol=None, backend=None, return_distances=True):  # and **kwargs of a backend
        ids = self.torch.from_numpy(self._found(x, c, k)[0].astype(np.int32))
        return (ids.float(), ids) if return_distances else ids

    def flash_cagra_build(
        self,
        X,
        *,
        graph_degree=32,
        intermediate_graph_degree=None,
        build_algo="auto",
        metric="l2",
        rev_ratio=0.5,
        search_dtype=None,
        nlist=None,
        nprobe=None,
        ivf_pq_m=None,
        niter=20,
        seed=0,
        backend=None,
    ):
        assert metric == "l2"
        assert graph_degree & (graph_degree - 1) == 0
        assert len(X) > graph_degree
        return SimpleNamespace(rows=X)

    def flash_cagra_search(
        self,
        index,
        Q,
        k,
        *,
        itopk_size=None,
        search_width=1,
        max_iterations=None,
        n_seeds=32,
        seed=0,
        seed_mode="routed",
        compact_every=None,
        rerank=True,
        backend=None,
    ):
        assert itopk_size >= k
        ids = self.torch.from_numpy(dialled(*self._found(Q, index.rows, k), itopk_size))
        return ids.float(), ids


# ---- faiss ---------------------------------------------------------------------------------------------------------


def faiss(real):
    """FAISS with the GPU classes, over `real`, the one that is installed: they take pointers, as those of a card do."""

    class Flat:
        def __init__(self, provider, dims, metric, config=None):
            assert isinstance(provider, module.StandardGpuResources)
            assert config is None or isinstance(config, module.GpuIndexFlatConfig)
            self.d, self.flat = dims, real.IndexFlat(dims, metric)

        def add_c(self, n, x):
            self.flat.add_c(n, x)

        def search_c(self, n, x, k, distances, labels, params=None):
            assert params is None
            self.flat.search_c(n, x, k, distances, labels, None)

    class CagraIndex:
        def __init__(self, provider, dims, metric=real.METRIC_L2, config=None):
            assert isinstance(provider, module.StandardGpuResources)
            assert config is None or isinstance(config, module.GpuIndexCagraConfig)
            self.flat = real.IndexFlat(dims, metric)

        def train_c(self, n, x):
            self.flat.add_c(n, x)

        def search_c(self, n, x, k, distances, labels, params=None):
            assert params is None or isinstance(params, module.SearchParametersCagra)
            wrong = max(0, 3 - (params.itopk_size if params else 64) // 32)
            self.flat.search_c(n, x, k, distances, labels, None)
            real.rev_swig_ptr(labels, n * k).reshape(n, k)[:, k - wrong :] = -1

    class SearchParametersCagra:
        __slots__ = ("itopk_size",)  # and others that nobody sets

        def __init__(self):
            self.itopk_size = 64

    module = ModuleType("faiss")
    for name in ("METRIC_L2", "METRIC_INNER_PRODUCT", "cast_integer_to_float_ptr", "cast_integer_to_idx_t_ptr", "__version__"):
        setattr(module, name, getattr(real, name))
    for name in ("StandardGpuResources", "GpuIndexFlatConfig", "GpuIndexCagraConfig"):
        setattr(module, name, type(name, (), {}))
    module.SearchParametersCagra = SearchParametersCagra
    module.GpuIndexFlat, module.GpuIndexCagra = Flat, CagraIndex
    return module
