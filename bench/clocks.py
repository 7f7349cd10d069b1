"""Clocks and peaks of what computes: the processor by the wall clock, a card by device events with its L2 emptied before."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from threadpoolctl import threadpool_limits

from omendb_kernels import dispatch, parallel
from omendb_kernels.contract import CodeRows

from .gpu import Device

COPIED, SIDE = 1 << 28, 1536  # bytes of the copy, side of the products
TILE, TILE_DIM = (512, 16_384), 512  # queries and points of the scan that stands for int8 products


class Clock(Protocol):
    """name: of the device, as the report calls it."""

    name: str

    def seconds(self, task: Callable[[], object]) -> float:
        """Of one run of a task, from its first kernel to its last."""

    def put(self, value: Any) -> Any:
        """An argument where the backend computes."""

    def host(self, value: Any) -> Any:
        """An answer as NumPy arrays."""

    def peaks(self, rounds: int, threads: int, scale: float) -> dict[str, float]:
        """bytes, float32 and float64 operations a second, as the libraries at hand reach them; scale: of sizes, for tests."""


class Host:
    """The processor."""

    name = "cpu"

    def seconds(self, task: Callable[[], object]) -> float:
        start = time.perf_counter()
        task()
        return time.perf_counter() - start

    def put(self, value: Any) -> Any:
        return value

    def host(self, value: Any) -> Any:
        return value

    def peaks(self, rounds: int, threads: int, scale: float) -> dict[str, float]:
        source = np.ones(max(1 << 16, int(COPIED * scale)), np.uint8)
        target, step = np.empty_like(source), -(-len(source) // threads)

        def part(bounds: tuple[int, int]) -> None:
            np.copyto(target[slice(*bounds)], source[slice(*bounds)])

        def copy() -> None:
            parallel.run(part, parallel.blocks(len(source), step), threads)

        found = {"bytes": 2 * len(source) / best(self, copy, rounds)}
        side = max(64, int(SIDE * scale**0.5))
        with threadpool_limits(threads, user_api="blas"):
            for name in ("float32", "float64"):
                a = np.ones((side, side), name)
                found[name] = 2 * side**3 / best(self, lambda a=a: a @ a, rounds)  # type: ignore[misc]
        return found


class Card(Device):
    """A card through CuPy; everything that is timed begins with an L2 that holds other data."""

    def __init__(self, backend: Any) -> None:
        super().__init__(backend)
        size = int(self.cupy.cuda.runtime.getDeviceProperties(0)["l2CacheSize"])
        self.other = self.cupy.zeros(max(2 * size, 1 << 20), np.uint8)

    def seconds(self, task: Callable[[], object]) -> float:
        self.other += 1
        return super().seconds(task)

    def host(self, value: Any) -> Any:
        parts = tuple(map(self.cupy.asnumpy, value if isinstance(value, tuple) else (value,)))
        return parts if isinstance(value, tuple) else parts[0]

    def peaks(self, rounds: int, threads: int = 1, scale: float = 1.0) -> dict[str, float]:
        side = int(8192 * scale**0.5)
        source = self.cupy.zeros(int((1 << 30) * scale), np.uint8)
        target = self.cupy.empty_like(source)
        found = {"bytes": 2 * len(source) / best(self, lambda: self.cupy.copyto(target, source), rounds)}
        for name in ("float32", "float64"):
            a = self.cupy.ones((side, side), name)
            found[name] = 2 * side**3 / best(self, lambda a=a: a @ a, rounds)  # type: ignore[misc]
        return found


def clock_of(backend: str) -> Clock:
    """The clock of the device that a backend computes on."""
    on_card = backend in dispatch.DEVICES["gpu"]
    return Card(importlib.import_module(dispatch.BACKENDS["cupy"])) if on_card else Host()


def best(clock: Clock, task: Callable[[], object], rounds: int) -> float:
    """The shortest of some rounds after one that is not counted: a peak is what can be reached."""
    task()
    return min(clock.seconds(task) for _ in range(rounds))


def int8_peak(backends: dict[str, Any], clock: Clock, rounds: int, threads: int, scale: float) -> tuple[float, str]:
    """Operations a second of the best of these backends' `nearest` on a large tile, and which that is."""
    m, n = (max(64, int(size * scale)) for size in TILE)
    random = np.random.default_rng(3)
    sides = []
    for rows in (m, n):
        codes = random.integers(-128, 128, (rows, TILE_DIM), dtype=np.int8)
        sides.append(clock.put(CodeRows(codes, (codes.astype(np.int32) ** 2).sum(axis=1, dtype=np.int32))))
    operations = 2.0 * m * n * TILE_DIM
    rates = {}
    for name, backend in backends.items():
        seconds = best(clock, lambda backend=backend: backend.nearest(*sides, 1, None, threads=threads), rounds)  # type: ignore[misc]
        rates[name] = operations / seconds
    first = max(rates, key=lambda name: rates[name])
    return rates[first], first
