"""Two runs of one command: the ratios of what both measured, the largest change first."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from .measurements import Measurement, measurements
from .record import read
from .tables import table


def report(before: Path, after: Path, most: int, out: Path | None) -> int:
    """Print the table. most: lines, 0 for all. Ends the process where the files have nothing in common."""
    first, second = read(before), read(after)
    if first["command"] != second["command"]:
        sys.exit(f"{before} is of `{first['command']}` and {after} of `{second['command']}`: give two runs of one command")
    a, b = measurements(first), measurements(second)
    both = ratios(a, b)
    if not both:
        sys.exit(f"{before} and {after} have no measurement in common")
    for name, path, told in (("A", before, first), ("B", after, second)):
        print(f"{name}: {path}: {source(told)}")
    if first["stamp"]["machine"] != second["stamp"]["machine"]:
        print("The machines differ: ratios tell of them as well.")
    lines = []
    for name, ratio in both[: most or None]:
        better = "" if ratio == 1 else "better" if (ratio > 1) == a[name].more else "worse"
        lines.append([name, a[name].unit, f"{a[name].value:,.4g}", f"{b[name].value:,.4g}", f"{ratio:.3f}", better])
    print(table(["measurement", "unit", "A", "B", "B / A", ""], lines))
    hidden, alone = len(both) - len(lines), len({*a, *b}) - len(both)
    print(f"{hidden} more with smaller changes; {alone} in one of the files only, or 0", flush=True)
    if out:
        told = {"A": first["stamp"], "B": second["stamp"], "ratios": dict(both)}
        out.write_text(json.dumps(told, indent=1), encoding="utf-8")
    return 0


def ratios(a: dict[str, Measurement], b: dict[str, Measurement]) -> list[tuple[str, float]]:
    """B / A by name of what both have, neither 0: the largest change first, by name where equal."""
    found = [(name, b[name].value / a[name].value) for name in a if name in b and a[name].value * b[name].value > 0]
    return sorted(found, key=lambda one: (-abs(math.log(one[1])), one[0]))


def source(told: dict[str, Any]) -> str:
    """A run in one line: command, commit, date, machine."""
    stamp = told["stamp"]
    commit = f"{stamp['commit'] or 'no commit'}{' and changes' if stamp['changed'] else ''}"
    machine = stamp["machine"]
    unfinished = "" if told.get("finished", True) else "; unfinished"
    return f"bench {told['command']}, {commit}, {stamp['date']}, {machine['cpu']}, {machine['cores']} cores{unfinished}"
