"""What compiling costs: all kernels of build, search and insert, cold and from Numba's cache, in fresh processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .record import save

PROCESS = """
import time
import numpy as np
import omendb

def seconds(task):
    begin = time.perf_counter()
    task()
    return time.perf_counter() - begin

rows = np.random.default_rng(0).standard_normal((6000, 32)).astype(np.float32)
db = omendb.DB(build_threshold=1000)

def search():
    for exact in (False, True):
        db.search(rows[:9], exact=exact)
        db.search(rows[0], exact=exact)

tasks = (lambda: db.build(rows), search, lambda: db.add_batch(rows[:600]), lambda: db.delete(range(1000)))
first = [seconds(task) for task in tasks]
db = omendb.DB(build_threshold=1000)
again = [seconds(task) for task in tasks]
print(*(a - b for a, b in zip(first, again)))
"""


def report(out: Path | None) -> int:
    """Print seconds for build, search, insert and delete beyond what the same calls take the second time."""
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as cache:
        for state in ("cold", "from the cache"):
            environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
            done = subprocess.run([sys.executable, "-c", PROCESS], env=environment, capture_output=True, text=True, check=True)
            build, search, insert, delete = (float(word) for word in done.stdout.split())
            total = build + search + insert + delete
            phases = {"build": build, "search": search, "insert": insert, "delete": delete, "total": total}
            measured[state] = {"seconds": phases}
            print(
                f"kernels {state}: {total:.2f} s in all (build {build:.2f}, search {search:.2f}, insert {insert:.2f}, "
                f"delete {delete:.2f}), float32 rows under l2",
                flush=True,
            )
    save(out, "compiling", measured)
    return 0
