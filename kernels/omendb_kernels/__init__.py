"""omendb_kernels: vector search whose kernels are written in Python. Usable without the database.

Two ideas carry everything.

One integer core. Rows are kept as they came and as int8 codes; every decision is made on distances of codes, which are
integers and so exact on any device. The same input gives the same answer, bit for bit, on every backend.

Certified exactness. Codes carry proven error bounds. A scan of codes keeps a few rows more than asked for, finishes those in
float64, and proves that no other row can be nearer; what is not proved is redone wider.

    contract.py   what every op returns, in prose and types        codec.py    codes, residuals, the bound
    metrics.py    METRICS: how rows enter, how distances leave     points.py   PointSet: rows with codes, in generations
    arrays.py     the one judge of arrays from users               exact.py    certified search over any backend
    ops.py        the public ops                                   dispatch.py BACKENDS, use_backend, use_device
    plan.py       which backend does a call, and why (cost.py, profiles.py, calibration.py: what it would take)
    planner.py    carries plans out, learns from what calls take; choice.py: @adaptive, the same for ops of one's own
    machine.py    what this machine offers                         parallel.py the shared workers
    backends/     reference.py, the oracle; numpy/, always there; numba/, the fast CPU;
                  cupy/, NVIDIA GPUs
"""

from .arrays import VECTOR_KINDS, Rows, as_count, as_k, as_mask, as_queries, as_recall, as_vectors
from .calibration import calibrate
from .choice import Adaptive, adaptive, explained
from .dispatch import backend_name, list_backends, use_backend, use_device
from .errors import (
    InvalidInput,
    InvalidParameter,
    NotFinite,
    OmenError,
    OutOfDeviceMemory,
    UnknownBackend,
    UnknownMetric,
    ValueTooLarge,
    WrongDtype,
    WrongShape,
    ZeroVector,
)
from .exact import Proof
from .graph import MAX_BEAM, BuildFacts, Graph, GraphSearch, Hnsw
from .guests import as_numpy
from .machine import as_threads, facts
from .metrics import METRICS, Metric
from .ops import (
    build_graph,
    compute_distances,
    consolidate_graph,
    extend_graph,
    knn,
    knn_certified,
    layer_graph,
    pairwise,
    rerank,
    search_graph,
)
from .plan import Option, Plan
from .planner import devices, machine_profiles
from .points import PointSet

__all__ = [
    "MAX_BEAM",
    "METRICS",
    "VECTOR_KINDS",
    "Adaptive",
    "BuildFacts",
    "Graph",
    "GraphSearch",
    "Hnsw",
    "InvalidInput",
    "InvalidParameter",
    "Metric",
    "NotFinite",
    "OmenError",
    "Option",
    "OutOfDeviceMemory",
    "Plan",
    "PointSet",
    "Proof",
    "Rows",
    "UnknownBackend",
    "UnknownMetric",
    "ValueTooLarge",
    "WrongDtype",
    "WrongShape",
    "ZeroVector",
    "adaptive",
    "as_count",
    "as_k",
    "as_mask",
    "as_numpy",
    "as_queries",
    "as_recall",
    "as_threads",
    "as_vectors",
    "backend_name",
    "build_graph",
    "calibrate",
    "compute_distances",
    "consolidate_graph",
    "devices",
    "explained",
    "extend_graph",
    "facts",
    "knn",
    "knn_certified",
    "layer_graph",
    "list_backends",
    "machine_profiles",
    "pairwise",
    "rerank",
    "search_graph",
    "use_backend",
    "use_device",
]
