"""The double of cupy: it refuses what CuPy refuses, counts what waits, and runs out of memory on demand."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from . import Sim, gpu_fixture, real, simulated  # noqa: F401  # the fixture `gpu`


def test_arrays_of_the_host_do_not_mix_in(gpu):
    import cupy

    here, there = np.arange(4), cupy.arange(4)
    for mix in (
        *(lambda: there + here, lambda: here + there, lambda: np.add(here, there), lambda: cupy.minimum(there, here)),
        *(lambda: np.asarray(there), lambda: there[here], lambda: cupy.concatenate([there, here]), lambda: np.sort(there)),
        *(
            lambda: there.__setitem__(0, here[:1]),
            lambda: cupy.where(there > 1, there, here),
            lambda: cupy.ascontiguousarray(here),
        ),
    ):
        with pytest.raises(TypeError):
            mix()
    assert gpu.syncs == []


def test_what_cupy_lacks_or_leaves_open(gpu):
    import cupy

    a = cupy.arange(6)
    with pytest.raises(AttributeError):
        cupy.errstate(all="ignore")
    with pytest.raises(ValueError, match="kinds"):
        cupy.argsort(a, kind="quicksort")
    with pytest.raises(ValueError, match="duplicate"):
        a[cupy.asarray([1, 1])] = cupy.asarray([2, 3])
    with pytest.raises(TypeError, match="at does not take"):
        cupy.add.at(a, a, a)
    with pytest.raises(IndexError):
        a[cupy.asarray([6])]
    with pytest.raises(ValueError, match="Unsupported dtype"):
        cupy.asarray([None])


@pytest.mark.skipif(real.CUPY is None, reason="signatures are those of the real CuPy")
def test_signatures_are_those_of_cupy(gpu):
    import cupy

    a = cupy.arange(6)
    for wrong in (
        *(lambda: cupy.sort(a, stable=True), lambda: cupy.take_along_axis(a, a), lambda: cupy.take(a, a, mode="clip")),
        *(lambda: a.sum(where=a > 1), lambda: a.max(initial=3), lambda: cupy.concatenate([a, a], 0, None, "int64")),
    ):
        with pytest.raises(TypeError):
            wrong()


def test_waits_of_the_host_are_counted(gpu):
    import cupy

    a = cupy.asarray(np.arange(6, dtype=np.int32))
    b = cupy.cumsum(cupy.sort(a.reshape(2, 3) * 2 + 1, axis=1), axis=1).T.astype(np.int64)
    assert gpu.syncs == []
    a[a > 2], cupy.nonzero(a), int(a.sum()), bool(a.any()), a.max().item(), cupy.asnumpy(b)
    cupy.cuda.get_current_stream().synchronize()
    waits = ["boolean mask", "nonzero", "int", "bool", "item", "get", "Stream.synchronize"]
    assert gpu.syncs == waits
    assert gpu.moved == {"up": 24, "down": 48}


def test_results_are_arrays_of_the_device(gpu):
    import cupy

    a = cupy.asarray(np.arange(12, dtype=np.float32).reshape(3, 4))
    assert isinstance(a.sum(), cupy.ndarray)
    assert a.sum().shape == ()
    assert isinstance(a[0, 0], cupy.ndarray)
    assert a.T.flags.f_contiguous
    assert not a.T.flags.c_contiguous
    assert cupy.asarray(a) is a
    assert cupy.ascontiguousarray(a) is a
    assert a[1:].data.ptr == a.data.ptr + 16
    assert a.data.ptr % 512 == 0
    assert np.isnan(cupy.empty(4, np.float32).get()).all()
    a += 1
    a[1:] *= 2
    assert a.get().tolist() == [[1, 2, 3, 4], [10, 12, 14, 16], [18, 20, 22, 24]]
    out = np.empty((3, 4), np.float32)
    assert a.get(out=out) is out
    assert np.array_equal(out, a.get())
    a.set(np.zeros((3, 4), np.float32))
    assert not a.get().any()
    keys, order = cupy.take_along_axis(a, cupy.argsort(a, axis=1), axis=1), cupy.argsort(a[0])
    assert keys.shape == (3, 4)
    assert order.get().tolist() == [0, 1, 2, 3]


def test_memory_runs_out_and_comes_back(gpu):
    import cupy

    before = gpu.used
    gpu.memory = before + 10_000
    held = cupy.empty(1_000, np.float64)
    assert gpu.used == before + 8_192
    assert cupy.cuda.runtime.memGetInfo() == (1_808, before + 10_000)
    with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
        held + 1
    view = held[:1]
    del held
    assert gpu.used == before + 8_192
    del view
    assert gpu.used == before
    cupy.empty(1_216, np.float64)
    assert gpu.peak == before + 9_728


def test_streams_events_and_pinned_memory(gpu):
    import cupy

    stream, start = cupy.cuda.Stream(non_blocking=True), cupy.cuda.Event()
    with stream:
        assert cupy.cuda.get_current_stream() is stream
        start.record()
    end = cupy.cuda.get_current_stream().record()
    stream.wait_event(end)
    assert cupy.cuda.get_current_stream() is cupy.cuda.Stream.null
    assert cupy.cuda.get_elapsed_time(start, end) >= 0
    pinned = np.frombuffer(cupy.cuda.alloc_pinned_memory(40), np.float32, 10)
    pinned[:] = np.arange(10)
    there = cupy.empty(10, np.float32)
    there.set(pinned, stream=stream)
    assert np.array_equal(there.get(stream=stream), pinned)
    assert cupy.cuda.Device(0).compute_capability == "90"
    gpu.devices = 0
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError):
        cupy.cuda.runtime.getDeviceCount()


def test_the_double_leaves_no_trace():
    before = sys.modules.get("cupy")
    with simulated(order=1) as sim:
        import cupy

        assert isinstance(sim, Sim)
        assert cupy is not before
        assert sim.order == 1
    assert sys.modules.get("cupy") is before
    with pytest.raises(TypeError), simulated(no_such_knob=1):
        pass
