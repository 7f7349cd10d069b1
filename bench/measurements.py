"""Every number that a run measured, by a name that another run of the same command gives it too, with its unit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from .curves import PERCENTILES

UNITS = {  # by the key of an entry, for all numbers in it: the unit, and whether more is better
    "seconds": ("s", False),
    "first": ("s", False),
    "phases": ("s", False),
    "gpu": ("s", False),
    "cpu": ("s", False),
    "device": ("s", False),
    "asked": ("s", False),
    "us": ("us", False),
    "one_row_ms": ("ms", False),
    "sync_ms": ("ms", False),
    "qps": ("queries/s", True),
    "at_recall": ("queries/s", True),
    "rows_per_second": ("rows/s", True),
    "median_rows_per_second": ("rows/s", True),
    "megabytes_per_second": ("MB/s", True),
    "recall": ("share", True),
    "nbytes": ("bytes", False),
    "peak_ratio": ("bytes / raw bytes", False),
    "fraction": ("share of the roofline", True),
    "regret": ("chosen / best", False),
    "exponent": ("exponent", False),
}
# Entries that tell what was measured.
NAMES = ("set", "name", "op", "case", "shape", "backend", "axis", "at", "threads", "effort")
CONTAINERS = ("results", "runs", "calls", "ops", "points")
# Of the run and no measurement: what it was told, what it is, and numbers that others are made of.
APART = (
    "command", "stamp", "options", "machine", "config", "peers", "variables", "unset", "peaks", "work", "efforts",
    "all_seconds",
)  # fmt: skip


class Measurement(NamedTuple):
    """more: whether more is better."""

    value: float
    unit: str
    more: bool


def measurements(told: dict[str, Any]) -> dict[str, Measurement]:
    """By name, in the order of the file."""
    return dict(_walk(told, (), None))


def _walk(node: Any, path: tuple[str, ...], unit: tuple[str, bool] | None) -> Iterator[tuple[str, Measurement]]:
    if isinstance(node, dict):
        path = _extended(path, _names(node))
        for key, value in node.items():
            if key in APART or (key in NAMES and not isinstance(value, dict | list)):
                continue
            inner = path if key in CONTAINERS else _extended(path, (str(key),))
            yield from _walk(value, inner, UNITS.get(key, unit))
    elif isinstance(node, list):
        for place, value in enumerate(node):
            named = isinstance(value, dict) and bool(_names(value))
            at = f"p{PERCENTILES[place]}" if unit == UNITS["us"] else f"[{place}]"
            yield from _walk(value, path if named else (*path, at), unit)
    elif unit is not None and isinstance(node, int | float) and not isinstance(node, bool):
        yield ", ".join(path), Measurement(float(node), *unit)


def _names(node: dict[str, Any]) -> tuple[str, ...]:
    """What an entry says that it is."""
    told = []
    for key in NAMES:
        value = node.get(key)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            told.append(value if isinstance(value, str) else f"{key} {value:g}")
    return tuple(told)


def _extended(path: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    """Nothing is said twice."""
    return (*path, *(part for part in more if part not in path))
