"""Arrays of a CUDA device: read where they lie, on their owner's stream, answered there; copied where nothing computes."""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from gpu_sim import gpu_fixture  # noqa: F401

import omendb
import omendb_kernels as ok
from omendb_kernels import dispatch, guests

STREAM = 0x5EED0  # the address of the caller's stream


class Speaker:
    """Device memory behind one protocol."""

    def __init__(self, array: Any) -> None:
        self.array = array


class OnlyInterface(Speaker):
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.array.__cuda_array_interface__


class OnlyDlpack(Speaker):
    asked: list[Any]

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()

    def __dlpack__(self, *, stream: Any = None, **_: Any) -> Any:
        self.asked = [*getattr(self, "asked", []), stream]
        return self.array.__dlpack__(stream=stream)


class Tensor(OnlyDlpack):
    """A CUDA tensor of torch, as far as guests look at one."""

    layout, is_quantized, requires_grad = "torch.strided", False, False
    seen: list[Any] = []  # noqa: RUF012  the streams that memory was asked for on

    def __init__(self, array: Any, dtype: str | None = None) -> None:
        super().__init__(array)
        self.dtype = f"torch.{dtype or array.dtype.name}"
        self.device = types.SimpleNamespace(type="cuda", index=0)

    def __dlpack__(self, *, stream: Any = None, **_: Any) -> Any:
        Tensor.seen.append(stream)
        return self.array.__dlpack__(stream=stream)

    def detach(self) -> Tensor:
        return self

    resolve_conj = resolve_neg = detach

    def view(self, dtype: str) -> Tensor:
        return Tensor(self.array.view(np.dtype(dtype)))

    def cpu(self) -> Any:
        return types.SimpleNamespace(numpy=self.array.get)


class HostTensor(np.ndarray):
    """What torch.from_numpy gives, as far as guests use it."""

    def to(self, device: Any) -> Tensor:
        import cupy

        assert device.type == "cuda"
        return Tensor(cupy.asarray(np.asarray(self)))


@pytest.fixture
def torch(monkeypatch) -> Any:
    made: Any = types.ModuleType("torch")
    made.Tensor, made.int16 = Tensor, "int16"
    made.compiler = types.SimpleNamespace(is_compiling=lambda: False)
    made.is_grad_enabled = lambda: True
    made.cuda = types.SimpleNamespace(current_stream=lambda device: types.SimpleNamespace(cuda_stream=STREAM))
    made.from_dlpack = lambda array: Tensor(array)
    made.from_numpy = lambda array: array.view(HostTensor)
    monkeypatch.setitem(sys.modules, "torch", made)
    Tensor.seen.clear()
    return made


def rows_of(rng: np.random.Generator, kind: str, n: int = 1_300, d: int = 33) -> np.ndarray:
    if kind in ("uint8", "int8"):
        return rng.integers(1, 100, (n, d)).astype(kind)
    return (rng.normal(size=(n, d)) * rng.uniform(0.5, 2, (n, 1))).astype(kind)


def as_arrays(answer: Any) -> list[np.ndarray]:
    parts = answer if isinstance(answer, tuple) else (answer,)
    return [part.get() if hasattr(part, "get") else part for part in parts if hasattr(part, "dtype")]


def same(found: Any, wanted: Any) -> None:
    for one, other in zip(as_arrays(found), as_arrays(wanted), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("kind", ["float32", "float16", "uint8", "float64", "int32"])
@pytest.mark.parametrize("metric", ok.METRICS)
def test_cupy_arrays_stay_and_are_answered_in_kind(rng, gpu, metric, kind):
    import cupy

    rows = rows_of(rng, "int8", 1_300).astype(np.int32) if kind == "int32" else rows_of(rng, kind)
    queries = rows[:40] if kind in ("uint8", "int32") else rows[:40] + rows[40:80]
    candidates = rng.integers(-1, len(rows), (40, 60))
    there, asked, named = cupy.asarray(rows), cupy.asarray(queries), cupy.asarray(candidates)
    mask = rng.random(len(rows)) < 0.9
    calls: list[tuple[Callable[..., Any], tuple[Any, ...], tuple[Any, ...], dict[str, Any]]] = [
        (ok.pairwise, (queries, rows), (asked, there), {"precision": "exact"}),
        (ok.rerank, (queries, rows, candidates, 7), (asked, there, named, 7), {}),
        (ok.rerank, (queries, rows, candidates, 7), (asked, rows, candidates, 7), {}),
        (ok.knn, (queries, rows, 9), (asked, there, 9), {"mask": mask}),
        (ok.knn, (queries[:2], rows, 9), (asked[:2], there, 9), {}),
        (ok.knn, (queries, rows, 9), (asked, there, 9), {"exact": False}),
    ]
    for op, plain, guest, keywords in calls:
        wanted = op(*plain, metric=metric, **keywords)
        found = op(*guest, metric=metric, **keywords)
        parts = found if isinstance(found, tuple) else (found,)
        assert all(isinstance(part, cupy.ndarray) for part in parts), op
        same(found, wanted)
    wanted = ok.pairwise(queries, rows, metric, precision="exact")
    for op in (ok.pairwise, ok.compute_distances):
        near = op(asked, there, metric)
        assert isinstance(near, cupy.ndarray)
        np.testing.assert_allclose(near.get(), wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_rows_never_leave_the_device(rng, gpu, kind):
    import cupy

    rows = cupy.asarray(rows_of(rng, kind, 40_000, 64))
    queries = cupy.asarray(rows_of(rng, kind, 20, 64))
    for op in (ok.pairwise, ok.knn):
        gpu.moved.clear()
        op(queries, rows)
        assert gpu.moved["up"] < 0.1 * rows.nbytes
        assert gpu.moved["down"] < (0.5 if op is ok.knn and kind == "float32" else 0.35) * rows.nbytes  # of knn a sample
    gpu.moved.clear()
    gpu.launches.clear()
    ok.rerank(queries, rows, cupy.zeros((20, 3), np.int64), 2)
    assert max(gpu.moved.values(), default=0) < 1_000
    assert gpu.launches["rerank"] == 1


def test_a_tensor_is_served_on_its_stream(rng, gpu, torch):
    """The memory is asked for on the caller's stream, and the answer is made there."""
    import cupy

    rows, queries = rows_of(rng, "float32"), rows_of(rng, "float32", 9)
    used: list[int] = []
    real = cupy.cuda.get_current_stream
    guest = [Tensor(cupy.asarray(array)) for array in (queries, rows)]
    before = real().ptr
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "backend", lambda inner=dispatch.backend: used.append(real().ptr) or inner())
        patch.setattr("omendb_kernels.ops.backend", dispatch.backend)
        distances, ids = ok.knn(*guest, 5)
        matrix = ok.pairwise(*guest, precision="exact")
    assert real().ptr == before
    assert STREAM in used
    assert Tensor.seen == [STREAM] * len(Tensor.seen)
    assert all(type(part) is Tensor for part in (distances, ids, matrix))
    same((distances.array, ids.array), ok.knn(queries, rows, 5))
    same(matrix.array, ok.pairwise(queries, rows, precision="exact"))


def test_bfloat16_tensors(rng, gpu, torch):
    import cupy

    rows = rows_of(rng, "float32")
    bits = (rows.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    wide = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    tensor = Tensor(cupy.asarray(bits.view(np.int16)), "bfloat16")
    same(ok.pairwise(tensor, tensor, precision="exact").array, ok.pairwise(wide, wide, precision="exact"))
    found = ok.knn(tensor, tensor, 4)
    same(tuple(part.array for part in found), ok.knn(wide, wide, 4))
    assert ok.PointSet.encode(tensor).kind == "bfloat16"


@pytest.mark.parametrize("speaker", [OnlyInterface, OnlyDlpack])
def test_any_device_memory(rng, gpu, speaker):
    import cupy

    rows, queries = rows_of(rng, "float32"), rows_of(rng, "float32", 5)
    memory = cupy.asarray(rows)
    there, asked = speaker(memory), speaker(cupy.asarray(queries))
    assert guests.read(there, "x", stay=True)[0].data.ptr == memory.data.ptr
    for found, wanted in ((ok.knn(asked, there, 5), ok.knn(queries, rows, 5)), (ok.knn(queries, there), ok.knn(queries, rows))):
        same(found, wanted)
    assert isinstance(ok.knn(asked, rows)[0], cupy.ndarray)
    assert isinstance(ok.knn(queries, there)[0], np.ndarray)
    strided = speaker(cupy.asarray(np.repeat(rows, 2, axis=1))[:, ::2])
    same(ok.pairwise(asked, strided, precision="exact"), ok.pairwise(queries, rows, precision="exact"))


@pytest.mark.parametrize("speaker", [None, OnlyInterface, OnlyDlpack])
def test_without_a_usable_backend_copies_are_made_and_that_is_said_once(rng, gpu, caplog, speaker):
    import cupy

    rows, queries = rows_of(rng, "float32"), rows_of(rng, "float32", 5)
    there, asked = cupy.asarray(rows), cupy.asarray(queries)
    if speaker:
        there, asked = speaker(there), speaker(asked)
    gpu.devices = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cupy.cuda.Device, "__enter__", lambda self: self)  # its arrays live, though nothing computes
        dispatch.say_once.cache_clear()
        with caplog.at_level(logging.WARNING, "omendb"):
            for _ in range(3):
                found = ok.knn(asked, there, 5)
    assert all(isinstance(part, cupy.ndarray) for part in found)
    same(found, ok.knn(queries, rows, 5))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "copied to the host" in caplog.text
    assert "cannot compute" in caplog.text


@pytest.mark.parametrize("how", ["use_backend", "OMENDB_BACKEND"])
def test_a_chosen_backend_stays_chosen(rng, gpu, monkeypatch, how):
    import cupy

    rows, queries = rows_of(rng, "float32"), rows_of(rng, "float32", 5)
    if how == "OMENDB_BACKEND":
        monkeypatch.setenv(how, "numpy")
    with ok.use_backend("numpy") if how == "use_backend" else nullcontext():
        found = ok.pairwise(cupy.asarray(queries), cupy.asarray(rows), precision="exact")
    assert isinstance(found, cupy.ndarray)
    assert not gpu.launches
    same(found, ok.pairwise(queries, rows, precision="exact"))


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_graphs_and_the_database(rng, gpu, metric):
    import cupy

    rows, mask = rows_of(rng, "float32", 1_500, 24), rng.random(1_500) < 0.8
    there, flags = cupy.asarray(rows), cupy.asarray(mask)
    graph, points, _ = ok.build_graph(there[:1_000], metric)
    wanted, coded, _ = ok.build_graph(rows[:1_000], metric)
    assert graph.neighbours.tobytes() == wanted.neighbours.tobytes()
    ok.search_graph(graph, points, there[:20], 6)  # takes the graph there
    gpu.moved.clear()
    near = ok.search_graph(graph, points, there[:20], 6)[:2]
    assert max(gpu.moved.values(), default=0) <= 20 * 8  # how many rows each query found
    assert all(isinstance(part, cupy.ndarray) for part in near)
    same(near, ok.search_graph(wanted, coded, rows[:20], 6)[:2])
    points = points.extend(there[1_000:], refit=False)
    coded = coded.extend(rows[1_000:], refit=False)
    graph, wanted = ok.extend_graph(graph, points), ok.extend_graph(wanted, coded)
    found = ok.search_graph(graph, points, there[:20], 6, mask=flags)[:2]
    assert all(isinstance(part, cupy.ndarray) for part in found)
    same(found, ok.search_graph(wanted, coded, rows[:20], 6, mask=mask)[:2])
    db = omendb.DB.build_from_numpy(there[:1_000], metric=metric, ids=cupy.arange(1_000))
    db.add_batch(there[1_000:], ids=cupy.arange(1_000, 1_500))
    near, plain = db.search(there[:9], k=4, mask=flags), omendb.DB.build_from_numpy(rows, metric=metric).search(
        rows[:9], k=4, mask=mask
    )
    assert type(near.distances) is np.ndarray
    assert near.ids.tolist() == plain.ids.tolist()
    assert near.distances.tobytes() == plain.distances.tobytes()
    assert db.search(there[3], k=1).ids.tolist() == db.search(rows[3], k=1).ids.tolist()
    empty = omendb.DB(metric=metric).search(there[3])
    assert len(empty.ids) == 0


BAD = {
    "nan": (lambda rows: rows.__setitem__((7, 2), np.nan), omendb.NotFinite, "points: got NaN or infinity in row 7"),
    "long": (lambda rows: rows.__setitem__((9, 2), 1e30), omendb.ValueTooLarge, "row 9"),
    "zero": (lambda rows: rows.__setitem__(4, 0), omendb.ZeroVector, "row 4"),
}


@pytest.mark.parametrize("case", BAD)
def test_values_are_judged_there(rng, gpu, case):
    import cupy

    spoil, error, words = BAD[case]
    rows = rows_of(rng, "float32")
    queries = cupy.asarray(rows[:3])
    spoil(rows)
    for op in (ok.pairwise, ok.knn):
        with pytest.raises(error, match=words):
            op(queries, cupy.asarray(rows), metric="cosine")


def test_dtypes_and_shapes_are_judged_there(rng, gpu):
    import cupy

    rows, queries = cupy.asarray(rows_of(rng, "float32")), cupy.asarray(rows_of(rng, "float32", 4))
    for wrong, error in (
        (rows > 0, omendb.WrongDtype),
        (rows.astype(np.complex64), omendb.WrongDtype),
        (cupy.full((3, 33), 2**30, np.int64), omendb.WrongDtype),
        (cupy.full((3, 33), 1e300, np.float64), omendb.ValueTooLarge),
        (rows[:, :5], omendb.WrongShape),
        (rows[0], omendb.WrongShape),
    ):
        with pytest.raises(error):
            ok.knn(queries, wrong)
    for wrong, error in ((rows[:4, :2], omendb.WrongDtype), (cupy.full((4, 2), 5_000, np.int64), omendb.InvalidParameter)):
        with pytest.raises(error, match="candidates"):
            ok.rerank(queries, rows, wrong)
    assert ok.knn(queries[:0], rows, 3)[1].shape == (0, 3)
    assert ok.knn(queries, rows[:0], 3)[1].get().tolist() == [[-1] * 3] * 4
    assert ok.pairwise(queries, rows[:0]).shape == (4, 0)
