"""What is done to a folder while it is recorded, and how what a crash left of it is read: three kinds of storage.

A workload runs steps (JSON lists: a word and its arguments) and acknowledges each; `expected` says what must be readable
after each number of steps; `read` opens a folder as its user would after a crash and says what is there, as the same kind
of text. `read` raises when the folder cannot be opened, is damaged, or cannot be gone on with.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Step = list[Any]
Row = tuple[bytes, str]  # vector and metadata


class Workload(Protocol):
    def run(self, folder: Path, steps: list[Step], acknowledge: Callable[[], None]) -> None: ...

    def expected(self, steps: list[Step]) -> list[str]: ...

    def read(self, folder: Path, *, go_on: bool) -> str: ...


def told(rows: Any) -> str:
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


class Sqlite:
    """A table of blobs in WAL mode: no code of ours.

    Steps: open SYNCHRONOUS, put FROM TO SEED, cut FROM TO, checkpoint, close.
    """

    NAME = "omen.sqlite"

    def run(self, folder: Path, steps: list[Step], acknowledge: Callable[[], None]) -> None:
        db: Any = None
        for word, *rest in steps:
            if word == "open":
                db = self._open(folder, rest[0])
            elif word == "put":
                db.execute("BEGIN IMMEDIATE")
                db.executemany("INSERT OR REPLACE INTO t VALUES (?, ?)", self._rows(*rest))
                db.execute("COMMIT")
            elif word == "cut":
                db.execute("DELETE FROM t WHERE k BETWEEN ? AND ?", rest)
            elif word == "checkpoint":
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            else:
                db.close()
            acknowledge()

    def _open(self, folder: Path, synchronous: str) -> sqlite3.Connection:
        db = sqlite3.connect(folder / self.NAME, isolation_level=None)
        db.execute(f"PRAGMA synchronous = {synchronous}")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE IF NOT EXISTS t (k INTEGER PRIMARY KEY, v BLOB)")
        return db

    @staticmethod
    def _rows(low: int, high: int, seed: int) -> list[tuple[int, bytes]]:
        return [(k, np.random.default_rng([seed, k]).bytes(700)) for k in range(low, high)]

    def expected(self, steps: list[Step]) -> list[str]:
        rows: dict[int, bytes] = {}
        found = [told([])]
        for word, *rest in steps:
            if word == "put":
                rows.update(self._rows(*rest))
            elif word == "cut":
                rows = {k: v for k, v in rows.items() if not rest[0] <= k <= rest[1]}
            found.append(told(sorted(rows.items())))
        return found

    def read(self, folder: Path, *, go_on: bool) -> str:
        with contextlib.closing(self._open(folder, "FULL")) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            rows = db.execute("SELECT k, v FROM t ORDER BY k").fetchall()
            if go_on:
                db.execute("INSERT INTO t VALUES (-1, x'00')")
        return told(rows)


def some_rows(seed: int, n: int, dim: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32)


class Save:
    """`DB.save` over and over to one path. Steps: save SEED ROWS OVERWRITE."""

    NAME = "index.omen"

    def run(self, folder: Path, steps: list[Step], acknowledge: Callable[[], None]) -> None:
        import omendb

        for _, seed, n, overwrite in steps:
            omendb.DB.build_from_numpy(some_rows(seed, n)).save(folder / self.NAME, overwrite=overwrite)
            acknowledge()

    def expected(self, steps: list[Step]) -> list[str]:
        return ["absent", *(told(some_rows(seed, n).tobytes()) for _, seed, n, _ in steps)]

    def read(self, folder: Path, *, go_on: bool) -> str:
        import omendb

        try:
            with omendb.DB.load(folder / self.NAME) as db:
                vectors = b"".join(db.get(key).vector.tobytes() for key in db.ids.tolist())
        except omendb.NotFound:
            return "absent"
        finally:
            if go_on:
                omendb.DB.build_from_numpy(some_rows(1, 3)).save(folder / self.NAME, overwrite=True)
        return told(vectors)


class Script:
    """Any Python: each step is source that knows `folder`. To test the recorder itself."""

    def run(self, folder: Path, steps: list[Step], acknowledge: Callable[[], None]) -> None:
        for (source,) in steps:
            exec(source, {"folder": folder})
            acknowledge()

    def expected(self, steps: list[Step]) -> list[str]:
        raise NotImplementedError("a script promises nothing")

    def read(self, folder: Path, *, go_on: bool) -> str:
        raise NotImplementedError("a script promises nothing")


RUNS: dict[str, Workload] = {"sqlite": Sqlite(), "save": Save(), "script": Script()}


def main() -> None:
    from .record import Recorder

    task = json.loads(sys.argv[1])
    recorder, folder = Recorder(), Path(task["folder"])
    recorder.swallow(task["swallow"])
    recorder.watch(folder, Path(task["log"]))
    RUNS[task["workload"]].run(folder, task["steps"], recorder.mark)


if __name__ == "__main__":
    main()
