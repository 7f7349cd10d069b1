"""Threads: the shared workers, forks, BLAS settings, how many threads a call may use, and calls from many threads at once."""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from contract_check import USABLE
from threadpoolctl import threadpool_info, threadpool_limits

from omendb_kernels import METRICS, InvalidParameter, PointSet, as_threads, knn, parallel, use_backend
from omendb_kernels.machine import cores


def test_every_item_is_done_once():
    for threads in (1, 2, 3, 8, 50):
        done: list[int] = []
        parallel.run(done.append, range(37), threads)
        assert sorted(done) == list(range(37))
    parallel.run(done.append, [], 4)
    assert len(done) == 37


def test_one_thread_takes_items_in_order_and_calls_here():
    seen: list[tuple[int, int]] = []
    parallel.run(lambda item: seen.append((item, threading.get_ident())), range(9), 1)
    assert seen == [(item, threading.get_ident()) for item in range(9)]


def test_many_threads_begin_items_in_order():
    started: list[int] = []
    guard = threading.Lock()

    def task(item: int) -> None:
        with guard:
            started.append(item)
        time.sleep(0.001)

    parallel.run(task, range(40), 4)
    # Four lanes at most: an item is never overtaken by more than the other lanes' items.
    assert all(abs(place - item) < 8 for place, item in enumerate(started))


def test_threads_really_share_the_work():
    meeting = threading.Barrier(3, timeout=30)
    parallel.run(lambda _: meeting.wait(), range(3), 3)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_first_error_comes_out_and_the_rest_is_dropped(threads):
    done: list[int] = []

    def task(item: int) -> None:
        if item == 3:
            raise ZeroDivisionError(item)
        time.sleep(0.001)
        done.append(item)

    with pytest.raises(ZeroDivisionError, match="3"):
        parallel.run(task, range(10_000), threads)
    assert len(done) < 1_000
    count = len(done)
    time.sleep(0.02)
    assert len(done) == count, "a task went on after run had returned"
    parallel.run(done.append, range(5), threads)
    assert len(done) == count + 5


def test_an_error_in_a_helper_comes_out():
    here = threading.get_ident()

    def task(item: int) -> None:
        if threading.get_ident() != here:
            raise KeyError(item)
        time.sleep(0.01)

    with pytest.raises(KeyError):
        parallel.run(task, range(500), 2)


def test_nested_calls_do_not_deadlock():
    done: list[int] = []
    width = 3 * (os.cpu_count() or 1)

    def outer(item: int) -> None:
        parallel.run(lambda _: inner(), range(width), width)

    def inner() -> None:
        parallel.run(done.append, range(3), 3)

    worker = threading.Thread(target=parallel.run, args=(outer, range(width), width), daemon=True)
    worker.start()
    worker.join(60)
    assert not worker.is_alive()
    assert len(done) == width * width * 3


def test_blocks_cover_everything_in_order():
    for total in (0, 1, 5, 6, 7):
        pieces = list(parallel.blocks(total, 3))
        assert [place for start, stop in pieces for place in range(start, stop)] == list(range(total))
        assert all(0 < stop - start <= 3 for start, stop in pieces)


# ---- BLAS ----------------------------------------------------------------------------------------------------------


def blas_threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


@pytest.fixture
def two_blas_threads():
    with threadpool_limits(2, user_api="blas"):
        if not blas_threads() or set(blas_threads()) != {2}:
            pytest.skip("a BLAS that cannot be told")
        yield


@pytest.mark.usefixtures("two_blas_threads")
def test_blas_is_held_to_one_thread_and_let_go():
    with parallel.single_threaded_blas():
        assert set(blas_threads()) == {1}
        with parallel.single_threaded_blas():
            assert set(blas_threads()) == {1}
        assert set(blas_threads()) == {1}
    assert set(blas_threads()) == {2}
    with pytest.raises(ZeroDivisionError), parallel.single_threaded_blas():
        raise ZeroDivisionError
    assert set(blas_threads()) == {2}


@pytest.mark.usefixtures("two_blas_threads")
def test_overlapping_holds_restore_what_was_there():
    first, second = parallel.single_threaded_blas(), parallel.single_threaded_blas()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert set(blas_threads()) == {1}
    second.__exit__(None, None, None)
    assert set(blas_threads()) == {2}


# ---- how many ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wish", ["1", "3", "1024"])
def test_the_environment_says_how_many(monkeypatch, wish):
    monkeypatch.setenv("OMENDB_NUM_THREADS", wish)
    assert as_threads() == int(wish)
    assert as_threads(2) == 2


@pytest.mark.parametrize("wish", ["0", "-1", "1.5", "two", " 2", "1025", "9" * 30, "2_0"])
def test_bad_wishes_are_refused(monkeypatch, wish):
    monkeypatch.setenv("OMENDB_NUM_THREADS", wish)
    for call in (as_threads, lambda: knn([[1.0]], [[1.0]])):
        with pytest.raises(InvalidParameter, match=r"OMENDB_NUM_THREADS: got .*wanted an integer from 1 to 1024"):
            call()
    assert as_threads(3) == 3


def test_else_the_cores_of_this_process(monkeypatch):
    monkeypatch.delenv("OMENDB_NUM_THREADS", raising=False)
    assert as_threads() == as_threads(None) == cores() >= 1
    monkeypatch.setenv("OMENDB_NUM_THREADS", "")
    assert as_threads() == cores()


# ---- many callers --------------------------------------------------------------------------------------------------


def searches(rng: np.random.Generator) -> list[tuple[PointSet, np.ndarray]]:
    rows = rng.standard_normal((1500, 20)).astype(np.float32)
    return [(PointSet.encode(rows, metric), rng.standard_normal((9, 20)).astype(np.float32)) for metric in METRICS]


@pytest.mark.parametrize("name", USABLE)
def test_many_callers_get_the_same_bits(rng, name):
    work = searches(rng)

    def answer(turn: int) -> list[bytes]:
        with use_backend(name):
            return [part.tobytes() for points, queries in work for part in knn(queries, points, 10, threads=1 + turn % 3)]

    wanted = answer(0)
    with ThreadPoolExecutor(8) as pool:
        assert all(found == wanted for found in pool.map(answer, range(40)))


def child_answers(work: list[tuple[PointSet, np.ndarray]], wanted: list[bytes]) -> bool:
    """Fork; True when the child finds the same within a minute."""
    child = os.fork()
    if child == 0:
        found = [part.tobytes() for points, queries in work for part in knn(queries, points, 10, threads=3)]
        os._exit(0 if found == wanted else 1)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return False


needs_fork = pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="no fork that BLAS survives")


@needs_fork
@pytest.mark.filterwarnings("ignore:This process .*is multi-threaded:DeprecationWarning")
def test_a_forked_child_can_search(rng):
    work = searches(rng)
    wanted = [part.tobytes() for points, queries in work for part in knn(queries, points, 10, threads=3)]
    assert child_answers(work, wanted)


@needs_fork
@pytest.mark.filterwarnings("ignore:This process .*is multi-threaded:DeprecationWarning")
def test_a_child_forked_in_the_middle_of_a_call_can_search(rng):
    """Another thread holds the lock and BLAS at that moment; it does not exist in the child."""
    work = searches(rng)
    wanted = [part.tobytes() for points, queries in work for part in knn(queries, points, 10, threads=3)]
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with parallel.single_threaded_blas(), parallel._lock:
            held.set()
            release.wait(90)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(10)
    try:
        assert child_answers(work, wanted)
    finally:
        release.set()
        holder.join()
