"""kill -9 among a thousand inserts that are awaited at once: what was acknowledged is there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from crash import record as recording
from store_sets import ram  # noqa: F401  the fixture

from omendb import DB

pytestmark = pytest.mark.skipif(sys.platform == "win32" or bool(recording.unavailable()), reason="kill -9 on Linux")

ROOT = Path(__file__).parent.parent
ROWS, DIM = 1_000, 8
CHILD = """
import asyncio, os, sys
import numpy as np
from omendb import AsyncDB

folder, seed, queue_rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rows = np.random.default_rng(seed).standard_normal((1_000, 8), dtype=np.float32)

async def insert(db, i):
    assert await db.insert(rows[i], ids=f"{seed} {i}", metadata={"i": i}) == f"{seed} {i}"
    os.write(1, b"%d\\n" % i)

async def main():
    options = {"build_threshold": 300, "build_after": 300, "quiet_seconds": 0.01}
    async with await AsyncDB.open(folder, queue_rows=queue_rows, **options) as db:
        await asyncio.gather(*(insert(db, i) for i in range(1_000)))
        await asyncio.sleep(60)  # the build in the background may be killed as well

asyncio.run(main())
"""


def killed(folder: Path, seed: int, queue_rows: int, after: int) -> set[int]:
    """The inserts that were acknowledged by a child, which is killed when it has told of `after`."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    command = [sys.executable, "-c", CHILD, str(folder), str(seed), str(queue_rows)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}) as child:
        assert child.stdout is not None
        told = [child.stdout.readline() for _ in range(after)]
        child.send_signal(signal.SIGKILL)
        told += child.stdout.readlines()
        assert child.wait() == -signal.SIGKILL
    return {int(line) for line in told if line.endswith(b"\n")}


def test_nothing_acknowledged_is_lost(rng, ram, request, capsys):  # noqa: F811
    rounds = 200 if request.config.option.long else 12
    surely: set[str] = set()
    acknowledged: list[int] = []
    rows_of: dict[int, np.ndarray] = {}
    for number in range(rounds):
        seed, after = int(rng.integers(2**31)), int(rng.integers(0, ROWS + 1)) if number % 4 else ROWS
        told = killed(ram / "db", seed, int(rng.choice([1, 7, 60, 10_000])), after)
        assert len(told) >= after
        acknowledged.append(len(told))
        surely |= {f"{seed} {i}" for i in told}
        rows_of[seed] = np.random.default_rng(seed).standard_normal((ROWS, DIM), dtype=np.float32)
        if not (ram / "db").exists():
            continue
        with DB.open(ram / "db") as db:
            assert db.verify(full=True).ok
            there = set(db.ids.tolist())
            assert surely <= there
            for name in rng.permutation(sorted(there))[:300].tolist():
                source, i = map(int, name.split())
                record = db.get(name)
                assert record.vector.tolist() == rows_of[source][i].tolist()
                assert record.metadata == {"i": i}
    with capsys.disabled():
        print(f"\nkill -9 among {ROWS} awaited inserts: {rounds} kills, {sum(acknowledged)} inserts acknowledged")
    assert any(0 < count < ROWS for count in acknowledged)
