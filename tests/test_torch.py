"""Tensors are welcome wherever vectors are: the answers of arrays, as tensors; no copy where none is needed, never written to.

And the array ops as operators: torch.compile keeps them whole in its graph.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import omendb
import omendb_kernels as ok
from omendb_kernels import dispatch

torch = pytest.importorskip("torch")
ROOT = Path(__file__).parent.parent

KINDS = ["float32", "float16", "bfloat16", "int8", "uint8", "float64"]


def rows_of(rng: np.random.Generator, kind: str, n: int = 2000, d: int = 20) -> torch.Tensor:
    return torch.from_numpy(rng.integers(1, 100, (n, d))).to(getattr(torch, kind))


def same(found: Any, wanted: Any) -> None:
    """Tensors on the CPU with the bits of these arrays."""
    found, wanted = (part if isinstance(part, tuple) else (part,) for part in (found, wanted))
    for one, other in zip(found, wanted, strict=True):
        assert type(one) is torch.Tensor
        assert not one.requires_grad
        assert one.numpy().dtype == other.dtype
        assert one.numpy().tobytes() == np.asarray(other).tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", ok.METRICS)
def test_tensors_answer_as_arrays(rng, kind, metric):
    rows = rows_of(rng, kind)
    before = rows.clone()
    wide, asked = rows.to(torch.float32).numpy(), rows[:20]
    candidates = torch.from_numpy(rng.integers(-1, len(rows), (20, 30)))
    same(ok.knn(asked, rows, 10, metric), ok.knn(wide[:20], wide, 10, metric))
    same(ok.knn(asked[:1], ok.PointSet.encode(rows, metric)), ok.knn(wide[:1], wide, 10, metric))
    exact = {"metric": metric, "precision": "exact"}
    same(ok.pairwise(rows[:3], rows, **exact), ok.pairwise(wide[:3], wide, **exact))
    near = ok.rerank(asked, rows, candidates, 5, metric)
    same(near, ok.rerank(wide[:20], wide, candidates.numpy(), 5, metric))
    either = ok.compute_distances(asked[:2], rows[:5], metric)  # by whichever method is quicker
    expected = torch.from_numpy(ok.pairwise(wide[:2], wide[:5], **exact))
    torch.testing.assert_close(either, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert torch.equal(rows, before)


def test_answers_are_of_the_kind_of_the_queries(rng):
    rows = rows_of(rng, "float32")
    assert type(ok.knn(rows.numpy()[:3], rows)[0]) is np.ndarray
    assert type(ok.knn(rows[:3], rows.numpy())[0]) is torch.Tensor
    assert type(ok.knn(rows[:3].tolist(), rows)[0]) is np.ndarray
    *near, proof = ok.knn_certified(rows[:3], rows)
    same(tuple(near), ok.knn(rows.numpy()[:3], rows.numpy()))
    assert proof.queries == 3
    mask = torch.from_numpy(rng.random(len(rows)) < 0.5)
    same(ok.knn(rows[:3], rows, mask=mask), ok.knn(rows.numpy()[:3], rows.numpy(), mask=mask.numpy()))


def test_graphs_take_tensors(rng):
    rows = rows_of(rng, "bfloat16", d=8)
    wide = rows.to(torch.float32).numpy()
    graph, points, _ = ok.build_graph(rows[:1_500], "ip")
    same(ok.search_graph(graph, points, rows[:9], 4)[:2], ok.search_graph(graph, points, wide[:9], 4)[:2])
    later = points.extend(rows[1_500:], refit=False)
    same(
        ok.search_graph(ok.extend_graph(graph, later), later, rows[:9], 4)[:2],
        ok.search_graph(ok.extend_graph(graph, later), later, wide[:9], 4)[:2],
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_database_keeps_the_kind(rng, tmp_path, kind):
    rows = rows_of(rng, kind, n=300)
    db = omendb.DB.build_from_numpy(rows, metric="cosine")
    assert db.dtype == ("float32" if kind == "float64" else kind)
    db.add_batch(rows[:5])
    db.save(tmp_path / "a.omen")
    with omendb.DB.load(tmp_path / "a.omen") as loaded:
        found = loaded.search(rows[7], k=3, mask=torch.arange(305) != 8)
        assert found.ids[0] == 7
        assert type(found.distances) is np.ndarray
        assert loaded.search(rows[:2], mask=torch.tensor([5, 6]), k=1).ids.max() <= 6
        assert loaded.get(7).vector.astype(np.float32).tolist() == rows[7].to(torch.float32).tolist()


def test_views_and_subclasses(rng):
    rows = torch.from_numpy(rng.normal(size=(3000, 40)).astype(np.float32))
    expected = ok.knn(rows[::2, ::2].numpy().copy(), rows[:, ::2].numpy().copy(), 5)
    for points in (rows[:, ::2], rows.t().contiguous().t()[:, ::2], torch.nn.Parameter(rows[:, ::2])):
        same(ok.knn(points[::2], points, 5), expected)
    alike = rows[:1, ::2].expand(3000, 20)  # one row in memory
    assert ok.knn(alike[:2], alike, 3)[1].tolist() == [[0, 1, 2]] * 2
    flipped = rows.flip(0)
    same(ok.knn(flipped, rows, 1), ok.knn(flipped.numpy().copy(), rows.numpy(), 1))


def test_gradients(rng):
    """Neighbours are looked up, with the embeddings of a model as it comes; a distance matrix may be part of a loss."""
    rows = rows_of(rng, "float32")
    tracked = rows.clone().requires_grad_()
    same(ok.knn(tracked[:20], tracked, 5), ok.knn(rows[:20].numpy(), rows.numpy(), 5))
    same(ok.rerank(tracked[:2], tracked, [[0], [1]], 1), ok.rerank(rows[:2].numpy(), rows.numpy(), [[0], [1]], 1))
    assert omendb.DB.build_from_numpy(tracked).search(tracked[3], k=1).ids.tolist() == [3]
    for op in (ok.pairwise, ok.compute_distances):
        for queries, points, name in ((tracked[:2], rows, "queries"), (rows[:2], tracked, "points")):
            with pytest.raises(omendb.WrongDtype, match=rf"{name}: got a tensor that requires a gradient; wanted .*detach"):
                op(queries, points)
        wanted = torch.from_numpy(ok.pairwise(rows[:2].numpy(), rows.numpy(), precision="exact"))
        found = [op(tracked[:2].detach(), rows)]
        with torch.no_grad():
            found.append(op(tracked[:2], tracked))
        with torch.inference_mode():
            found.append(op(rows[:2] * 1, tracked))
        for near in found:
            torch.testing.assert_close(near, wanted, rtol=1e-5, atol=1e-5 * float(wanted.max()))


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "uint8"])
def test_no_copy_where_none_is_needed(rng, kind, monkeypatch):
    rows = rows_of(rng, kind)
    judged = ok.as_vectors(rows, metric="l2")
    assert judged.data.__array_interface__["data"][0] == rows.data_ptr()
    made: list[np.ndarray] = []
    backend = dispatch.backend()
    compute = backend.pairwise

    def seen(*args: Any, **kwargs: Any) -> np.ndarray:
        assert [part.data.ctypes.data for part in args[:2]] == [rows.data_ptr()] * 2
        made.append(compute(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(backend, "pairwise", seen)
    with ok.use_backend(backend.NAME):
        assert ok.pairwise(rows, rows).data_ptr() == made[0].ctypes.data  # nor on the way out


def test_tensors_elsewhere_are_refused():
    with pytest.raises(omendb.WrongDtype, match=r"vectors: got a tensor on meta; wanted a tensor on the CPU"):
        omendb.DB.build_from_numpy(torch.empty((3, 4), device="meta"))


@pytest.mark.parametrize("kind", ["bool", "complex64", "float8_e4m3fn"])
def test_tensors_of_other_kinds_are_refused(kind):
    with pytest.raises(omendb.WrongDtype, match="vectors"):
        omendb.DB.build_from_numpy(torch.ones((3, 4)).to(getattr(torch, kind)))


def test_sparse_tensors_are_refused():
    with pytest.raises(omendb.WrongDtype, match=r"vectors: got a tensor of layout torch.sparse_coo"):
        omendb.DB.build_from_numpy(torch.eye(3).to_sparse())


def test_lazily_negated_tensors_are_read_as_what_they_mean():
    lazy = torch._neg_view(torch.ones(3, 4))
    assert ok.as_vectors(lazy, metric="l2").data.tolist() == [[-1.0] * 4] * 3


# ---- operators -----------------------------------------------------------------------------------------------------


def operators() -> Any:
    import omendb_kernels.torch

    return omendb_kernels.torch


def calls_of(rng: np.random.Generator) -> dict[str, tuple[Any, ...]]:
    rows = rows_of(rng, "float32", n=1_200)
    mask = torch.from_numpy(rng.random(len(rows)) < 0.5)
    return {
        "pairwise": (rows[:5], rows, "ip"),
        "compute_distances": (rows[0], rows[:9], "cosine"),
        "knn": (rows[:5], rows, 3, "cosine", mask),
        "rerank": (rows[:5], rows, torch.from_numpy(rng.integers(-1, 1_200, (5, 20))), 4),
    }


def test_every_array_op_is_an_operator_with_the_arguments_of_the_function(rng):
    import inspect

    assert set(operators().OPERATORS) == set(calls_of(rng))
    for name in operators().OPERATORS:
        schema = getattr(torch.ops.omendb, name).default._schema
        wanted = inspect.signature(getattr(ok, name)).parameters
        told = {argument.name: argument for argument in schema.arguments}
        assert list(told) == list(wanted)
        for argument, parameter in wanted.items():
            default = None if parameter.default is inspect.Parameter.empty else parameter.default
            assert told[argument].default_value == default, (name, argument)


@pytest.mark.parametrize("name", ["pairwise", "compute_distances", "knn", "rerank"])
def test_operators_are_sound(rng, name):
    args = calls_of(rng)[name]
    operator = getattr(operators().omendb, name).default
    torch.library.opcheck(operator, args)
    plain = args if name != "knn" else args[:4]
    function = getattr(ok, name)
    wanted = function(*plain, **({"mask": args[4]} if name == "knn" else {}))
    found = operator(*args)
    for one, other in zip(*(part if isinstance(part, tuple) else (part,) for part in (found, wanted)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("way", ["operators", "functions"])
def test_a_compiled_graph_stays_whole(rng, backend, way):
    ops = operators().omendb if way == "operators" else ok

    def attention(queries: Any, keys: Any, values: Any) -> Any:
        distances, rows = ops.knn(queries * 2, keys, 4, "cosine")
        near = ops.rerank(queries, keys, rows, 2)[1]
        return (values[rows] * (1 - distances)[..., None]).sum(1) + ops.pairwise(queries, keys)[:, :1] + values[near].mean(1)

    torch._dynamo.reset()
    compiled = torch.compile(attention, backend=backend, fullgraph=True, dynamic=True)
    for m, n in ((5, 900), (9, 1_100)):
        rows = rows_of(rng, "float32", n=n)
        torch.testing.assert_close(compiled(rows[:m] + 1, rows, rows), attention(rows[:m] + 1, rows, rows))


def test_operators_have_no_gradient(rng):
    queries = rows_of(rng, "float32")[:5].requires_grad_()
    distances, rows = operators().omendb.knn(queries, queries.detach(), 2)
    assert not rows.requires_grad
    with pytest.raises(RuntimeError, match="no autograd formula"):
        distances.sum().backward()


def test_operators_raise_typed_errors(rng):
    rows = rows_of(rng, "float32")
    with pytest.raises(omendb.WrongShape, match="queries"):
        operators().omendb.knn(rows[:, :3], rows)
    with pytest.raises(omendb.UnknownMetric):
        operators().omendb.pairwise(rows, rows, "manhattan")


def test_torch_is_imported_by_its_users_only():
    code = (
        "import sys, numpy as np, omendb, omendb_kernels as ok\n"
        "x = np.ones((9, 4), np.float32)\n"
        "ok.knn(x, x), omendb.DB.build_from_numpy(x).search(x)\n"
        "before = 'torch' in sys.modules\n"
        "import torch\n"
        "ok.knn(torch.ones(9, 4), x)\n"
        "print(before, 'omendb_kernels.torch' in sys.modules, [n for n in ('cupy', 'triton', 'jax') if n in sys.modules])"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "False False []"), done.stderr
