"""The README's tables come from runs in the repository, and its pictures from the same."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from bench_runs import ROOT, bench, make_set, measured

from bench import ann, pictures, readme

PAGE = ROOT / "README.md"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Toy runs of the commands that have a table, but those that take long."""
    home = tmp_path_factory.mktemp("runs")
    make_set(home / "data" / "tiny", np.random.default_rng())
    options = {"sets": "", "peers": "", "threads": "1,2", "rounds": 1, "builds": 1, "masks": "10", "resume": False}
    assert ann.report(home / "data", **options, out=home / "ann.json", unset={}) == 0
    measured(home / "exact.json", "exact", "--data", home / "data", "--oracle", 2, "--rounds", 1)
    measured(home / "databases.json", "databases", "--rows", 300, "--dim", 8)
    (home / "compiling.json").write_bytes((ROOT / "docs" / "runs" / "compiling.json").read_bytes())  # a toy takes as long
    measured(home / "start.json", "start", "--data", home / "data", "--rounds", 1)
    return home


def page(home: Path, name: str, file: str) -> Path:
    path = home / f"{name}.md"
    path.write_text(f"before\n\n<!-- bench {name}: {file} -->\nstale\n<!-- /bench -->\n\nafter | {{}}\n")
    return path


@pytest.mark.parametrize(
    ("name", "file"),
    [*((name, "ann") for name in ("builds", "speeds", "masks"))]
    + [(name, name) for name in ("exact", "databases", "start", "compiling")],
)
def test_a_table_is_made_of_its_run(runs, name, file):
    path, told = page(runs, name, f"{file}.json"), json.loads((runs / f"{file}.json").read_text())
    assert readme.write(path, check=True) == 1
    assert "stale" in path.read_text()
    assert readme.write(path, check=False) == 0
    assert readme.write(path, check=True) == 0
    text = path.read_text()
    assert text.startswith("before\n\n<!--")
    assert text.endswith("-->\n\nafter | {}\n")
    assert "stale" not in text
    for fact in (told["stamp"]["commit"], told["stamp"]["date"], told["stamp"]["machine"]["cpu"], f"{file}.json"):
        assert fact in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) >= 3
    assert len({line.count("|") for line in lines}) == 1


def test_figures_are_those_of_the_run(runs):
    told = json.loads((runs / "ann.json").read_text())
    run = told["results"][0]["runs"][0]
    run["build"]["ours"]["seconds"] = 2.0
    run["build"]["slow"] = {"seconds": 21.0, "peak_ratio": 3.14}
    assert readme.builds(told)[2].startswith("| 3,000 x 32, uint8, l2 | 2.00 s | 10.5x | ")
    assert " | 3.1 | " in readme.builds(told)[2]
    (runs / "changed.json").write_text(json.dumps(told))
    path = page(runs, "builds", "changed.json")
    assert readme.write(path, check=False) == 0
    path.write_text(path.read_text().replace("10.5x", "11.5x"))  # a figure that somebody typed
    assert readme.write(path, check=True) == 1


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(12.34, "12.3 s"), (1.0, "1.00 s"), (0.0931, "93.1 ms"), (0.2, "200 ms"), (4e-5, "40.0 us"), (5e-7, "0.50 us")],
)
def test_durations(seconds, words):
    assert readme.duration(seconds) == words


def test_the_readme_is_as_its_runs_say():
    text = PAGE.read_text(encoding="utf-8")
    blocks = [found.group(0) for found in readme.BLOCK.finditer(text)]
    assert len(blocks) >= 5
    assert text.count("<!-- bench ") == len(blocks)
    assert readme.filled(text, ROOT) == text
    for block in blocks:
        assert re.search(r"bench \w+, [0-9a-f]{12}, 20\d\d-\d\d-\d\dT[\d:]+Z, .+, \d+ cores</sub>", block), block


def test_unknown_tables_and_files_are_named(runs):
    with pytest.raises(SystemExit, match="unknown table 'none': there are builds"):
        readme.write(page(runs, "none", "ann.json"), check=False)
    with pytest.raises(SystemExit, match="FileNotFoundError"):
        readme.write(page(runs, "masks", "nowhere.json"), check=False)
    done = bench("readme", page(runs, "speeds", "ann.json"), "--check")
    assert done.returncode == 1
    assert "1 tables, differs from its runs" in done.stdout


def test_pictures(runs, tmp_path):
    with pytest.raises(SystemExit, match="give a run of `ann`"):
        pictures.write(runs / "exact.json", tmp_path)
    if pictures.browser() is None:
        pytest.skip("no Chromium here")
    assert pictures.write(runs / "ann.json", tmp_path / "new") == 0
    light, dark = ((tmp_path / "new" / f"ann-{theme}.png").read_bytes() for theme in ("light", "dark"))
    assert light != dark
    for png in (light, dark):
        assert png.startswith(b"\x89PNG")
        width, height = struct.unpack(">II", png[16:24])
        assert width == pictures.WIDTH * pictures.SHARPNESS
        assert 400 < height < 4000
