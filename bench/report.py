"""One HTML page of runs: no script, no outside resource; every table and chart names the run that it is from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path
from typing import Any

from .charts import Axis, bars, lines
from .compare import source
from .curves import LEVELS, PERCENTILES
from .measurements import measurements
from .record import read
from .scale import CASES
from .tables import MASKED, build_lines, filters, mask_lines, number, speed_lines

STYLE = """
:root { color-scheme: light dark; --ink: #1c2126; --faint: #5b6670; --ground: #ffffff; --panel: #f4f6f8; --rule: #d5dbe1;
  --c0: #1f5fbf; --c1: #c2410c; --c2: #15803d; --c3: #9333ea; --c4: #b4235a; --c5: #0e7490; --c6: #8a6d00; --c7: #4b5563; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaee; --faint: #9aa7b3; --ground: #14181c; --panel: #1d2329;
  --rule: #38424c; --c0: #7db4ff; --c1: #ff9d66; --c2: #6fdc8c; --c3: #cf9bff; --c4: #ff8fb3; --c5: #5fd3e6; --c6: #e6c84f;
  --c7: #b6c0ca; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--ground); overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.25rem; border-top: 1px solid var(--rule); padding-top: 1rem; }
h3 { font-size: 1.05rem; } a { color: var(--c0); } .source, .of, figcaption { color: var(--faint); font-size: .85rem; }
.source { background: var(--panel); border-radius: .4rem; padding: .5rem .75rem; }
.of { margin: 1rem 0 .25rem; } .wide { overflow-x: auto; margin: 0 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums;
  font-size: .9rem; overflow-wrap: normal; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; } th { font-weight: 600; vertical-align: bottom; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
figure { margin: 0; background: var(--panel); border-radius: .4rem; padding: .75rem; min-width: 0; }
.chart { display: block; width: 100%; height: auto; } figure ul { list-style: none; display: flex; flex-wrap: wrap;
  gap: .1rem 1rem; margin: .4rem 0 0; padding: 0; font-size: .85rem; }
.key { width: 1.7rem; height: .65rem; margin-right: .3rem; }
.grid { stroke: var(--rule); stroke-width: 1; } .tick { fill: var(--faint); font-size: 12px; }
.axis { fill: var(--ink); font-size: 13px; } .line { fill: none; stroke-width: 2; } .bar { fill: var(--c0); }
"""
STYLE += "".join(f".line.c{i} {{ stroke: var(--c{i}); }} .mark.c{i} {{ fill: var(--c{i}); }}\n" for i in range(8))


class Page:
    """Sections, one a run; identities that no two elements share."""

    def __init__(self) -> None:
        self.sections: list[tuple[str, str, list[str]]] = []
        self.used: set[str] = set()

    def begin(self, told: dict[str, Any], path: Path) -> None:
        """A section of a run."""
        self.run = self.identity(f"run {told['command']}")
        self.from_ = f"{path.name}: {source(told)}"
        self.short = f"{path.name}, {told['stamp']['commit'] or 'no commit'}, {told['stamp']['date'][:10]}"
        versions = ", ".join(f"{name} {version}" for name, version in told["stamp"]["versions"].items())
        line = f'<p class="source">{escape(self.from_)}. {escape(versions)}.</p>'
        self.sections.append((self.run, f"{told['command']}: {path.name}", [line]))

    def identity(self, words: str) -> str:
        stem = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
        found = next(name for name in (stem, *(f"{stem}-{i}" for i in range(2, 10_000))) if name not in self.used)
        self.used.add(found)
        return found

    def add(self, html: str) -> None:
        self.sections[-1][2].append(html)

    def heading(self, words: str) -> None:
        self.add(f"<h3>{escape(words)}</h3>")

    def table(self, title: str, head: list[str], rows: Iterable[list[str]]) -> None:
        """Above it what it is and its source, outside what scrolls. A first column of names, numbers behind."""
        identity = self.identity(f"{self.run} {title}")
        top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        self.add(
            f'<p class="of" id="{identity}-of">{escape(title)}. Source: <a href="#{self.run}">{escape(self.short)}</a></p>'
            f'<div class="wide"><table id="{identity}" aria-labelledby="{identity}-of" data-source="{self.run}">'
            f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def charts(self, *figures: Callable[[str], str]) -> None:
        """Each is made with an identity."""
        made = "".join(figure(self.identity(f"{self.run} chart")) for figure in figures)
        self.add(f'<div class="charts" data-source="{self.run}">{made}</div>')

    def html(self) -> str:
        contents = "".join(f'<li><a href="#{identity}">{escape(title)}</a></li>' for identity, title, _ in self.sections)
        body = "".join(
            f'<section id="{identity}"><h2>{escape(title)}</h2>{"".join(parts)}</section>'
            for identity, title, parts in self.sections
        )
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><title>omendb benchmarks</title>'
            f"<style>{STYLE}</style></head><body><main><h1>omendb benchmarks</h1>"
            "<p>Each number was measured by the run that its table names, after that run's gate had compared the answers. "
            f"Nothing here is loaded from elsewhere.</p><ol>{contents}</ol>{body}</main></body></html>\n"
        )


def write(files: list[Path], out: Path) -> int:
    """Write the page. Ends the process where a file is none of a bench."""
    page = Page()
    for path in files:
        told = read(path)
        page.begin(told, path)
        SECTIONS.get(told["command"], everything)(page, told)
    out.write_text(page.html(), encoding="utf-8")
    print(f"{out}: {len(files)} runs, {out.stat().st_size:,} bytes")
    return 0


def everything(page: Page, told: dict[str, Any]) -> None:
    """All measurements in one table."""
    rows = [[name, f"{one.value:,.5g}", one.unit] for name, one in measurements(told).items()]
    page.table("All measurements", ["measurement", "value", "unit"], rows)


def ann(page: Page, told: dict[str, Any]) -> None:
    for data in told["results"]:
        for run in data["runs"]:
            size = f"{data['rows']:,} x {data['dim']} {data['dtype']}"
            shape = f"{data['set']}, {size}, {data['metric']}, {run['threads']} thread{'s' * (run['threads'] > 1)}"
            page.heading(shape)
            page.charts(*(recall_chart(kind, shape, curves) for kind, curves in run["curves"].items()))
            for kind, curves in run["curves"].items():
                _speeds(page, f"Queries a second at recall@{told['k']}, batches of {kind}", curves)
            _builds(page, run["build"])
            if run["single"]:
                head = ["one query, us", "effort", "recall", *(f"p{share}, us" for share in PERCENTILES)]
                rows = [
                    [name, f"{one['effort']:g}", f"{one['recall']:.4f}", *(f"{value:,.1f}" for value in one["us"])]
                    for name, one in run["single"].items()
                ]
                page.table("One query at a time, at each index's effort for a recall of .95", head, rows)
            if run["masks"]:
                _masks(page, run)


def recall_chart(kind: str, shape: str, curves: dict[str, Any]) -> Callable[[str], str]:
    """Speed over recall; kind: of the queries."""
    series = {name: [(point["recall"], point["qps"]) for point in points] for name, points in curves.items()}
    x, y = Axis("recall@10", "share"), Axis("speed", "queries/s", log=True)
    return lambda identity: lines(identity, f"{shape}: batches of {kind}", x, y, series)


def _speeds(page: Page, title: str, curves: dict[str, Any]) -> None:
    head = [cell for level in LEVELS for cell in (f"at {level}, queries/s", "ours / peer")]
    page.table(title, ["index", *head], speed_lines(curves))


def _masks(page: Page, run: dict[str, Any]) -> None:
    head = ["allowed", "rows", "queries", "queries/s", "ours / peer", "recall"]
    notes = "".join(f"; {line}" for line in filters(run))
    page.table(f"Some rows allowed by a random mask, {MASKED}{notes}", head, mask_lines(run["masks"]))


def _builds(page: Page, built: dict[str, Any]) -> None:
    head = ["index", "seconds", "peer / ours", "peak memory / raw rows", "saved, MB", "file to first answer, ms"]
    page.table("Builds", head, build_lines(built))


def kernels(page: Page, told: dict[str, Any]) -> None:
    for device, peaks in told.get("peaks", {}).items():
        cells = [number(peaks[kind] / 1e9) for kind in ("bytes", "float32", "float64", "int8")]
        head = ["device", "copy, GB/s", "float32, G op/s", "float64, G op/s", "int8, G op/s (our own nearest)"]
        page.table(f"Peaks of this run, {told['options']['threads']} threads", head, [[device, *cells]])
    for shape in dict.fromkeys(one["shape"] for one in told["results"]):
        some = [one for one in told["results"] if one["shape"] == shape]
        page.heading(f"{shape} float32, l2")
        unit = "share of the measured roofline"
        page.charts(*(_fractions(shape, name, unit, some) for name in dict.fromkeys(one["backend"] for one in some)))
        rows = []
        for one in some:
            times = [f"{1e3 * one[which]:,.3f}" for which in ("seconds", "low", "high")]
            rate = f"{one['rate'] / 1e9:,.2f} {'GB/s' if one['limiter'] == 'bytes' else 'G op/s'}"
            share = f"{one['fraction']:.2%}"
            rows.append([one["op"], one["backend"], f"{one['first']:.2f}", *times, rate, one["limiter"], share])
        times_of = ["first call more, s", "median, ms", "20 %, ms", "80 %, ms"]
        head = ["op", "backend", *times_of, "rate", "limited by", "of the roofline"]
        page.table(f"Ops at {shape}", head, rows)


def _fractions(shape: str, backend: str, unit: str, some: list[dict[str, Any]]) -> Callable[[str], str]:
    values = {one["op"]: one["fraction"] for one in some if one["backend"] == backend}
    return lambda identity: bars(identity, f"{shape}, {backend}", Axis("fraction", unit), values)


def scale(page: Page, told: dict[str, Any]) -> None:
    """A chart and a table for each axis."""
    figures = []
    for grown in told["results"]:
        series = {one["case"]: [(point["at"], 1e3 * point["seconds"]) for point in one["points"]] for one in grown["results"]}
        x, y = Axis(grown["axis"], grown["unit"], log=True), Axis("time", "ms", log=True)
        figures.append(_growth_chart(f"{grown['axis']} grows", x, y, series))
    page.charts(*figures)
    for grown in told["results"]:
        sizes = [point["at"] for point in grown["results"][0]["points"]]
        rows = [
            [one["case"], *(f"{1e3 * point['seconds']:,.4g}" for point in one["points"]), f"{one['exponent']:.2f}"]
            for one in grown["results"]
        ]
        head = ["ms, of a build or a query", *(f"{size:,}" for size in sizes), "fitted exponent"]
        page.table(f"Growth with {grown['axis']} ({grown['unit']})", head, rows)


def _growth_chart(title: str, x: Axis, y: Axis, series: dict[str, list[tuple[float, float]]]) -> Callable[[str], str]:
    return lambda identity: lines(identity, title, x, y, series, CASES)


def databases(page: Page, told: dict[str, Any]) -> None:
    rows = [
        [one["name"], number(one["rows_per_second"]), f"{one['open']['seconds']:.3f}", *(number(us) for us in one["us"]),
         f"{one['recall']:.4f}", one["durability"]]
        for one in told["results"]
    ]  # fmt: skip
    head = ["database", "kept, rows/s", "open, s", "p50, us", "p99, us", "recall", "durability"]
    size = f"{told['rows']:,} x {told['dim']} float32, l2, {told['batch']:,} a batch"
    page.table(f"Embedded databases, {size}; one query at a time", head, rows)


SECTIONS: dict[str, Callable[[Page, dict[str, Any]], None]] = {
    "ann": ann,
    "databases": databases,
    "kernels": kernels,
    "scale": scale,
}
