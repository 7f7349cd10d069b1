"""Threads: one shared pool of workers over kernels that release the GIL, and BLAS held to one thread inside them.

Numba's own parallel layers are not used: they compile slowly, abort under concurrent calls and hang after a fork.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

T = TypeVar("T")

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_pool_size = 0


def run(task: Callable[[T], None], items: Iterable[T], threads: int) -> None:
    """Call `task` once for every item, on at most `threads` threads (the caller's is one of them).

    For two items of less than 100 us each one thread is quicker: another takes so long to wake, and to be waited for.
    Items are taken in order; a task's result must not depend on which thread runs it. The first exception is raised
    here, after the running tasks have ended; items not yet begun are dropped.
    """
    todo = list(items)
    lanes = min(threads, len(todo))
    if lanes <= 1:
        for item in todo:
            task(item)
        return
    queue = iter(todo)
    guard = threading.Lock()
    failed = threading.Event()

    def lane() -> None:
        while not failed.is_set():
            with guard:
                try:
                    item = next(queue)
                except StopIteration:
                    return
            try:
                task(item)
            except BaseException:
                failed.set()
                raise

    helpers = [_workers(lanes - 1).submit(lane) for _ in range(lanes - 1)]
    try:
        lane()
    finally:
        # A helper that never got a worker has nothing left to do; waiting for it could deadlock nested calls.
        started = [helper for helper in helpers if not helper.cancel()]
        errors = [error for helper in started if (error := helper.exception())]
    if errors:
        raise errors[0]


def blocks(total: int, size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) pairs of at most `size` that cover 0..total in order."""
    for start in range(0, total, size):
        yield start, min(start + size, total)


def _workers(wanted: int) -> ThreadPoolExecutor:
    """The shared pool with at least `wanted` workers; a forked child gets one of its own."""
    global _pool, _pool_size
    with _lock:
        if _pool is None or _pool_size < wanted:
            _pool_size = max(wanted, os.cpu_count() or 1)
            _pool = ThreadPoolExecutor(_pool_size, thread_name_prefix="omendb")
        return _pool


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


_blas_users = 0
_blas_limit: Any = None


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Hold BLAS to one thread. Counted, so that overlapping calls restore the caller's setting exactly once."""
    global _blas_users, _blas_limit
    with _lock:
        if _blas_users == 0:
            _blas_limit = _controller().limit(limits=1, user_api="blas")
        _blas_users += 1
    try:
        yield
    finally:
        with _lock:
            _blas_users = max(0, _blas_users - 1)
            if _blas_users == 0:
                _blas_limit.restore_original_limits()


def _begin_anew() -> None:
    """In a forked child, where the other threads are gone: what they held would be held for ever."""
    global _lock, _pool, _blas_users
    _lock, _pool = threading.Lock(), None
    if _blas_users:
        _blas_users = 0
        _blas_limit.restore_original_limits()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
