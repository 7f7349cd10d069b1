"""A graph's whole life on the simulated GPU: built, searched, grown, mended and thinned out, byte for byte as on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gpu_sim import gpu_fixture  # noqa: F401

import omendb
import omendb_kernels as kernels
from omendb_kernels import dispatch, ops, use_backend
from omendb_kernels.graph import DEFAULT
from omendb_kernels.graph.insert import insert
from omendb_kernels.graph.repair import repair
from omendb_kernels.graph.settings import Settings

DIM = 32
# Partition by leaders, several leaves and a router: as a large set is built, with few rows.
SMALL = Settings(leaf=64, small=128, router=64, reservoir=24, degree=11, small_k=8, insert_beam=24)


def words(count: int) -> np.ndarray:
    """Rows of the shipped word vectors, float32: `count` of them, their first 32 coordinates."""
    home = Path(omendb.__file__).parent / "data"
    rows, scales = np.load(home / "vectors.npy"), np.load(home / "scales.npy")
    return rows[:count, :DIM].astype(np.float32) * scales[:count, None]


def life(rows: np.ndarray, metric: str) -> dict[str, bytes]:
    """What a graph and its searches are made of at each step of its life."""
    first, queries = len(rows) * 5 // 8, rows[:: len(rows) // 40] + np.float32(0.01)
    graph, points, facts = kernels.build_graph(rows[:first], metric)
    later = points.extend(rows[first:], refit=False)
    new = np.arange(first, len(rows) - 20, dtype=np.int32)
    grown = insert(graph, later.nodes, new, dispatch.backend(), 1)  # as extend_graph does from a thousand rows on
    left = kernels.consolidate_graph(grown, later, np.arange(grown.rows) % 4 > 0)
    mended = grown.neighbours.copy()
    mended[::5] = -1  # nothing leads on from these
    links = repair(later.nodes, mended, grown.router, grown.nodes, dispatch.backend(), 1)
    assert left is not None
    out = {"facts": repr((graph.beam, graph.recall, facts.repaired, links)).encode(), "mended": mended.tobytes()}
    for name, made, rows_known in (("built", graph, points), ("grown", grown, later), ("left", left, later)):
        out |= {f"{name} {key}": array.tobytes() for key, array in made.state()[1].items()}
        for mask in (None, np.arange(len(rows_known)) % 3 > 0):
            answers = kernels.search_graph(made, rows_known, queries, 10, mask=mask)[:2]
            out[f"{name}, {'all' if mask is None else 'masked'}"] = b"".join(part.tobytes() for part in answers)
    out["layers"] = b"".join(layer.lists.tobytes() for layer in kernels.layer_graph(grown, later).layers)
    out["scanned"] = b"".join(part.tobytes() for part in kernels.knn(queries, rows, 10, metric))
    return out


def assert_as_on_the_cpu(rows: np.ndarray, metric: str) -> None:
    wanted = life(rows, metric)
    with use_backend("cupy"):
        found = life(rows, metric)
    assert [step for step in wanted if wanted[step] != found[step]] == []


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_400_rows(gpu, monkeypatch, metric):
    monkeypatch.setattr(ops, "DEFAULT", SMALL)
    assert_as_on_the_cpu(words(400), metric)
    assert {"beam", "prune"} <= {name.split("_")[0] for name in gpu.launches}


@pytest.mark.long
@pytest.mark.parametrize("settings", [SMALL, DEFAULT])
@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_2000_rows(gpu, monkeypatch, metric, settings):
    monkeypatch.setattr(ops, "DEFAULT", settings)
    gpu.order, gpu.seconds = 2, 600
    assert_as_on_the_cpu(words(2_000), metric)
