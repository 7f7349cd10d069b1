"""Measurements as plain text."""

from __future__ import annotations

from typing import Any

from .curves import LEVELS, PERCENTILES, at_recall


def table(head: list[str], lines: list[list[str]]) -> str:
    """Columns as wide as they need be: the first to the left, numbers to the right."""
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]

    def text(line: list[str]) -> str:
        first, *rest = (
            cell.ljust(w) if at == 0 else cell.rjust(w) for at, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        return "  ".join([f"  {first}", *rest]).rstrip()

    return "\n".join(text(line) for line in [head, *lines])


def number(value: float | None, form: str = ",.0f") -> str:
    """A number, or a dash for none."""
    return "-" if value is None else format(value, form)


def ratio(above: float | None, below: float | None) -> str:
    """above / below, or nothing."""
    return f"{above / below:.2f}x" if above and below else ""


def show(result: dict[str, Any]) -> None:
    """All tables of one set."""
    rows, dim = result["rows"], result["dim"]
    for run in result["runs"]:
        count = run["threads"]
        title = f"{result['set']}: {rows:,} x {dim} {result['dtype']}, {result['metric']}"
        print(f"\n{title}; {count} thread{'s' * (count > 1)}")
        print(builds(run["build"]))
        for kind, curves in run["curves"].items():
            print(f"\n  batch of {kind}: QPS at recall@10, ours / peer\n{speeds(curves)}")
        if run["single"]:
            print(f"\n  one query at a time: microseconds, peer / ours\n{latencies(run['single'])}")
        if run["masks"]:
            print(f"\n  some rows allowed: ours at its tuned beam, and certified exact\n{masks(run['masks'])}")
        print(f"\n{own(run)}", flush=True)
    for name, factors in result["speedups"].items():
        cells = ", ".join(f"{what} {number(value, '.2f')}x" for what, value in factors.items())
        print(f"  ours, {name} threads: {cells}", flush=True)


def builds(built: dict[str, Any]) -> str:
    """Seconds and peer / ours; how far the process grew, in units of n d 4 bytes; megabytes of the saved index."""
    lines = []
    for name, one in built.items():
        compared = "" if name == "ours" else ratio(one["seconds"], built["ours"]["seconds"])
        saved = None if one["nbytes"] is None else one["nbytes"] / 1e6
        lines.append([name, number(one["seconds"], ".2f"), compared, number(one["peak_ratio"], ".2f"), number(saved, ".1f")])
    return table(["build", "seconds", "/ ours", "peak / raw", "index MB"], lines)


def speeds(curves: dict[str, Any]) -> str:
    """Queries a second at each recall, and the last recall of each curve."""
    own_at = {level: at_recall(curves["ours"], level) for level in LEVELS}
    lines = []
    for name, points in curves.items():
        line = [name]
        for level in LEVELS:
            found = at_recall(points, level)
            line += [number(found), "" if name == "ours" else ratio(own_at[level], found)]
        last = points[-1]
        lines.append([*line, f"{last['recall']:.4f} at {last['effort']}"])
    head = [cell for level in LEVELS for cell in (f"{level:.2f}", "")]
    return table(["", *head, "ends"], lines)


def latencies(single: dict[str, Any]) -> str:
    """Percentiles of one query's time, at each index's own effort for a recall of .95."""
    lines = []
    for name, one in single.items():
        line = [name, f"{one['effort']}", f"{one['recall']:.4f}"]
        for mine, taken in zip(single["ours"]["us"], one["us"], strict=True):
            line += [number(taken, ",.1f"), "" if name == "ours" else ratio(taken, mine)]
        lines.append(line)
    head = [cell for share in PERCENTILES for cell in (f"p{share}", "")]
    return table(["", "effort", "recall", *head], lines)


def masks(found: dict[str, Any]) -> str:
    """Queries a second and recall by the share that is allowed."""
    lines = [
        [share, f"{one['rows']:,}", number(one["tuned"]["qps"]), f"{one['tuned']['recall']:.4f}", number(one["exact"]["qps"])]
        for share, one in found.items()
    ]
    return table(["allowed", "rows", "QPS", "recall", "exact QPS"], lines)


def own(run: dict[str, Any]) -> str:
    """What ours tells of its own build."""
    told = run["build"]["ours"]["report"]
    return f"  ours: beam {told['beam']} (recall {told['recall']:.4f} while tuning); {phases(told)}"


def phases(told: dict[str, Any]) -> str:
    """The phases of a BuildReport with their seconds."""
    return ", ".join(f"{name} {seconds:.2f} s" for name, seconds in told["phases"].items())
