"""What is done to a folder while it is recorded, and how what a crash left of it is read: kinds of storage.

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

from .mutants import MUTANTS

PROBABLE = [0.35, 0.2, 0.2, 0.05, 0.05, 0.05, 0.1]  # of the steps of Folder.random
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


class Folder:
    """`DB.open`.

    Steps: limits JOURNAL CHECKPOINT (bytes) and mutant NAME, before open; open DURABILITY, add SEED FROM ROWS,
    upsert SEED FROM ROWS, delete FROM ROWS, build_index, compact, secure (compact, secure=True), close.
    """

    NAME = "db"
    DIM = 8
    GRAPH = 60  # rows from which build_index makes a graph

    def run(self, folder: Path, steps: list[Step], acknowledge: Callable[[], None]) -> None:
        db: Any = None
        for step in steps:
            db = self.step(folder, db, step)
            acknowledge()

    def step(self, folder: Path, db: Any, step: Step) -> Any:
        """One step; gives the handle to go on with."""
        word, *rest = step
        if word == "open":
            return self.open(folder, durability=rest[0])
        if word == "limits":
            _set_limits(*rest)
        elif word == "mutant":
            MUTANTS[rest[0]]()
        elif word in ("add", "upsert"):
            vectors, ids, metadata = self._batch(*rest)
            (db.add_batch if word == "add" else db.upsert)(vectors, ids=ids, metadata=metadata)
        elif word == "delete":
            db.delete(np.arange(rest[0], rest[0] + rest[1]))
        elif word == "secure":
            db.compact(secure=True)
        else:
            getattr(db, word)()
        return db

    def open(self, folder: Path, mode: str = "rw", durability: str = "full") -> Any:
        import omendb

        dim = None if mode == "r" else self.DIM
        return omendb.DB.open(folder / self.NAME, mode, dim=dim, durability=durability, build_threshold=self.GRAPH, threads=1)

    def _batch(self, seed: int, first: int, n: int) -> tuple[np.ndarray, np.ndarray, list[Any]]:
        metadata = [{"seed": seed, "row": row} if row % 3 else None for row in range(n)]
        return some_rows(seed, n, self.DIM), np.arange(first, first + n), metadata

    def advance(self, rows: dict[int, Row], step: Step) -> dict[int, Row]:
        """The rows after a step, in their order."""
        word, *rest = step
        if word in ("add", "upsert"):
            vectors, ids, metadata = self._batch(*rest)
            rows = {key: row for key, row in rows.items() if not rest[1] <= key < rest[1] + rest[2]}
            rows |= {int(key): (v.tobytes(), json.dumps(m)) for key, v, m in zip(ids, vectors, metadata, strict=True)}
        elif word == "delete":
            rows = {key: row for key, row in rows.items() if not rest[0] <= key < rest[0] + rest[1]}
        return rows

    def expected(self, steps: list[Step]) -> list[str]:
        rows: dict[int, Row] = {}
        found = [told([])]
        for step in steps:
            rows = self.advance(rows, step)
            found.append(told(list(rows.items())))
        return found

    def content(self, db: Any) -> str:
        """All rows in their order, as they lie there; some are asked for by id, and searched."""
        keys, now = db.ids.tolist(), db._now
        rows = now.live_rows
        lines = now.points.vectors[rows].native() if keys else []
        metadata = [now.metadata_at(row) for row in rows.tolist()]
        step = max(1, len(keys) // 4)
        for key, line, fact in list(zip(keys, lines, metadata, strict=True))[::step]:
            record = db.get(key)
            assert (record.id, record.vector.tobytes(), record.metadata) == (key, line.tobytes(), fact)
        if keys:
            assert db.search(lines[::step], 1, exact=True).ids.tolist() == [[key] for key in keys[::step]]
        return told([(key, (line.tobytes(), json.dumps(fact))) for key, line, fact in zip(keys, lines, metadata, strict=True)])

    def random(self, rng: np.random.Generator, rows: dict[int, Row], count: int, durability: str = "full") -> list[Step]:
        """Steps for a folder that holds `rows` and is not open; so many between the first open and the last close."""
        steps: list[Step] = [["open", durability]]
        for word in rng.choice(["add", "upsert", "delete", "build_index", "compact", "secure", "reopen"], count, p=PROBABLE):
            step, start = [str(word)], int(rng.choice([*rows, 0]))
            if word in ("add", "upsert"):
                first = start if word == "upsert" else max(rows, default=-1) + 1
                step += [int(rng.integers(1 << 30)), first, int(rng.integers(1, 40))]
            elif word == "delete":
                length = next(n for n in range(10) if n == 9 or start + n not in rows)
                step += [start, length]
            if word == "reopen":
                steps += [["close"], ["open", durability]]
            elif word != "delete" or length:
                steps.append(step)
                rows = self.advance(rows, step)
        return [*steps, ["close"]]

    def read(self, folder: Path, *, go_on: bool) -> str:
        first = self._as_reader(folder) if go_on else None
        with self.open(folder) as db:
            report = db.verify(full=True)
            assert report.ok, report
            content = self.content(db)
            assert first in (None, content), "a reader saw something else than the writer after it"
            if go_on:
                db.add_batch(*self._batch(7, 1_000_000, 2)[:1], ids=[1_000_000, 1_000_001])
                after = self.content(db)
        if go_on:
            with self.open(folder, "r") as db:
                assert self.content(db) == after
        return content

    def _as_reader(self, folder: Path) -> str | None:
        """What the first to come finds when it only reads; None where there is nothing yet."""
        import omendb

        try:
            with self.open(folder, "r") as db:
                return self.content(db)
        except (omendb.NotFound, omendb.NotAnIndex):
            return None


def _set_limits(journal: int, checkpoint: int) -> None:
    """Small ones, so that snapshots and checkpoints come often."""
    import omendb.journal
    import omendb.store

    omendb.store.JOURNAL, omendb.store.SHARE = journal, 1 << 30
    omendb.journal.CHECKPOINT = checkpoint


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


RUNS: dict[str, Workload] = {"sqlite": Sqlite(), "save": Save(), "folder": Folder(), "script": Script()}


def main() -> None:
    from .record import Recorder

    task = json.loads(sys.argv[1])
    recorder, folder = Recorder(), Path(task["folder"])
    recorder.swallow(task["swallow"])
    recorder.watch(folder, Path(task["log"]))
    RUNS[task["workload"]].run(folder, task["steps"], recorder.mark)


if __name__ == "__main__":
    main()
