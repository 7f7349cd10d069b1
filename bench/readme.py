"""The tables of a Markdown file that are made from runs: `<!-- bench NAME: FILE.json -->` ... `<!-- /bench -->`, with the run's
stamp below each. Nobody types a figure."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .compare import source
from .record import read
from .tables import load_of

UNITS = (("s", 1.0), ("ms", 1e-3), ("us", 1e-6))
BLOCK = re.compile(r"(<!-- bench (\w+): (\S+) -->\n).*?(<!-- /bench -->)", re.DOTALL)


def write(path: Path, check: bool) -> int:
    """Rewrite the blocks; with check only tell, by status 1, whether that would change anything."""
    text = path.read_text(encoding="utf-8")
    made = filled(text, path.parent)
    stale = made != text
    if stale and not check:
        path.write_text(made, encoding="utf-8")
    verdict = "as its runs say" if not stale else "differs from its runs" if check else "written"
    print(f"{path}: {len(BLOCK.findall(text))} tables, {verdict}")
    return int(stale and check)


def filled(text: str, home: Path) -> str:
    """The text with each block made anew. home: where the files of runs are named from. Ends the process on an unknown name."""

    def block(found: re.Match[str]) -> str:
        begin, name, file, end = found.groups()
        if name not in TABLES:
            sys.exit(f"unknown table {name!r}: there are {', '.join(TABLES)}")
        told = read(home / file)
        lines = [*TABLES[name](told), "", f"<sub>`{file}`: {source(told)}</sub>"]
        return begin + "\n".join(lines) + "\n" + end

    return BLOCK.sub(block, text)


def table(head: list[str], lines: Iterable[list[str]]) -> list[str]:
    """Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines)]


def times(above: float | None, below: float | None) -> str:
    """above / below, with two or three digits."""
    if not above or not below:
        return "-"
    share = above / below
    return f"{share:.2f}x" if share < 1.95 else f"{share:.1f}x" if share < 100 else f"{share:,.0f}x"


def duration(seconds: float) -> str:
    """Two or three digits and a unit."""
    unit, size = next((pair for pair in UNITS if seconds >= pair[1]), UNITS[-1])
    value = seconds / size
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}" if value >= 10 else f"{value:.2f} {unit}"


def count(value: float | None) -> str:
    """Three digits and thousands."""
    return "-" if value is None else f"{float(f'{value:.3g}'):,.0f}"


def _shape(one: dict[str, Any]) -> str:
    return f"{one['rows']:,} x {one['dim']}, {one['dtype']}, {one['metric']}"


def _peers(run: dict[str, Any]) -> list[str]:
    return [name for name in run["build"] if name != "ours"]


def builds(told: dict[str, Any]) -> list[str]:
    """Seconds, memory and threads of builds."""
    peers = _peers(told["results"][0]["runs"][0])
    head = ["build, one thread", "ours", *(f"{name} / ours" for name in peers)]
    head += ["memory beyond the rows, in rows as float32: ours", *peers]
    head += ["from its file to a first answer: ours", *peers]
    faster = list(told["results"][0]["speedups"])
    head += [f"ours, {words} threads" for words in faster]
    lines = []
    for one in told["results"]:
        built = one["runs"][0]["build"]
        seconds = built["ours"]["seconds"]
        memory = [f"{built[name]['peak_ratio']:.1f}" for name in ("ours", *peers)]
        beside = (times(built[name]["seconds"], seconds) for name in peers)
        loads = ("-" if (load := load_of(built[name])) is None else duration(load / 1e3) for name in ("ours", *peers))
        threads = (f"{one['speedups'][words]['build']:.2f}x" for words in faster)
        lines.append([_shape(one), duration(seconds), *beside, *memory, *loads, *threads])
    return table(head, lines)


def speeds(told: dict[str, Any]) -> list[str]:
    """Queries a second of batches at recalls, and one query at a time."""
    peers = _peers(told["results"][0]["runs"][0])
    beside = [f"ours / {name}" for name in peers]
    head = ["one thread", "at .95: ours, queries/s", *beside, "at .99", *beside]
    head += ["one query at .95, median", *(f"{name} / ours" for name in peers)]
    lines = []
    for one in told["results"]:
        run = one["runs"][0]
        for kind, at in run["at_recall"].items():
            line = [_shape(one) if kind == "queries" else "the same, queries of another kind"]
            for level in ("0.95", "0.99"):
                line += [count(at["ours"][level]), *(times(at["ours"][level], at[name][level]) for name in peers)]
            if kind == "queries":
                own = run["single"]["ours"]["us"][0]
                line += [f"{own:.0f} us", *(times(run["single"][name]["us"][0], own) for name in peers)]
            else:
                line += [""] * (1 + len(peers))
            lines.append(line)
    return table(head, lines)


def masks(told: dict[str, Any]) -> list[str]:
    """Some rows allowed: speed and recall, peers that take a filter beside ours."""
    runs = [(one, one["runs"][0]["masks"]) for one in told["results"] if one["runs"][0]["masks"]]
    peers = list(next(iter(runs[0][1].values()))["others"])
    head = ["allowed at random", "ours, queries/s (recall)", "certified exact"]
    head += [cell for name in peers for cell in (f"ours / {name}", "its recall")]
    lines = []
    for one, found in runs:
        for share, line in found.items():
            mine = line["tuned"]
            cells = [f"{share} of {one['rows']:,} x {one['dim']}", f"{count(mine['qps'])} ({mine['recall']:.3f})"]
            cells.append(count(line["exact"]["qps"]))
            for name in peers:
                other = line["others"].get(name)
                cells += [times(mine["qps"], other["qps"]), f"{other['recall']:.3f}"] if other else ["-", "-"]
            lines.append(cells)
    return table(head, lines)


def exact(told: dict[str, Any]) -> list[str]:
    """Certified exact search beside scans of all rows."""
    asked = list(told["results"][0])[2:]
    peers = [name for name in told["results"][0][asked[0]] if name != "ours"]
    head = ["certified exact, k 10, one thread"]
    head += [cell for words in asked for cell in (f"{words}: ours", *(f"{name} / ours" for name in peers))]
    lines = []
    for one in told["results"]:
        line = [f"{one['set']}, {one['metric']}"]
        for words in asked:
            own = one[words]["ours"]["seconds"]
            line += [duration(own), *(times(one[words][name]["seconds"], own) for name in peers)]
        lines.append(line)
    return table(head, lines)


def databases(told: dict[str, Any]) -> list[str]:
    """Embedded databases, each at the durability it states."""
    size, versions = f"{told['rows']:,} x {told['dim']}, {told['batch']:,} a batch", told["stamp"]["versions"]
    head = [size, "kept, rows/s", "one query: p50, us", "p99, us", "recall@10", "durability"]
    lines = []
    for one in told["results"]:
        name = f"{one['name']} {versions[one['name']]}" if one["name"] in versions else one["name"]
        times_of = [count(us) for us in one["us"][:2]]
        lines.append([name, count(one["rows_per_second"]), *times_of, f"{one['recall']:.3f}", one["durability"]])
    return table(head, lines)


def start(told: dict[str, Any]) -> list[str]:
    """A fresh process."""
    head = ["a fresh process", "file", "`import omendb`", "load, every block checked", "first line to first answer"]
    lines = []
    for one in told["results"]:
        seconds = [duration(one["seconds"][key]) for key in ("import", "load", "first answer")]
        lines.append([f"{one['set']}, {one['rows']:,} rows", f"{one['nbytes'] / 1e6:,.0f} MB", *seconds])
    return table(head, lines)


def compiling(told: dict[str, Any]) -> list[str]:
    """What all kernels take, once and from then on."""
    states = ("cold", "from the cache")
    head = ["kernels, beyond the second call", *told["cold"]["seconds"]]
    lines = [[state, *(f"{max(0.0, value):.2f} s" for value in told[state]["seconds"].values())] for state in states]
    return table(head, lines)


def dispatch(told: dict[str, Any]) -> list[str]:
    """What was chosen beside the best choice."""
    ratios = [one["regret"] for one in told["calls"]]
    head = ["calls of different sizes", "chosen / best, median", "worst", "choosing takes"]
    cost = duration(told["overhead"]["seconds"])
    return table(head, [[str(len(ratios)), f"{np.median(ratios):.2f}", f"{max(ratios):.2f}", cost]])


TABLES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "builds": builds,
    "speeds": speeds,
    "masks": masks,
    "exact": exact,
    "databases": databases,
    "start": start,
    "compiling": compiling,
    "dispatch": dispatch,
}
