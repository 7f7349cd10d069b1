"""CPU tensors are welcome wherever vectors are: same answers as arrays, no copy where none is needed, never written to."""

from __future__ import annotations

import numpy as np
import pytest

import omendb
import omendb_kernels as ok

torch = pytest.importorskip("torch")

KINDS = ["float32", "float16", "bfloat16", "int8", "uint8", "float64"]


def rows_of(rng: np.random.Generator, kind: str, n: int = 2000, d: int = 20) -> torch.Tensor:
    return torch.from_numpy(rng.integers(1, 100, (n, d))).to(getattr(torch, kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", ok.METRICS)
def test_tensors_answer_as_arrays(rng, kind, metric):
    rows = rows_of(rng, kind)
    before = rows.clone()
    wide = rows.to(torch.float32).numpy()
    distances, ids = ok.knn(rows[:20], rows, 10, metric)
    expected = ok.knn(wide[:20], wide, 10, metric)
    np.testing.assert_array_equal(ids, expected[1])
    np.testing.assert_array_equal(distances.view(np.int32), expected[0].view(np.int32))
    exact = ok.pairwise(rows[:3], rows, metric, precision="exact")
    np.testing.assert_array_equal(exact, ok.pairwise(wide[:3], wide, metric, precision="exact"))
    assert torch.equal(rows, before)


@pytest.mark.parametrize("kind", KINDS)
def test_the_database_keeps_the_kind(rng, tmp_path, kind):
    rows = rows_of(rng, kind, n=300)
    db = omendb.DB.build_from_numpy(rows, metric="cosine")
    assert db.dtype == ("float32" if kind == "float64" else kind)
    db.add_batch(rows[:5])
    db.save(tmp_path / "a.omen")
    with omendb.DB.load(tmp_path / "a.omen") as loaded:
        assert loaded.search(rows[7], k=3).ids[0] == 7
        assert loaded.get(7).vector.astype(np.float32).tolist() == rows[7].to(torch.float32).tolist()


def test_views_and_gradients(rng):
    rows = torch.from_numpy(rng.normal(size=(3000, 40)).astype(np.float32))
    expected = ok.knn(rows[::2, ::2].numpy().copy(), rows[:, ::2].numpy().copy(), 5)
    for points in (rows[:, ::2], rows.t().contiguous().t()[:, ::2], rows.clone().requires_grad_()[:, ::2]):
        distances, ids = ok.knn(points[::2], points, 5)
        np.testing.assert_array_equal(ids, expected[1])
        np.testing.assert_array_equal(distances, expected[0])


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "uint8"])
def test_no_copy_where_none_is_needed(rng, kind):
    rows = rows_of(rng, kind)
    judged = ok.as_vectors(rows, metric="l2")
    assert judged.data.__array_interface__["data"][0] == rows.data_ptr()


def test_tensors_elsewhere_are_refused():
    with pytest.raises(omendb.WrongDtype, match=r"vectors: got a tensor on meta; wanted a tensor on the CPU"):
        omendb.DB.build_from_numpy(torch.empty((3, 4), device="meta"))


@pytest.mark.parametrize("kind", ["bool", "complex64"])
def test_tensors_of_other_kinds_are_refused(kind):
    with pytest.raises(omendb.WrongDtype, match="vectors"):
        omendb.DB.build_from_numpy(torch.ones((3, 4), dtype=getattr(torch, kind)))


def test_sparse_tensors_are_refused():
    with pytest.raises(omendb.WrongDtype, match=r"vectors: got a tensor of layout torch.sparse_coo"):
        omendb.DB.build_from_numpy(torch.eye(3).to_sparse())


def test_lazily_negated_tensors_are_read_as_what_they_mean():
    lazy = torch._neg_view(torch.ones(3, 4))
    assert ok.as_vectors(lazy, metric="l2").data.tolist() == [[-1.0] * 4] * 3
