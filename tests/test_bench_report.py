"""`report` and `compare`: pages of real runs, parsed, and looked at by a browser where there is one; ratios of two runs."""

from __future__ import annotations

import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from bench_runs import make_set, measured

from bench import ann, charts, compare, pictures, report, scale
from bench.charts import Axis
from bench.measurements import measurements

BROWSER = pictures.browser()
VOID = {"meta", "br"}
AXES = {"n": "300,600", "d": "", "k": "1,5", "batch": "", "threads": ""}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Toy runs by command: those with a section of their own, and one that is told as it is."""
    import numpy as np

    home = tmp_path_factory.mktemp("runs")
    make_set(home / "data" / "tiny", np.random.default_rng())
    ops = ("--shape", "700x24", "--op", "lengths,nearest", "--rounds", 2, "--peaks", 0.003)
    options = {"sets": "", "peers": "", "threads": "1", "rounds": 1, "builds": 1, "masks": "10", "resume": False}
    assert ann.report(home / "data", **options, out=home / "ann.json", unset={}) == 0
    measured(home / "kernels.json", "kernels", *ops)
    point, growth = scale.Point(300, 8, batch=10), {"grown": AXES, "rounds": 1, "resume": False, "unset": {}}
    assert scale.report(base=point, **growth, out=home / "scale.json") == 0
    measured(home / "exact.json", "exact", "--data", home / "data", "--oracle", 2, "--rounds", 1)
    return {path.stem: path for path in sorted(home.glob("*.json"))}


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "report.html"
    assert report.write(list(runs.values()), out) == 0
    return out


class Seen(HTMLParser):
    """What is in a page. Fails on tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[tuple[str, str]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.text.append((self.open[-1], data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def test_everything_has_a_unit_and_a_source(page, runs):
    seen = Seen(page.read_text())
    identities = [attrs["id"] for _, attrs in seen.tags if "id" in attrs]
    assert len(identities) == len(set(identities))
    sections = {attrs["id"] for attrs in seen.all("section")}
    assert len(sections) == len(runs)
    assert {attrs["data-source"] for attrs in seen.all("table")} == sections  # each run has a table, each table a run
    assert all(attrs["aria-labelledby"] in identities for attrs in seen.all("table"))
    figures = seen.all("figure")
    assert len(figures) >= 4
    written = " ".join(text for tag, text in seen.text if tag == "text")
    for figure in figures:
        units = [value for key, value in figure.items() if key.endswith("-unit")]
        assert units
        assert all(unit and f"({unit})" in written for unit in units)
    told = {path.stem: json.loads(path.read_text()) for path in runs.values()}
    sources = [text for tag, text in seen.text if tag == "p"]
    for name, run in told.items():
        assert any(f"{name}.json: bench {name}, {run['stamp']['commit']}" in text for text in sources)
        assert any(run["stamp"]["date"] in text for text in sources)


def test_nothing_comes_from_elsewhere(page):
    text = page.read_text()
    seen = Seen(text)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in seen.tags}
    links = [attrs[key] for _, attrs in seen.tags for key in ("href", "src", "xlink:href") if key in attrs]
    assert links
    assert all(link.startswith("#") for link in links)
    assert "url(" not in text
    assert "@import" not in text


def test_words_of_a_file_are_no_markup(runs, tmp_path):
    told = json.loads(runs["exact"].read_text())
    told["results"][0]["set"] = "<script>alert(1)</script>"
    (tmp_path / "a&b.json").write_text(json.dumps(told))
    assert report.write([tmp_path / "a&b.json"], tmp_path / "out.html") == 0
    seen = Seen((tmp_path / "out.html").read_text())
    assert not seen.all("script")
    assert any("<script>alert(1)</script>" in text for _, text in seen.text)


# Appended to a copy of the page: writes what a reader would see into an attribute.
PROBE = """<script>
const boxes = [...document.querySelectorAll("svg.chart")].map(svg => [...svg.querySelectorAll("text")].map(
  text => [text.textContent, text.getBoundingClientRect(), svg.getBoundingClientRect()]));
const apart = (a, b) => a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 1 || b.bottom <= a.top + 1;
const found = [];
for (const texts of boxes) texts.forEach(([name, box, svg], i) => {
  if (box.left < svg.left - 1 || box.right > svg.right + 1 || box.bottom > svg.bottom + 1) found.push("outside: " + name);
  texts.slice(i + 1).forEach(([other, second]) => { if (!apart(box, second)) found.push(name + " over " + other); });
});
const style = getComputedStyle(document.body), root = document.documentElement;
document.body.dataset.seen = JSON.stringify({ found, charts: boxes.length, width: innerWidth, needed: root.scrollWidth,
  ink: style.color, ground: style.backgroundColor, least: Math.min(...boxes.flat().map(([, box]) => box.height)) });
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize(("theme", "width"), [("dark", 500), ("light", 1280)])
def test_a_browser_shows_it(page, tmp_path, theme, width):
    copy = tmp_path / "page.html"
    copy.write_text(page.read_text().replace("</body>", PROBE + "</body>"))
    scheme = f"--blink-settings=preferredColorScheme={0 if theme == 'dark' else 1}"
    options = ["--headless", "--no-sandbox", "--disable-gpu", scheme, f"--window-size={width},900"]
    command = [str(BROWSER), *options, f"--user-data-dir={tmp_path}/user", "--dump-dom", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    told = next(attrs["data-seen"] for tag, attrs in Seen(done.stdout).tags if tag == "body")
    seen = json.loads(told or "")
    assert seen["found"] == []
    assert seen["charts"] >= 4
    assert seen["needed"] <= seen["width"] <= width  # only tables scroll sideways, by themselves
    assert seen["least"] >= 10  # pixels of the smallest letters
    ink, ground = (sum(map(int, re.findall(r"\d+", seen[key])[:3])) / 3 for key in ("ink", "ground"))
    assert ink - ground > 150 if theme == "dark" else ground - ink > 150


# ---- charts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [[3.0], [0.5, 0.5], [1e-7, 1e9], [0.9371, 1.0], [20.0, 21.0], [1.0, 10.0]])
def test_ticks_enclose_the_values_and_are_few(values, log):
    place, ticks = charts._scale(values, log, 0.0, 100.0)
    assert ticks == sorted(set(ticks))
    assert 2 <= len(ticks) <= 20
    assert all(-1e-6 <= place(value) <= 100 + 1e-6 for value in (*values, *ticks))
    assert place(ticks[0]) < place(ticks[-1])


def test_a_line_goes_through_its_points():
    drawn = charts.lines("one", "a < b", Axis("x", "rows"), Axis("y", "s"), {"ours": [(0, 0), (10, 5)], "other": [(0, 5)]})
    seen = Seen(drawn)
    first, second = seen.all("polyline")
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in (first["points"] or "").split())
    assert (x0, x1) == (charts.LEFT, charts.WIDTH - charts.RIGHT)
    assert y0 > y1  # up is more
    assert (second["points"] or "").split() == [f"{x0:.1f},{y1:.1f}"]
    assert {"x (rows)", "y (s)", "a < b", "ours", "other"} <= {text for _, text in seen.text}


# ---- compare --------------------------------------------------------------------------------------------------------


def changed(path: Path, out: Path, change) -> Path:
    told = json.loads(path.read_text())
    change(told)
    out.write_text(json.dumps(told))
    return out


def test_the_largest_change_is_first(runs, tmp_path, capsys):
    def slower(told):
        told["results"][0]["seconds"] *= 3
        told["results"][1]["fraction"] *= 5

    other = changed(runs["kernels"], tmp_path / "b.json", slower)
    assert compare.report(runs["kernels"], other, 2, tmp_path / "ratios.json") == 0
    shown = capsys.readouterr().out.splitlines()
    first, second = shown[3:5]
    names = [one["key"] for one in json.loads(runs["kernels"].read_text())["results"][:2]]
    assert first.split("  ")[1] == f"{names[1]}, fraction"
    assert first.endswith("5.000  better")
    assert second.strip().startswith(f"{names[0]}, seconds")
    assert second.endswith("3.000   worse")
    ratios = json.loads((tmp_path / "ratios.json").read_text())["ratios"]
    assert list(ratios.values())[:3] == pytest.approx([5, 3, 1])
    assert len(ratios) > 5


def test_runs_of_two_commands_are_not_compared(runs, tmp_path):
    with pytest.raises(SystemExit, match="give two runs of one command"):
        compare.report(runs["exact"], runs["kernels"], 0, None)
    (tmp_path / "no.json").write_text('{"some": 1}')
    with pytest.raises(SystemExit, match="no command and stamp"):
        compare.report(tmp_path / "no.json", runs["kernels"], 0, None)
    with pytest.raises(SystemExit, match="FileNotFoundError"):
        report.write([tmp_path / "nowhere.json"], tmp_path / "out.html")


def test_every_measurement_has_a_name_of_its_own(runs):
    for path in runs.values():
        told = json.loads(path.read_text())
        found = measurements(told)
        assert found
        assert all(one.unit for one in found.values())
    told = json.loads(runs["kernels"].read_text())
    assert len(measurements(told)) == 3 * len(told["results"])  # seconds, the first call, the fraction
    curve = json.loads(runs["ann"].read_text())["results"][0]["runs"][0]["curves"]["queries"]["ours"]
    speeds = [name for name in measurements(json.loads(runs["ann"].read_text())) if "curves" in name and name.endswith("qps")]
    assert len(speeds) == len(curve)
