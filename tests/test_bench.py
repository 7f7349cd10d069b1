"""`python -m bench ann` as a user runs it: on a tiny set, alone; and how it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent


def bench(*arguments: Any) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "kernels")))}
    command = [sys.executable, "-m", "bench", *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture
def folder(tmp_path, rng):
    """One set of 3,000 x 32 uint8 rows in loose clusters, and 60 queries."""
    centres = rng.integers(40, 216, (30, 32))
    rows = (centres[rng.integers(0, 30, 3060)] + rng.integers(-40, 41, (3060, 32))).astype(np.uint8)
    place = tmp_path / "data" / "tiny"
    place.mkdir(parents=True)
    np.save(place / "base.npy", rows[60:])
    np.save(place / "queries.npy", rows[:60])
    (place / "info.json").write_text('{"metric": "l2"}')
    return tmp_path / "data"


def ann(folder, out, threads):
    options = ("--peers", "", "--threads", threads, "--rounds", 1, "--builds", 1, "--out", out)
    done = bench("ann", "--data", folder, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())


def test_ann_measures_ours_alone(folder, tmp_path):
    one, both = ann(folder, tmp_path / "one.json", "1"), ann(folder, tmp_path / "both.json", "1,2")
    assert one["config_hash"] == both["config_hash"]
    assert [run["threads"] for run in both["results"][0]["runs"]] == [1, 2]
    assert set(both["results"][0]["speedups"]) == {"1 -> 2"}
    (run,) = one["results"][0]["runs"]
    curve = run["curves"]["queries"]["ours"]
    assert all(0 <= point["recall"] <= 1 and point["qps"] > 0 for point in curve)
    assert curve[-1]["recall"] >= 0.95
    assert run["build"]["ours"]["nbytes"] > 3000 * 32
    assert sorted(run["single"]["ours"]["us"]) == run["single"]["ours"]["us"]


@pytest.mark.parametrize(
    "wrong", [("--peers", "hnswlib,unheard"), ("--sets", "unheard"), ("--threads", "0"), ("--threads", "1,x")]
)
def test_a_wrong_word_is_one_line(folder, wrong):
    done = bench("ann", "--data", folder, "--peers", "", *wrong)
    assert done.returncode != 0
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert wrong[1].split(",")[-1] in line
