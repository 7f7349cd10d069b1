"""Timing on shared, noisy machines: contestants in turn, round by round; medians of ratios, not single times."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np


def in_turn(contestants: dict[str, Callable[[], object]], rounds: int, settle: float = 0.0) -> dict[str, np.ndarray]:
    """Seconds (rounds,) of each contestant, run A B A B ... after one round that is not counted.

    settle: before each turn wait so many seconds, then run once off the clock. Some libraries' threads go on spinning after
    a call and would take a core from whoever is next; after the wait one's own threads and caches must be woken.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(rounds + 1):
        for name, contestant in contestants.items():
            if settle:
                time.sleep(settle)
                contestant()
            start = time.perf_counter()
            contestant()
            if round_:
                times[name].append(time.perf_counter() - start)
    return {name: np.array(seconds) for name, seconds in times.items()}


def spread(values: np.ndarray) -> str:
    """Median and 20/80 quantiles."""
    low, middle, high = np.quantile(values, [0.2, 0.5, 0.8])
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"
