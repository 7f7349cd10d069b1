"""Arrays of any library: a right answer in the caller's kind, or a typed error; no library is imported for them."""

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
from omendb_kernels import guests

ROOT = Path(__file__).parent.parent
N, DIM = 1_100, 12


class Dlpack:
    """Speaks DLPack and nothing else."""

    def __init__(self, array: np.ndarray) -> None:
        self._held = array

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self._held.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._held.__dlpack_device__()


class OldDlpack(Dlpack):
    """Of the first version of the protocol, which knows a stream only."""

    def __dlpack__(self, stream: Any = None) -> Any:  # type: ignore[override]
        return self._held.__dlpack__()


class Convertible:
    """Has __array__ and nothing else."""

    def __init__(self, array: np.ndarray) -> None:
        self._held = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self._held if dtype is None else self._held.astype(dtype)


class Interface:
    """Has NumPy's own protocol and nothing else."""

    def __init__(self, array: np.ndarray) -> None:
        self._held = array
        self.__array_interface__ = array.__array_interface__


class Subclass(np.ndarray):
    """An ndarray that insists on itself."""

    def __array_finalize__(self, other: Any) -> None:
        self.touched = True


def swapped(array: np.ndarray) -> np.ndarray:
    return array.astype(array.dtype.newbyteorder())


def unaligned(array: np.ndarray) -> np.ndarray:
    raw = np.empty(array.nbytes + 1, np.uint8)
    found = raw[1:].view(array.dtype).reshape(array.shape)
    found[...] = array
    return found


def read_only(array: np.ndarray) -> np.ndarray:
    copy = array.copy()
    copy.setflags(write=False)
    return copy


GUESTS = {
    "dlpack": Dlpack,
    "old dlpack": OldDlpack,
    "__array__": Convertible,
    "__array_interface__": Interface,
    "memoryview": memoryview,
    "subclass": lambda array: array.view(Subclass),
    "masked without holes": lambda array: np.ma.masked_array(array, mask=False),
    "read-only": read_only,
    "fortran": np.asfortranarray,
    "strided": lambda array: np.repeat(np.repeat(array, 2, axis=0), 3, axis=1)[::2, ::3],
    "backwards": lambda array: np.ascontiguousarray(array[::-1, ::-1])[::-1, ::-1],
    "byte-swapped": swapped,
    "unaligned": unaligned,
    "longdouble": lambda array: array.astype(np.longdouble),
    "float64": lambda array: array.astype(np.float64),
}


def rows_of(rng: np.random.Generator, n: int = N) -> np.ndarray:
    return rng.normal(size=(n, DIM)).astype(np.float32)


@pytest.mark.parametrize("guest", GUESTS)
@pytest.mark.parametrize("metric", ok.METRICS)
def test_every_op_answers_as_for_plain_arrays(rng, guest, metric):
    make: Any = GUESTS[guest]
    rows, queries = rows_of(rng), rows_of(rng, 7)
    candidates, mask = rng.integers(-1, N, (7, 30)), rng.random(N) < 0.8
    exact = {"metric": metric, "precision": "exact"}
    calls = [
        (ok.pairwise(make(queries), make(rows), **exact), ok.pairwise(queries, rows, **exact)),
        (ok.rerank(make(queries), make(rows), candidates, 4, metric), ok.rerank(queries, rows, candidates, 4, metric)),
        (ok.knn(make(queries), make(rows), 6, metric, mask=mask), ok.knn(queries, rows, 6, metric, mask=mask)),
        (ok.knn(queries=make(queries[:1]), points=rows, metric=metric), ok.knn(queries[:1], rows, 10, metric)),
    ]
    for found, wanted in calls:
        for one, other in zip(*(part if isinstance(part, tuple) else (part,) for part in (found, wanted)), strict=True):
            assert type(one) is np.ndarray
            np.testing.assert_array_equal(one, other)
    near = ok.compute_distances(make(queries), make(rows), metric)  # by whichever method is quicker
    assert type(near) is np.ndarray
    np.testing.assert_allclose(near, ok.pairwise(queries, rows, **exact), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("guest", ["dlpack", "__array__", "read-only", "strided", "backwards"])
def test_graphs_and_the_database(rng, guest):
    make: Any = GUESTS[guest]
    rows = rows_of(rng)
    before = rows.copy()
    graph, points, _ = ok.build_graph(make(rows[:1_000]), recall=0.9)
    wanted, coded, _ = ok.build_graph(rows[:1_000], recall=0.9)
    assert graph.neighbours.tobytes() == wanted.neighbours.tobytes()
    found = ok.search_graph(graph, points, make(rows[:9]), 3)
    assert [part.tobytes() for part in found[:2]] == [
        part.tobytes() for part in ok.search_graph(graph, points, rows[:9], 3)[:2]
    ]
    grown = ok.extend_graph(graph, points.extend(make(rows[1_000:]), refit=False))
    assert grown.rows > graph.rows
    assert grown.neighbours.tobytes() == ok.extend_graph(wanted, coded.extend(rows[1_000:], refit=False)).neighbours.tobytes()
    db, plain = omendb.DB(build_threshold=500), omendb.DB(build_threshold=500)
    db.build(make(rows[:900]), ids=Dlpack(np.arange(900)))
    plain.build(rows[:900], ids=np.arange(900))
    db.insert_batch(make(rows[900:1_000]), ids=np.arange(900, 1_000))
    db.add_batch(make(rows[1_000:]), ids=Convertible(np.arange(1_000, N)))
    plain.add_batch(rows[900:], ids=np.arange(900, N))
    flags = rng.random(N) < 0.5
    for one, other in (
        (db.search(make(rows[:5]), k=3), plain.search(rows[:5], k=3)),
        (db.search(make(rows[:5]), k=3, mask=Dlpack(flags)), plain.search(rows[:5], mask=flags, k=3)),
        (db.search(make(rows[:5]), k=3, mask=Dlpack(np.array([4, 7]))), plain.search(rows[:5], mask=[4, 7], k=3)),
    ):
        assert type(one.distances) is np.ndarray
        assert one.ids.tolist() == other.ids.tolist()
        assert one.distances.tobytes() == other.distances.tobytes()
    assert rows.tobytes() == before.tobytes()


@pytest.mark.parametrize("guest", [*list(GUESTS)[:6], "read-only"])
def test_memory_is_read_where_it_lies(rng, guest):
    make: Any = GUESTS[guest]
    rows = read_only(rows_of(rng)) if guest == "read-only" else rows_of(rng)
    judged = ok.as_vectors(rows if guest == "read-only" else make(rows), metric="l2")
    assert judged.data.ctypes.data == rows.ctypes.data


@pytest.mark.parametrize("kind", ["float16", "int8", "uint8", "int64", "uint16", "bfloat16"])
def test_kinds_survive_dlpack_and_array(rng, kind):
    dtype = np.dtype(pytest.importorskip("ml_dtypes").bfloat16) if kind == "bfloat16" else np.dtype(kind)
    rows = rng.integers(1, 100, (50, 4)).astype(dtype)
    for make in (Convertible, *([] if kind == "bfloat16" else [Dlpack])):  # DLPack's bfloat16 is not NumPy's
        judged = ok.as_vectors(make(rows), metric="l2")
        assert judged.kind == ("float32" if kind in ("int64", "uint16") else kind)
        np.testing.assert_array_equal(judged.float32(), rows.astype(np.float32))


class Raising:
    """An array that cannot be had."""

    def __init__(self, error: Exception, way: str) -> None:
        def give(*args: Any, **kwargs: Any) -> Any:
            raise error

        self.__class__ = type("Raising", (Raising,), {way: give, **({"__dlpack_device__": give} if "dl" in way else {})})


def holes() -> np.ma.MaskedArray:
    return np.ma.masked_array(np.ones((3, DIM), np.float32), mask=np.eye(3, DIM) > 0)


class Elsewhere(Dlpack):
    """On a device of another maker."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return 8, 0  # kDLMetal

    def __dlpack__(self, **kwargs: Any) -> Any:
        raise BufferError("not on the CPU")


class OnCuda:
    """On a CUDA device that nothing here can read."""

    def __init__(self, array: np.ndarray) -> None:
        described = {"shape": array.shape, "typestr": array.dtype.str, "data": (array.ctypes.data, True), "version": 3}
        self.__cuda_array_interface__ = described


ONES = np.ones((3, DIM), np.float32)
BAD = {
    "masked values": (holes, omendb.WrongDtype, "masked"),
    "complex": (lambda: Dlpack(ONES.astype(np.complex64)), omendb.WrongDtype, "complex64"),
    "bool": (lambda: Dlpack(ONES > 0), omendb.WrongDtype, "bool"),
    "object": (lambda: Convertible(ONES.astype(object)), omendb.WrongDtype, "object"),
    "text": (lambda: Convertible(ONES.astype(str)), omendb.WrongDtype, "U"),
    "dates": (lambda: Convertible(ONES.astype("M8[s]")), omendb.WrongDtype, "datetime64"),
    "records": (lambda: np.zeros((3, DIM), [("a", "f4")]), omendb.WrongDtype, "a"),
    "nothing": (object, omendb.WrongDtype, "object"),
    "a set": (lambda: {1.0}, omendb.WrongDtype, "object"),
    "one number": (lambda: Convertible(np.array(3, np.float32)), omendb.WrongShape, "shape"),
    "no axis": (lambda: Dlpack(np.array(3, np.float32)), omendb.WrongShape, "shape"),
    "three axes": (lambda: Dlpack(ONES[None]), omendb.WrongShape, "shape"),
    "no dimension": (lambda: Dlpack(ONES[:, :0]), omendb.WrongShape, "0 dimensions"),
    "nan": (lambda: Dlpack(np.full((3, DIM), np.nan, np.float32)), omendb.NotFinite, "row 0"),
    "__array__ fails": (lambda: Raising(ValueError("no values yet"), "__array__"), omendb.WrongDtype, "no values yet"),
    "__array__ refuses": (lambda: Raising(TypeError("traced"), "__array__"), omendb.WrongDtype, "Raising .*traced"),
    "__dlpack__ fails": (lambda: Raising(BufferError("busy"), "__dlpack__"), omendb.WrongDtype, "busy"),
    "another device": (lambda: Elsewhere(ONES), omendb.WrongDtype, "not on the CPU"),
    "ragged": (lambda: [[1.0] * DIM, [1.0]], omendb.WrongShape, "unequal length"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_served_is_said(rng, case):
    make, error, words = BAD[case]
    rows = rows_of(rng, 20)
    db = omendb.DB.build_from_numpy(rows)
    calls = {
        "queries": (
            lambda x: ok.knn(x, rows), lambda x: ok.pairwise(x, rows), lambda x: ok.compute_distances(x, rows),
            lambda x: ok.rerank(x, rows, [[0]]), db.search,
        ),
        "vectors": (db.add_batch, omendb.DB(DIM).build, ok.PointSet.empty(DIM).extend),
        "points": (lambda x: ok.knn(rows[:3], x), lambda x: ok.pairwise(rows[:3], x)),
    }  # fmt: skip
    for name, ops in calls.items():
        for op in ops:
            with pytest.raises(error, match=f"^{name}: got .*{words}"):
                op(make())
    assert len(db) == 20


def test_memory_of_a_device_that_nobody_can_read(monkeypatch):
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr("omendb_kernels.dispatch._loaded", {"cupy": "ImportError: absent"})
    assert guests.on_cuda(OnCuda(ONES))
    for call in (lambda: ok.knn(OnCuda(ONES), ONES), lambda: ok.knn(ONES, OnCuda(ONES))):
        with pytest.raises(omendb.WrongDtype, match=r"got a OnCuda that cannot be read .*CuPy"):
            call()
    with pytest.raises(omendb.WrongDtype, match="mask"):
        ok.knn(ONES, ONES, mask=OnCuda(ONES[:, 0] > 0))


@pytest.mark.parametrize("shape", [(0, DIM), (0, 0)])
def test_no_queries(rng, shape):
    none = np.empty(shape, np.float32)
    for guest in (Dlpack, Convertible):
        assert ok.knn(guest(none), rows_of(rng), 4)[1].shape == (0, 4)
        assert ok.pairwise(guest(none), rows_of(rng)).shape == (0, N)
    assert ok.knn(np.ones((2, DIM)), Dlpack(np.empty((0, DIM), np.float32)), 2)[1].tolist() == [[-1, -1]] * 2


def test_other_arguments_may_be_guests_too(rng):
    rows, mask = rows_of(rng), rng.random(N) < 0.5
    candidates = rng.integers(-1, N, (7, 20))
    for make in (Dlpack, Convertible):
        found = ok.knn(rows[:7], rows, 5, mask=make(mask))
        np.testing.assert_array_equal(found[1], ok.knn(rows[:7], rows, 5, mask=mask)[1])
        near = ok.rerank(rows[:7], rows, make(candidates), 5)
        np.testing.assert_array_equal(near[1], ok.rerank(rows[:7], rows, candidates, 5)[1])
        with pytest.raises(omendb.WrongDtype, match="candidates"):
            ok.rerank(rows[:7], rows, make(candidates.astype(np.float32)), 5)
        with pytest.raises(omendb.WrongDtype, match="mask"):
            ok.knn(rows[:7], rows, 5, mask=make(mask.astype(np.uint8)))
    db = omendb.DB.build_from_numpy(rows, ids=Dlpack(np.arange(N) * 3))
    assert db.delete(Dlpack(np.array([3, 9]))) == 2
    assert np.ma.is_masked(np.ma.masked_array([3, 9], mask=[False, True]))
    with pytest.raises(omendb.InvalidInput, match="ids"):
        db.delete(np.ma.masked_array([3, 9], mask=[False, True]))


def test_jax_arrays_are_answered_in_jax(rng):
    """Where jax is installed: it is no dependency, not even of the tests."""
    jax = pytest.importorskip("jax")
    rows, queries = rows_of(rng), rows_of(rng, 7)
    there, asked = jax.numpy.asarray(rows), jax.numpy.asarray(queries)
    for found, wanted in (
        (ok.knn(asked, there, 5), ok.knn(queries, rows, 5)),
        (ok.rerank(asked, rows, jax.numpy.zeros((7, 2), int), 2), ok.rerank(queries, rows, np.zeros((7, 2), int), 2)),
        ((ok.pairwise(asked, there, precision="exact"),), (ok.pairwise(queries, rows, precision="exact"),)),
    ):
        for one, other in zip(found, wanted, strict=True):
            assert isinstance(one, jax.Array)
            assert one.devices() == asked.devices()
            np.testing.assert_array_equal(np.asarray(one), other)
    assert isinstance(ok.knn(queries, there)[0], np.ndarray)
    half = there.astype(jax.numpy.bfloat16)
    assert ok.as_vectors(half, metric="l2").kind == "bfloat16"
    assert omendb.DB.build_from_numpy(half).dtype == "bfloat16"
    with pytest.raises(omendb.WrongDtype, match="queries"):
        jax.jit(lambda x: ok.knn(x, rows)[0])(asked)


def test_no_library_is_imported_for_arrays():
    """A search of arrays, of lists and of a foreign array, with every library at hand."""
    code = (
        "import sys, numpy as np, omendb, omendb_kernels as ok\n"
        "class Guest:\n"
        "    def __dlpack__(self, **k): return rows.__dlpack__(**k)\n"
        "    def __dlpack_device__(self): return rows.__dlpack_device__()\n"
        "rows = np.random.default_rng(1).normal(size=(1200, 8)).astype(np.float32)\n"
        "for x in (rows, Guest(), rows.tolist()):\n"
        "    ok.knn(x, x, 3), ok.pairwise(x, x), ok.rerank(rows, x, np.zeros((1200, 1), int), 1)\n"
        "    omendb.DB.build_from_numpy(x).search(x)\n"
        "print(sorted({'torch', 'jax', 'cupy', 'triton', 'ml_dtypes'} & {n.split('.')[0] for n in sys.modules}))"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
