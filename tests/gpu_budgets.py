"""What each kernel may use, with a little headroom over what it does use: data for tests/test_gpu_gate.py.

Registers and static shared bytes are of the arch and variant that take most. `python tests/gpu_gate.py` prints the table
anew; a number that grew wants a reason in the commit.
"""

from __future__ import annotations

from gpu_gate import Budget

# file -> the sets of NAME=VALUE that host code compiles it with; files that are not here have one, with none.
VARIANTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "beam.cu": (("SCRATCH=0",), ("SCRATCH=1",)),
    "nearest.cu": (("ROWS=128",), ("ROWS=16",), ("ROWS=128", "WGMMA=1")),
    **{file: tuple((f"KIND={kind}",) for kind in range(5)) for file in ("distances.cu", "rerank.cu")},
    "encode.cu": (*((f"KIND={kind}", "SCRATCH=0") for kind in range(5)), ("KIND=0", "SCRATCH=1")),
}

BUDGETS: dict[str, Budget] = {
    # beam.cu
    "beam": Budget(72, 1040, gathers=True),
    # distances.cu
    "exact": Budget(120, 21504, exact=True),
    "exact_few": Budget(80, 1024, exact=True),
    "prepare": Budget(56, 1024, exact=True),
    "finish": Budget(32, 1024, exact=True),
    # encode.cu
    "encode": Budget(72, 1152, exact=True),
    "lengths": Budget(48, 1024, exact=True),
    # link.cu
    "line_keys": Budget(72, gathers=True),
    # merge.cu
    "smallest_block": Budget(72, 1072),
    "smallest_warp": Budget(64, 9216),
    "place_edges": Budget(32, 1024),
    "count_edges": Budget(40, 1024),
    # nearest.cu
    "scan_points": Budget(136, 1024, gathers=True),
    # pick.cu
    "set_nearest": Budget(72, 1024, gathers=True),
    # prune.cu
    "adopt_long": Budget(104, 21824, gathers=True),
    "adopt_lines": Budget(104, 21824, gathers=True),
    "prune_long": Budget(104, 21824, gathers=True),
    "prune_lines": Budget(104, 21824, gathers=True),
    # reach.cu
    "reach": Budget(48),
    # rerank.cu
    "unpack": Budget(24, 1024),
    "rerank": Budget(88, 1040, exact=True),
    # seek.cu
    "candidates": Budget(72, 1024, exact=True),
    "enter": Budget(16, 1024),
    "query_scales": Budget(32, 1056, exact=True),
    # select.cu
    "allowed_ids": Budget(16, 1024),
    "select_block": Budget(48, 1040),
    "select_warp": Budget(48, 9216),
}
