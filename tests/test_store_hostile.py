"""Folders made by enemies: random bytes, and lies under true hashes. Only OmenError may come of them, in bounded memory."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from store_sets import files, ram, sample

from omendb import journal, wal
from omendb.snapshot import Snapshot, encoded

__all__ = ["ram"]  # a fixture
ROOT = Path(__file__).parent.parent
LOG = "omen.sqlite-wal"
FUZZ = """
import random, resource, shutil, sys, warnings
from pathlib import Path
import numpy as np
from store_sets import put
import omendb
from omendb import DB
from test_store_hostile import enemy, honest_folders

home, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
np.seterr(all="ignore")
folders = honest_folders(home)
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (512 << 20),) * 2)
refused = 0
for i in range(count):
    random.seed(seed * 1_000_003 + i)
    put(home / "db", enemy(random.choice(folders)))
    try:
        with DB.open(home / "db", random.choice(["r", "rw"]), verify=random.random() < 0.5, threads=1) as db:
            db.search(np.ones(db.dim or 1), 5, with_metadata=True)
            db.verify(full=True)
            db.add_batch(np.ones((1, db.dim or 3)), ids={"str": ["new"], "int": [10**9]}.get(db.stats().ids))
            db.delete(db.ids[:1])
            db.compact()
    except omendb.OmenError:
        refused += 1
    except BaseException:
        print("input", i, file=sys.stderr)
        raise
    if i % 10 == 0:
        shutil.rmtree(home / "into", ignore_errors=True)
        try:
            DB.repair(home / "db", home / "into", threads=1)
        except omendb.OmenError:
            pass
print(refused)
"""


def honest_folders(home: Path) -> list[dict[str, bytes]]:
    """Of every kind of ids: closed, and as a kill leaves them, with a log."""
    made = []
    for ids, metric in (("str", "l2"), ("int", "cosine"), ("row", "ip")):
        with sample(home / "made", ids=ids, metric=metric):
            made.append(files(home / "made"))
        made.append(files(home / "made"))
        shutil.rmtree(home / "made")
    return made


def enemy(content: dict[str, bytes]) -> dict[str, bytes]:
    """A folder by someone who knows the format: random bytes in random places, or lies under true hashes."""
    content = dict(content)
    if random.random() < 0.4:
        for _ in range(random.choice([1, 2, 8])):
            name = random.choice([name for name, data in content.items() if data] or ["omen.lock"])
            data = bytearray(content[name])
            at = random.randrange(len(data) or 1)
            act = random.choice(["byte", "byte", "word", "cut", "swap", "empty"])
            if act == "byte" and data:
                data[at] = random.randrange(256)
            elif act == "word":
                data[at : at + 4] = random.choice([0, 2**31 - 1, 2**31, 2**32 - 1]).to_bytes(4, "big")
            elif act == "swap":
                data[at : at + 64], data[:64] = data[:64], data[at : at + 64]
            else:
                del data[at if act == "cut" else 0 :]
            content[name] = bytes(data)
        return content
    return lying_log(content) if LOG in content else lying(content)


def lying_log(content: dict[str, bytes]) -> dict[str, bytes]:
    """Bytes of the log replaced, most of them in headers, and all checksums made to fit."""
    log = bytearray(content[LOG])
    size = 24 + int.from_bytes(log[8:12], "big")
    frames = range(32, len(log), size)
    for _ in range(random.choice([1, 1, 4])):
        place = random.choice([random.randrange(24), random.choice(frames) + random.randrange(16), random.randrange(len(log))])
        log[place] = random.choice([0, 1, 2, 3, 16, 127, 128, 255])
    order, sums = wal._ORDERS[log[3] & 1], (0, 0)
    for start in (0, *frames):
        stored = start + 16 if start else 24
        part = log[start : start + 8] + log[start + 24 : start + size] if start else log[:stored]
        sums = wal._checksum(sums, np.frombuffer(part, order))
        log[stored : stored + 8] = b"".join(value.to_bytes(4, "big") for value in sums)
    return {**content, LOG: bytes(log)}


FACTS = [None, -1, 0, 1, 2**31, 2**62, 10**30, 1.5, "", [], {}, True]
FACTS += ["l2", "ip", "row", "str", "int", "delete", "add", "upsert", "int8", "bfloat16"]
PLACES = ["snapshot-000001.omen", "snapshot-000002.omen", "../x.omen", "/etc/passwd", "omen.sqlite", "", "\0"]
STATEMENTS = [
    "DROP TABLE journal",
    "DROP TABLE state",
    "DELETE FROM state",
    "DELETE FROM journal WHERE sequence % 2",
    "INSERT INTO state SELECT 2, version, snapshot, base, last, hash FROM state",
    "CREATE TRIGGER evil AFTER INSERT ON journal BEGIN DELETE FROM journal; END",
    "CREATE TABLE more (x)",
    "ALTER TABLE state ADD COLUMN y",
    "UPDATE state SET version = 2",
    "UPDATE state SET version = 'x'",
    "UPDATE state SET hash = NULL",
    "UPDATE journal SET content = zeroblob(17000000) WHERE sequence = 6",
    "UPDATE journal SET content = 'text'",
    "UPDATE journal SET rest = 'x'",
    "UPDATE journal SET sequence = sequence + 10 WHERE sequence > 4",
]


def lying(content: dict[str, bytes]) -> dict[str, bytes]:
    """A change, the state or the schema replaced, with hashes that fit."""
    home = Path("lies.sqlite")
    home.write_bytes(content["omen.sqlite"])
    with closing(sqlite3.connect(home, isolation_level=None)) as db:
        act = random.choice(["change", "change", "change", "state", "sql"])
        if act == "change":
            sequence, data = random.choice(db.execute("SELECT sequence, content FROM journal").fetchall())
            data, rest = lying_change(data), random.choice([0, 0, 0, 1, -1, 2**40])
            digest = journal._hash(sequence, rest, data)
            db.execute("UPDATE journal SET rest = ?, content = ?, hash = ? WHERE sequence = ?", (rest, data, digest, sequence))
        elif act == "state":
            base, last = (random.choice([0, 1, 2, 4, 7, 8, 2**62, 2**63 - 1]) for _ in range(2))
            state = journal.State(random.choice(PLACES), base, last)
            values = (state.snapshot, base, last, state.hash)
            db.execute("UPDATE state SET snapshot = ?, base = ?, last = ?, hash = ?", values)
        else:
            db.execute(random.choice(STATEMENTS))
    return {**content, "omen.sqlite": home.read_bytes()}


def lying_change(data: bytes) -> bytes:
    file = Snapshot.parse(data, Path("a change"))
    facts, arrays = dict(file.facts), {name: array.copy() for name, array in file.arrays.items()}
    if random.random() < 0.5:
        facts[random.choice([*facts, "new"])] = random.choice(FACTS)
        return bytes(encoded(facts, arrays))
    name = random.choice(list(arrays))
    array = arrays[name].reshape(-1).view(np.uint8)
    for _ in range(random.choice([1, 4]) if len(array) else 0):
        array[random.randrange(len(array))] = random.choice([0, 1, 127, 128, 255])
    if random.random() < 0.3:
        arrays[name] = random.choice([array, arrays[name][:1], arrays[name][:0], arrays[name].reshape(-1)])
    return bytes(encoded(facts, arrays))


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_hostile_folders(ram, count, pytestconfig):
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FUZZ, ram, str(pytestconfig.option.seed), str(count)],
        env={**os.environ, "PYTHONPATH": path},
        cwd=ram,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert count / 2 < int(done.stdout) < count
