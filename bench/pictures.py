"""PNGs of charts, in both themes, for pages that show no SVG: a headless Chromium draws them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path
from typing import Any

from .compare import source
from .record import read
from .report import STYLE, recall_chart

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIETLY = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
THEMES = {"dark": 0, "light": 1}  # the browser's own numbers
WIDTH, SHARPNESS = 900, 2  # pixels of CSS; of the picture for each

LOOK = f"body {{ max-width: {WIDTH}px; }} .charts {{ grid-template-columns: 1fr 1fr; }} .source {{ background: none; }}"
MEASURE = "<script>document.body.dataset.height = document.body.scrollHeight</script>"


def write(path: Path, out: Path) -> int:
    """`ann-light.png` and `ann-dark.png` of a run of `ann`: recall and speed of one thread, a chart a set.

    Ends the process where the file is of another command, or there is no browser.
    """
    told = read(path)
    if told["command"] != "ann":
        sys.exit(f"{path} is of `{told['command']}`: give a run of `ann`")
    found = browser()
    if found is None:
        sys.exit(f"pictures need one of {', '.join(BROWSERS)}")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-pictures-") as home:
        page = Path(home) / "page.html"
        page.write_text(html(told), encoding="utf-8")
        for theme, number in THEMES.items():
            command = [found, *QUIETLY, f"--user-data-dir={home}/user", f"--force-device-scale-factor={SHARPNESS}"]
            command.append(f"--blink-settings=preferredColorScheme={number}")
            seen = _run([*command, f"--window-size={WIDTH},900", "--dump-dom", page.as_uri()])
            height = re.search(r'data-height="(\d+)"', seen)
            if height is None:
                sys.exit(f"{found} did not show the page")
            picture = out / f"ann-{theme}.png"
            _run([*command, f"--window-size={WIDTH},{height[1]}", f"--screenshot={picture}", page.as_uri()])
            print(f"{picture}: {picture.stat().st_size:,} bytes")
    return 0


def browser() -> str | None:
    """The path of a Chromium."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def html(told: dict[str, Any]) -> str:
    """A page that is all picture."""
    figures = []
    for one in told["results"]:
        run = one["runs"][0]
        threads = "one thread" if run["threads"] == 1 else f"{run['threads']} threads"
        shape = f"{one['set']}, {one['rows']:,} x {one['dim']} {one['dtype']}, {one['metric']}"
        figures.append(recall_chart(f"queries, {threads}", shape, run["curves"]["queries"])(f"chart-{len(figures)}"))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><style>{STYLE}{LOOK}</style></head><body>'
        f'<div class="charts">{"".join(figures)}</div><p class="source">{escape(source(told))}</p>{MEASURE}</body></html>'
    )


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        sys.exit(f"{command[0]} failed: {done.stderr[-500:]}")
    return done.stdout
