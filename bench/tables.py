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
            print(f"\n  some rows allowed, {MASKED}: QPS, ours / peer\n{masks(run)}")
        print(f"\n{own(run)}", flush=True)
    for name, factors in result["speedups"].items():
        cells = ", ".join(f"{what} {number(value, '.2f')}x" for what, value in factors.items())
        print(f"  ours, {name} threads: {cells}", flush=True)


def builds(built: dict[str, Any]) -> str:
    """What `build_lines` gives."""
    return table(["build", "seconds", "/ ours", "peak / raw", "index MB", "load, ms"], build_lines(built))


def build_lines(built: dict[str, Any]) -> list[list[str]]:
    """A line for each index: its name, seconds, peer / ours; how far the process grew, in units of n d 4 bytes; megabytes of
    the saved index; milliseconds from it to a first answer."""
    lines = []
    for name, one in built.items():
        compared = "" if name == "ours" else ratio(one["seconds"], built["ours"]["seconds"])
        saved = None if one["nbytes"] is None else one["nbytes"] / 1e6
        grown = number(one["peak_ratio"], ".2f")
        told = [number(one["seconds"], ".2f"), compared, grown, number(saved, ",.1f"), number(load_of(one), ",.1f")]
        lines.append([name, *told])
    return lines


def load_of(built: dict[str, Any]) -> float | None:
    """Milliseconds; None where the index was not saved, or the run is from before loading was measured."""
    found = built.get("load")
    return 1e3 * found["seconds"] if found else None


def speeds(curves: dict[str, Any]) -> str:
    """Queries a second at each recall, and the last recall of each curve."""
    last = (points[-1] for points in curves.values())
    ends = (f"{point['recall']:.4f} at {point['effort']}" for point in last)
    lines = [[*line, end] for line, end in zip(speed_lines(curves), ends, strict=True)]
    head = [cell for level in LEVELS for cell in (f"{level:.2f}", "")]
    return table(["", *head, "ends"], lines)


def speed_lines(curves: dict[str, Any]) -> list[list[str]]:
    """A line for each index: its name; for each of LEVELS queries a second, ours / peer."""
    own_at = {level: at_recall(curves["ours"], level) for level in LEVELS}
    lines = []
    for name, points in curves.items():
        line = [name]
        for level in LEVELS:
            found = at_recall(points, level)
            line += [number(found), "" if name == "ours" else ratio(own_at[level], found)]
        lines.append(line)
    return lines


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


MASKED = "ours at its tuned beam and certified exact, peers at their effort for .95 of all rows"


def masks(run: dict[str, Any]) -> str:
    """Speed and recall by the share that is allowed; then each peer's filter, and who has none."""
    shown = table(["", "rows", "queries", "QPS", "", "recall"], mask_lines(run["masks"]))
    return "\n".join([shown, *(f"    {line}" for line in filters(run))])


def mask_lines(found: dict[str, Any]) -> list[list[str]]:
    """A line for each share and index: what it is, rows, queries, queries a second, ours / peer, recall."""
    lines = []
    for share, one in found.items():
        rows, asked, mine = f"{one['rows']:,}", number(one.get("queries")), one["tuned"]
        lines.append([f"{share} ours", rows, asked, number(mine["qps"]), "", f"{mine['recall']:.4f}"])
        lines.append([f"{share} ours, exact", rows, asked, number(one["exact"]["qps"]), "", "1"])
        for name, other in one.get("others", {}).items():
            speed = [number(other["qps"]), ratio(mine["qps"], other["qps"])]
            lines.append([f"{share} {name}", rows, number(other["queries"]), *speed, f"{other['recall']:.4f}"])
    return lines


def filters(run: dict[str, Any]) -> list[str]:
    """What a peer's filter is, and which peers take none. Nothing of runs from before peers were asked under masks."""
    first = next(iter(run["masks"].values()))
    if "others" not in first:
        return []
    lines = [f"{name} at effort {one['effort']:g}: {one['filter']}" for name, one in first["others"].items()]
    without = [name for name in run["build"] if name != "ours" and name not in first["others"]]
    return [*lines, f"takes no filter: {', '.join(without)}"] if without else lines


def own(run: dict[str, Any]) -> str:
    """What ours tells of its own build."""
    told = run["build"]["ours"]["report"]
    return f"  ours: beam {told['beam']} (recall {told['recall']:.4f} while tuning); {phases(told)}"


def phases(told: dict[str, Any]) -> str:
    """The phases of a BuildReport with their seconds."""
    return ", ".join(f"{name} {seconds:.2f} s" for name, seconds in told["phases"].items())
