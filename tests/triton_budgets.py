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
KINDS = ("fp32", "fp16", "u16", "i8", "u8")  # of vectors; u16: the bits of bfloat16
METRICS: tuple[dict[str, Any], ...] = ({"METRIC": 0}, {"METRIC": 1, "KNOWN": True}, {"METRIC": 1}, {"METRIC": 2})
POINTERS = {
    "distances.exact_tile": "queries:fp32 points:{kind} query_lengths:fp64 lengths:fp64 out:fp32",
    "distances.product_tile": "queries:fp32 points:fp32 query_squares:fp32 squares:fp32 out:fp32",
    "encode.row_codes": "rows:{kind} lengths:fp64 offset:fp32 scales:fp64 codes:i8 norms:i32 errors:fp64",
    "encode.row_lengths": "rows:{kind} out:fp64",
    "pick.set_nearest": "points:i8 norms:i32 wide:i32 members:i32 offsets:i64 others:i32 other_starts:i64 sets:i32 starts:i64"
    " out:i64",
    "prune.prune_lines": "points:i8 norms:i32 wide:i32 candidates:i64 out:i64",
    "rerank.final_keys": "queries:fp32 points:{kind} candidates:i32 lower:fp64 limits:fp32 lengths:fp64 query_lengths:fp64"
    " names:i32 out:i64",
    "nearest.scan": "queries:i8 query_norms:i32 query_wide:i32 points:i8 norms:i32 wide:i32 ids:i32 total:i32 out:i64",
}


def variants() -> list[Variant]:
    """The code for the card that the backend was loaded for: all that multiplies codes; of what reads vectors each kind, each
    unit and each flag, not every combination of them."""
    of_codes = [*nearest_variants(), *pick_variants(), *prune_variants()]
    return [*of_codes, *rerank_variants(), *encode_variants(), *pairwise_variants()]


def variant(kernel: str, case: str, options: Any, kind: str = "fp32", **constants: Any) -> Variant:
    pointers = dict(pair.split(":") for pair in POINTERS[kernel].format(kind=kind).split())
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


def pick_variants() -> list[Variant]:
    found = []
    for case, tile in rows_of(module("_tuning").PICK).items():
        size, pool = case.split()
        constants = {"BM": tile.rows, "BN": tile.columns, "BK": tile.bytes, "POOL": int(pool), "ONE": size == "short"}
        found += [variant("pick.set_nearest", case, tile.options, **constants, WIDE=wide) for wide in FLAGS]
    return found


def prune_variants() -> list[Variant]:
    (tile,) = rows_of(module("_tuning").PRUNE).values()
    constants = {"LINES": tile.rows, "BK": tile.bytes}
    return [variant("prune.prune_lines", "", tile.options, **constants, WIDE=wide) for wide in FLAGS]


def rerank_variants() -> list[Variant]:
    (tile,) = rows_of(module("_tuning").RERANK).values()
    plain = {"UNIT": 8, "METRIC": 0, "KNOWN": False, "NAMED": False, "BOUNDED": False}
    sets = [{"kind": kind, **metric} for kind in KINDS for metric in METRICS]
    sets += [{"UNIT": 4}, {"UNIT": 1}, {"NAMED": True}, {"BOUNDED": True}]
    return [
        variant("rerank.final_keys", wide_or_not(one), tile.options, **{"ROWS": tile.rows, **plain, **one}) for one in sets
    ]


def encode_variants() -> list[Variant]:
    (tile,) = rows_of(module("_tuning").ENCODE).values()
    sets = [*({"kind": kind, "UNIT": 8} for kind in KINDS), {"UNIT": 4}, {"UNIT": 1}]
    found = [variant("encode.row_lengths", "", tile.options, ROWS=tile.rows, **one) for one in sets]
    for divided in FLAGS:
        found += [variant("encode.row_codes", "", tile.options, ROWS=tile.rows, DIVIDED=divided, **one) for one in sets]
    return found


def pairwise_variants() -> list[Variant]:
    found = []
    for case, tile in rows_of(module("_tuning").DISTANCES).items():
        kernel = f"distances.{ {'exact': 'exact_tile', 'float32': 'product_tile'}[case]}"
        constants = {"BM": tile.rows, "BN": tile.columns} | ({"BD": tile.bytes // 4} if case == "float32" else {})
        sets = [*({"UNIT": 8, "METRIC": metric} for metric in range(3)), {"UNIT": 4, "METRIC": 0}]
        if case == "exact":
            sets += [{"UNIT": 1, "METRIC": 0}, *({"kind": kind, "UNIT": 8, "METRIC": 0} for kind in KINDS[1:])]
        found += [variant(kernel, "", tile.options, **constants, **one) for one in sets]
    return found


def wide_or_not(one: dict[str, Any]) -> str:
    """The case of loads: of single values none is wide."""
    return "single" if one.get("UNIT") == 1 else "wide"


LIMITS: dict[str, Limit] = {
    "nearest.scan few 64": Limit(144, 37376, products=True, gathers=True),
    "nearest.scan few 256": Limit(184, 37376, products=True, gathers=True),
    "nearest.scan short 16": Limit(208, 41008, products=True, gathers=True),
    "nearest.scan short 64": Limit(255, 65536, products=True, gathers=True),
    "nearest.scan long 16": Limit(240, 98336, products=True, gathers=True),
    "nearest.scan long 64": Limit(255, 73776, products=True, gathers=True),
    "pick.set_nearest short 8": Limit(240, 26112, products=True, gathers=True),
    "pick.set_nearest short 16": Limit(184, 25360, products=True, gathers=True),
    "pick.set_nearest long 16": Limit(255, 50192, products=True, gathers=True),
    "pick.set_nearest short 64": Limit(176, 32768, products=True, gathers=True),
    "pick.set_nearest long 8": Limit(248, 50192, products=True, gathers=True),
    "pick.set_nearest long 64": Limit(184, 34064, products=True, gathers=True),
    "prune.prune_lines": Limit(136, 16384, products=True, gathers=True),
    "rerank.final_keys wide": Limit(72, 2048, gathers=True, exact=True),
    "rerank.final_keys single": Limit(104, 4096, exact=True),
    "encode.row_lengths": Limit(56, 4096, exact=True),
    "encode.row_codes": Limit(72, 2048, exact=True),
    "distances.exact_tile": Limit(72, 16384, exact=True),
    "distances.product_tile": Limit(216, 24576),
}
