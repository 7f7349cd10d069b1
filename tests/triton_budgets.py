"""The code that host code may ask for, and what each may use: data for tests/test_triton_gate.py.

Registers and shared bytes are those of the device that takes most, with a little headroom. `python tests/triton_gate.py` prints
the table anew; a number that grew wants a reason in the commit.
"""

from __future__ import annotations

import importlib
import itertools
from typing import Any

from triton_gate import BACKEND, Limit, Variant

FLAGS = (False, True)
POINTERS = {
    "nearest.scan": "queries:i8 query_norms:i32 query_wide:i32 points:i8 norms:i32 wide:i32 ids:i32 total:i32 out:i64",
}


def variants() -> list[Variant]:
    """All code for the card that the backend was loaded for: the rows of its tables, with every flag."""
    return [*nearest_variants()]


def variant(kernel: str, case: str, options: Any, **constants: Any) -> Variant:
    pointers = dict(pair.split(":") for pair in POINTERS[kernel].split())
    return Variant(kernel, case, pointers, constants, tuple(options))


def module(name: str) -> Any:
    return importlib.import_module(f"{BACKEND}.{name}")


def rows_of(table: dict[tuple[str, int], Any]) -> dict[str, Any]:
    """Each case of a table as it is on this card."""
    arch = module("_launch").capability()
    return {case: module("_tuning").tile_for(table, case, arch) for case, _ in table}


def nearest_variants() -> list[Variant]:
    found = []
    for case, tile in rows_of(module("_tuning").NEAREST).items():
        size, pool = case.split()
        for wide, listed in itertools.product(FLAGS, FLAGS):
            constants = {"BM": tile.rows, "BN": tile.columns, "BK": tile.bytes, "POOL": int(pool)}
            constants |= {"ONE": size == "short", "WIDE": wide, "LISTED": listed}
            found.append(variant("nearest.scan", case, tile.options, **constants))
    return found


LIMITS: dict[str, Limit] = {
    "nearest.scan few 16": Limit(136, 37376, products=True, gathers=True),
    "nearest.scan few 64": Limit(144, 37376, products=True, gathers=True),
    "nearest.scan few 256": Limit(184, 37376, products=True, gathers=True),
    "nearest.scan short 16": Limit(208, 41008, products=True, gathers=True),
    "nearest.scan short 64": Limit(255, 65536, products=True, gathers=True),
    "nearest.scan long 16": Limit(240, 98336, products=True, gathers=True),
    "nearest.scan long 64": Limit(255, 73776, products=True, gathers=True),
}
