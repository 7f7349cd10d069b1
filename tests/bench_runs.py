"""Running the bench as a user does, and its toy data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "bench"]
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "kernels")))}


def bench(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], env=ENV, capture_output=True, text=True, timeout=300)


def measured(out: Path, *arguments: Any) -> dict[str, Any]:
    """What a run that succeeds writes."""
    done = bench(*arguments, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())


def make_set(place: Path, rng: np.random.Generator, rows: int = 3000, dim: int = 32, clusters: int = 30) -> None:
    """rows x dim uint8 in loose clusters under l2, and 60 queries."""
    centres = rng.integers(40, 216, (clusters, dim))
    found = (centres[rng.integers(0, clusters, rows + 60)] + rng.integers(-40, 41, (rows + 60, dim))).astype(np.uint8)
    place.mkdir(parents=True)
    np.save(place / "base.npy", found[60:])
    np.save(place / "queries.npy", found[:60])
    (place / "info.json").write_text('{"metric": "l2"}')
