"""Foreign files made by accidents and enemies: only OmenError comes of them, in bounded memory and time."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from exchange_sets import honest

import omendb
from omendb.exchange import read_faiss, source

ROOT = Path(__file__).parent.parent
FUZZ = """
import random, resource, sys, time
from pathlib import Path
import numpy as np
import omendb
from omendb import DB
from test_exchange_hostile import enemy, honest_files

path, seed, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
np.seterr(all="ignore")
files = honest_files()
for way, data in files:  # whatever is loaded on first use is loaded
    path.write_bytes(data)
    (DB.from_hnswlib(path, metric="l2") if way == "hnswlib" else DB.from_faiss(path)).search(np.ones(4))
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (256 << 20),) * 2)
refused, slowest = 0, 0.0
for i in range(count):
    random.seed(seed * 1_000_003 + i)
    way, data = random.choice(files)
    path.write_bytes(enemy(data))
    started = time.process_time()
    try:
        if way == "hnswlib":
            db = DB.from_hnswlib(path, metric=random.choice(["l2", "ip", "cosine"]), dim=random.choice([None, 4]))
        else:
            db = DB.from_faiss(path, metric=random.choice([None, "cosine"]))
        assert 1 <= len(db) <= 64 and len(db.search(np.ones(db.dim)).ids)
    except omendb.OmenError:
        refused += 1
    except BaseException:
        print("input", i, file=sys.stderr)
        raise
    slowest = max(slowest, time.process_time() - started)
print(refused)
print(f"slowest {slowest:.3f} s", file=sys.stderr)
"""
NUMBERS = [0, 1, 2, 3, 7, 8, 47, 48, 127, 255, 2**16, 2**20, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**61, 2**62]
NUMBERS += [2**63 - 1, 2**63, 2**64 - 1]


def honest_files() -> list[tuple[str, bytes]]:
    ids = [5 * i + 2 for i in range(12)]
    cases = [(way, names, metric) for way in ("hnswlib", "faiss") for names in (None, ids) for metric in ("l2", "ip")]
    made = [(way, honest(way, ids=names, metric=metric)) for way, names, metric in cases]
    flat = made[4][1]
    made.append(("faiss", flat[-(4 + 33 + 8 + 12 * 16) :]))  # IndexFlat alone
    return made


def enemy(data: bytes) -> bytes:
    """Random bytes and numbers, at random and where a field begins; cut off, longer, cut together anew."""
    changed = bytearray(data)
    for _ in range(random.choice([1, 1, 2, 5])):
        place = random.choice([random.randrange(len(changed) or 1), random.randrange(0, min(len(changed), 140) or 1) // 4 * 4])
        act = random.choice(["bit", "number", "number", "number", "cut", "more", "swap", "repeat"])
        if act == "bit" and changed:
            changed[place] ^= 1 << random.randrange(8)
        elif act == "number":
            form, value = random.choice("IQB"), random.choice([random.choice(NUMBERS), random.getrandbits(64)])
            packed = struct.pack("<" + form, value % 256 ** struct.calcsize("<" + form))
            changed[place : place + len(packed)] = packed
        elif act == "cut":
            del changed[place:]
        elif act == "more":
            changed += random.randbytes(random.choice([1, 4, 100]))
        elif act == "swap":
            changed[place : place + 16], changed[:16] = changed[:16], changed[place : place + 16]
        else:
            changed[place:place] = changed[: random.choice([4, 37, 96])]
    return bytes(changed)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS")
@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_enemies_get_typed_errors_in_bounded_memory(tmp_path, request, count):
    path = os.pathsep.join(map(str, (ROOT, ROOT / "kernels", ROOT / "tests")))
    threads = dict.fromkeys(("OMENDB_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
    command = [sys.executable, "-c", FUZZ, str(tmp_path / "a"), str(request.config.option.seed), str(count)]
    done = subprocess.run(command, env={**os.environ, **threads, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 0.3 * count < int(done.stdout) < count, "the fuzzer refuses everything, or nothing"
    print(done.stdout, done.stderr)


def test_the_fuzzer_sees_what_is_not_checked(tmp_path, monkeypatch, request):
    """Where sizes are taken on trust, it finds files that raise something else."""

    def trusting(self: source.Source, dtype: str, count: int, what: str) -> np.ndarray:
        kind = np.dtype(dtype)
        self.place += count * kind.itemsize
        return self.data[self.place - count * kind.itemsize : self.place].view(kind)

    monkeypatch.setattr(source.Source, "array", trusting)
    random.seed(request.config.option.seed)
    (_, data), path, seen = honest_files()[-1], tmp_path / "a", set()
    for _ in range(300):
        path.write_bytes(enemy(data))
        try:
            read_faiss(path)
        except Exception as error:  # noqa: BLE001
            seen.add(isinstance(error, omendb.OmenError))
    assert False in seen
