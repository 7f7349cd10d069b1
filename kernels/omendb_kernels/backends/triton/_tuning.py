"""What a program of each kernel has: data, and a rule for cards that are not in it. Nothing is tuned at run time.

Provenance. NO GPU WAS THERE: no number here was timed. Tiles were chosen by what the compile gate reads in the machine code
(registers, shared memory, programs that a multiprocessor holds: tests/triton_gate.py) and by the counts at the heads of the
kernels. A row that was timed is to say on which card and by which command.
"""

from __future__ import annotations

from typing import NamedTuple

from ._launch import Options


class Tile(NamedTuple):
    """Of a program: rows and columns, bytes of a code at a time, how it is compiled; and how many a multiprocessor holds."""

    rows: int
    columns: int
    bytes: int
    options: Options
    resident: int


Table = dict[tuple[str, int], Tile]

# (case, compute capability from which it holds). nearest: few queries, or many and short or long codes; places of the pool.
NEAREST: Table = {
    ("few 64", 80): Tile(16, 128, 128, Options(4, 3), 3),
    ("few 64", 100): Tile(16, 64, 128, Options(4, 3), 3),
    ("few 256", 80): Tile(16, 128, 128, Options(4, 3), 2),
    ("few 256", 100): Tile(16, 64, 128, Options(4, 3), 2),
    ("short 16", 80): Tile(128, 64, 128, Options(8, 3), 1),
    ("short 16", 90): Tile(128, 64, 128, Options(8, 3), 2),
    ("short 16", 100): Tile(128, 64, 128, Options(8, 3), 1),
    ("short 64", 80): Tile(128, 64, 128, Options(8, 3), 1),
    ("long 16", 80): Tile(128, 64, 128, Options(8, 3), 1),
    ("long 16", 90): Tile(128, 128, 128, Options(8, 3), 1),
    ("long 16", 100): Tile(128, 64, 128, Options(8, 3), 1),
    ("long 64", 80): Tile(128, 64, 128, Options(8, 3), 1),
}
# Rows are those of a block of pick.cu, whose host code lays out the programs.
PICK: Table = {
    ("short 8", 80): Tile(64, 128, 128, Options(8, 3), 1),
    ("short 8", 90): Tile(64, 64, 128, Options(4, 3), 3),
    ("short 16", 80): Tile(64, 64, 128, Options(8, 3), 1),
    ("short 16", 100): Tile(64, 64, 128, Options(8, 2), 1),
    ("short 64", 80): Tile(64, 64, 128, Options(8, 3), 1),
    ("long 16", 80): Tile(64, 128, 128, Options(8, 3), 1),
    ("long 16", 90): Tile(64, 64, 128, Options(8, 3), 1),
    ("long 16", 100): Tile(64, 128, 128, Options(8, 3), 1),
    ("long 8", 80): Tile(64, 128, 128, Options(8, 3), 1),
    ("long 64", 80): Tile(64, 64, 128, Options(8, 3), 1),
    ("long 64", 100): Tile(64, 64, 128, Options(8, 2), 1),
}
# Rows are lines of a program.
PRUNE: Table = {("64", 80): Tile(2, 64, 128, Options(4, 2), 3)}
# Rows are pairs of a program, eight values of each at a time.
RERANK: Table = {("keys", 80): Tile(64, 8, 0, Options(4, 2), 8)}

# Rows of a program, eight values of each at a time.
ENCODE: Table = {("rows", 80): Tile(64, 8, 0, Options(4, 2), 8)}
# Queries and points of a program; bytes of a row of "float32" at a time.
DISTANCES: Table = {
    ("exact", 80): Tile(16, 16, 0, Options(4, 2), 6),
    ("float32", 80): Tile(128, 64, 128, Options(8, 2, True), 2),
}


def tile_for(table: Table, case: str, arch: int) -> Tile:
    """The row of this case for the newest capability that is no newer than `arch`."""
    return table[case, max(since for name, since in table if name == case and since <= arch)]
