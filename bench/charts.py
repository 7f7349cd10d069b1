"""Charts as inline SVG: lines over two axes, bars over one. Colours are classes of the page, which has two themes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 420, 300  # units; a phone shows about as many pixels
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 48
BAR, LABELS = 20, 150
COLOURS = 8
DASHES = ("", "6 3", "2 3")  # beside colours, for eyes that do not tell those apart


class Axis(NamedTuple):
    """unit: "" is not allowed: "share" or "1" where there is none. log: by powers."""

    name: str
    unit: str
    log: bool = False

    @property
    def title(self) -> str:
        return f"{self.name} ({self.unit})"


def lines(
    identity: str, title: str, x: Axis, y: Axis, series: Mapping[str, Sequence[tuple[float, float]]], known: Sequence[str] = ()
) -> str:
    """A figure: one line with marks for each series of (x, y). known: names in the order of colours, else those of `series`."""
    place_of = {name: place for place, name in enumerate(known or series)}
    points = [point for some in series.values() for point in some]
    across, columns = _scale([point[0] for point in points], x.log, LEFT, WIDTH - RIGHT)
    up, rows = _scale([point[1] for point in points], y.log, HEIGHT - BOTTOM, TOP)
    parts = [_grid(across, columns, up, rows), _titles(x, y)]
    for name, some in series.items():
        place = place_of[name]
        style = f'class="line c{place % COLOURS}" stroke-dasharray="{_dash(place)}"'
        path = " ".join(f"{across(a):.1f},{up(b):.1f}" for a, b in some)
        marks = "".join(
            f'<circle class="mark c{place % COLOURS}" cx="{across(a):.1f}" cy="{up(b):.1f}" r="3">'
            f"<title>{escape(name)}: {a:,.4g} {escape(x.unit)}, {b:,.4g} {escape(y.unit)}</title></circle>"
            for a, b in some
        )
        parts.append(f'<polyline {style} points="{path}"/>{marks}')
    legend = "".join(f"<li>{_key(place_of[name])}{escape(name)}</li>" for name in series)
    return _figure(identity, title, HEIGHT, "".join(parts), x, y, f"<ul>{legend}</ul>")


def bars(identity: str, title: str, x: Axis, values: Mapping[str, float]) -> str:
    """A figure: a bar from 0 for each value, its number at its end."""
    height = TOP + BAR * len(values) + BOTTOM
    most = max([*values.values(), 1e-12])
    ticks = _ticks(0, most)
    end = max(most, ticks[-1])

    def across(value: float) -> float:
        return LABELS + (WIDTH - RIGHT - 44 - LABELS) * value / end

    parts = [
        f'<line class="grid" x1="{across(tick):.1f}" x2="{across(tick):.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>'
        f'<text class="tick" x="{across(tick):.1f}" y="{height - BOTTOM + 16}" text-anchor="middle">{_number(tick)}</text>'
        for tick in ticks
    ]
    for place, (name, value) in enumerate(values.items()):
        y = TOP + BAR * place
        parts.append(
            f'<text class="tick" x="{LABELS - 6}" y="{y + 14}" text-anchor="end">{escape(name)}</text>'
            f'<rect class="bar" x="{LABELS}" y="{y + 3}" width="{max(0.5, across(value) - LABELS):.1f}" height="{BAR - 6}"/>'
            f'<text class="tick" x="{across(value) + 4:.1f}" y="{y + 14}">{value:.3g}</text>'
        )
    middle = (LABELS + WIDTH - RIGHT - 44) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{height - 8}" text-anchor="middle">{escape(x.title)}</text>')
    return _figure(identity, title, height, "".join(parts), x, None, "")


def _figure(identity: str, title: str, height: int, drawn: str, x: Axis, y: Axis | None, legend: str) -> str:
    units = f' data-x-unit="{escape(x.unit)}"' + (f' data-y-unit="{escape(y.unit)}"' if y else "")
    label = f"{title}: {y.title + ' over ' if y else ''}{x.title}"
    head = f'<figure id="{identity}"{units}><figcaption>{escape(title)}</figcaption>'
    chart = f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}">{drawn}</svg>'
    return f"{head}{chart}{legend}</figure>"


def _key(place: int) -> str:
    """Of a legend."""
    line = f'<line class="line c{place % COLOURS}" x1="1" x2="25" y1="5" y2="5" stroke-dasharray="{_dash(place)}"/>'
    return f'<svg class="key" viewBox="0 0 26 10" aria-hidden="true">{line}</svg>'


def _dash(place: int) -> str:
    return DASHES[place // COLOURS % len(DASHES)]


def _titles(x: Axis, y: Axis) -> str:
    middle, half = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    return (
        f'<text class="axis" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x.title)}</text>'
        f'<text class="axis" transform="rotate(-90 14 {half})" x="14" y="{half}" text-anchor="middle">{escape(y.title)}</text>'
    )


def _grid(across: Callable[[float], float], columns: list[float], up: Callable[[float], float], rows: list[float]) -> str:
    parts = []
    for tick in columns:
        parts.append(f'<line class="grid" x1="{across(tick):.1f}" x2="{across(tick):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        at = f'x="{across(tick):.1f}" y="{HEIGHT - BOTTOM + 19}"'
        parts.append(f'<text class="tick" {at} text-anchor="middle">{_number(tick)}</text>')
    for tick in rows:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{up(tick) + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    return "".join(parts)


def _scale(values: list[float], log: bool, begin: float, end: float) -> tuple[Callable[[float], float], list[float]]:
    """Where a value lies between begin and end, and the values to write there."""
    low, high = (min(values), max(values)) if values else (1.0, 10.0)
    if log:
        ticks = _log_ticks(low, high)
    else:
        ticks = _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    form: Callable[[float], float] = math.log10 if log else float
    first, span = form(low), (form(high) - form(low)) or 1.0
    return lambda value: begin + (end - begin) * (form(value) - first) / span, ticks


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers from low down to high up."""
    high = high if high > low else low + (abs(low) or 1.0)
    span = high - low
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if span / (step * factor) <= 5)
    return [round(step * place, 12) for place in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each power, or the powers alone where those are many."""
    powers = range(math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9) + 1)
    fine = [factor * 10.0**power for power, factor in itertools.product(powers, (1, 2, 5))]
    before = max((tick for tick in fine if tick <= low * 1.000001), default=fine[0])
    after = min((tick for tick in fine if tick >= high * 0.999999), default=fine[-1])
    inside = [tick for tick in fine if before <= tick <= after]
    return inside if 2 <= len(inside) <= 7 else [10.0**power for power in powers]


def _number(value: float) -> str:
    """Short: 20k, 1.5M, .001."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
