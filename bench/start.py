"""What a process pays before its first answer: `import omendb`, then loading a saved file and one certified search."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import omendb

from .record import save
from .sets import load, shipped
from .timing import spread

PROCESS = """
import time
begin = time.perf_counter()
import omendb
imported = time.perf_counter()
with omendb.DB.load({path!r}) as db:
    loaded = time.perf_counter()
    db.search(db.get(0).vector, k=10)
    print(imported - begin, loaded - imported, time.perf_counter() - begin)
"""


def report(folder: Path | None, rounds: int, out: Path | None) -> int:
    """Print seconds of fresh processes, kernels cached: the medians and 20/80 quantiles of `rounds` processes a set."""
    measured = []
    with tempfile.TemporaryDirectory() as home:
        for data in load(folder) if folder else [shipped()]:
            path = Path(home) / f"{data.name}.omen"
            omendb.DB.build_from_numpy(data.base, metric=data.metric).save(path)
            code = PROCESS.format(path=str(path))
            seconds = np.array([_run(code) for _ in range(rounds + 1)][1:])  # the first one fills the kernel cache
            imported, loaded, first = (spread(column) for column in seconds.T)
            size = path.stat().st_size / 1e6
            middle = dict(zip(("import", "load", "first answer"), map(float, np.median(seconds, axis=0)), strict=True))
            measured.append({"set": data.name, "rows": len(data.base), "nbytes": path.stat().st_size, "seconds": middle})
            print(
                f"{data.name:18} {len(data.base):,} rows, {size:.0f} MB, {data.metric}: import {imported} s; load, every block "
                f"checked {loaded} s; from before the import to the first answer {first} s",
                flush=True,
            )
    save(out, "start", {"results": measured})
    return 0


def _run(code: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]
