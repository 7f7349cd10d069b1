"""Histories for durable folders, and what it means that two databases are the same."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omendb import DB

DIM = 6
RAM = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # for thousands of folders: there a sync costs nothing
LONG = 1_500  # rows behind which rows are coded


@pytest.fixture
def ram() -> Iterator[Path]:
    """An empty folder, in memory where the system has such a thing."""
    with tempfile.TemporaryDirectory(dir=RAM) as home:
        yield Path(home)


def rows(rng: np.random.Generator, n: int, dim: int = DIM) -> np.ndarray:
    return rng.integers(-9, 10, (n, dim)).astype(np.float32) + np.eye(1, dim, dtype=np.float32)


def names(first: int, n: int) -> list[str]:
    return [f"näme {i}" for i in range(first, first + n)]


def bytes_of(db: DB, home: Path) -> bytes:
    """All that there is to know of the rows: what `save` writes, codes and graph included."""
    path = home / "compared.omen"
    db.save(path, overwrite=True)
    return path.read_bytes()


def assert_same(one: DB, other: DB, home: Path) -> None:
    """Equal rows, and equal answers before anything is compacted."""
    assert (len(one), one.dim, one.metric, one.dtype) == (len(other), other.dim, other.metric, other.dtype)
    assert one.ids.tolist() == other.ids.tolist()
    if one.dim:
        queries = np.random.default_rng(len(one)).integers(-9, 9, (4, one.dim)).astype(np.float32) + 0.5
        found, again = (db.search(queries, 20, with_metadata=True) for db in (one, other))
        assert found.ids.tolist() == again.ids.tolist()
        assert found.distances.tobytes() == again.distances.tobytes()
        assert (found.metadata, found.method) == (again.metadata, again.method)
    assert bytes_of(one, home) == bytes_of(other, home)


def write(db: DB, rng: np.random.Generator, number: int, kind: str) -> None:
    """One write of any kind; `number` makes its new ids."""
    n = int(rng.integers(1, 60))
    given: dict[str, Any] = {"str": names(1000 * number, n), "int": np.arange(1000 * number, 1000 * number + n)}
    ids, metadata = given.get(kind), [{"n": number, "i": i} if i % 3 else None for i in range(n)]
    verb = rng.choice(["add", "add", "upsert", "delete", "mask"]) if len(db) else "add"
    if verb == "delete":
        db.delete(rng.choice(db.ids, min(len(db), n), replace=False))
    elif verb == "mask":
        db.delete(mask=rng.random(len(db)) < 0.2)
    elif verb == "upsert" and kind != "row":
        old = rng.choice(db.ids, min(len(db), n // 2), replace=False).tolist()
        db.upsert(rows(rng, len(old) + n), ids=[*old, *list(ids)], metadata=[*[None] * len(old), *metadata])
    else:
        db.add_batch(rows(rng, n), ids=ids, metadata=metadata if rng.random() < 0.7 else None)


def sample(folder: Path, *, ids: str = "str", metric: str = "l2", writes: int = 7) -> DB:
    """An open folder after so many writes, always the same: a snapshot after the third, the later ones behind it."""
    rng = np.random.default_rng(3)
    db = DB.open(folder, "create", metric=metric, threads=1)
    for number in range(1, writes + 1):
        write(db, rng, number, ids)
        if number == 3:
            db.compact()
    return db


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def put(folder: Path, content: dict[str, bytes]) -> None:
    """The folder with these files and no others."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in content.items():
        (folder / name).write_bytes(data)


def make_golden(home: Path) -> None:
    """What lies in data/folder-1: made once, by the first omendb that wrote folders of version 1; kept for ever."""
    rng = np.random.default_rng(1)
    x = rng.integers(-50, 50, (160, 8)).astype(np.float32) + np.eye(1, 8, dtype=np.float32)
    with DB.open(home, metric="cosine", build_threshold=60, threads=1) as db:
        db.build(x[:80], ids=names(0, 80), metadata=[{"i": i} if i % 2 else None for i in range(80)])
        db.add_batch(x[80:120], ids=names(80, 40))
        db.delete(names(0, 10))
        db.upsert(x[120:], ids=names(20, 40), metadata=[{"again": i} for i in range(40)])
        found = db.search(x[::20] + 0.5, 10, with_metadata=True)
        facts = [len(db), db.metric, db.stats().index]
    queries = (x[::20] + 0.5).tolist()
    answers = {"ids": found.ids.tolist(), "distances": found.distances.tolist(), "metadata": found.metadata}
    (home / "omen.lock").unlink()
    (home / "expected.json").write_text(json.dumps({"facts": facts, "queries": queries, **answers}))
