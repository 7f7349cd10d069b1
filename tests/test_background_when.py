"""Builds in the background: when they begin, what gives them up, what becomes of their thread."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aio_sets import LEAST
from store_sets import rows

import omendb
from omendb import DB


def until(condition: Callable[[], bool]) -> None:
    """Wait for it, a minute at most."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.002)


def has_graph(db: DB) -> bool:
    return db.stats().graph is not None


def test_it_begins_when_writers_are_quiet(rng, tmp_path):
    told: list[str] = []
    options: dict[str, Any] = {"background": True, "build_after": 800, "build_threshold": LEAST}
    with DB.open(tmp_path / "db", quiet_seconds=0.0, progress=lambda phase, *_: told.append(phase), **options) as db:
        db.add_batch(rows(rng, 799))
        assert db._builder is not None
        assert db._builder._thread is None
        db.add_batch(rows(rng, 1))
        until(partial(has_graph, db))
        assert "prune" in told
        until(lambda: db._builder._thread is None)  # type: ignore[union-attr]
    with DB.open(tmp_path / "db") as db:
        assert has_graph(db)


def test_many_rows_do_not_wait_for_quiet(rng, tmp_path):
    options: dict[str, Any] = {"background": True, "build_after": 90, "quiet_seconds": 3_600.0, "build_threshold": LEAST}
    with DB.open(tmp_path / "db", **options) as db:
        db.add_batch(rows(rng, 899))
        assert db._builder is not None
        waiting = db._builder._thread
        assert waiting is not None
        time.sleep(0.05)
        assert waiting.is_alive()
        assert not has_graph(db)
        db.add_batch(rows(rng, 1))
        until(partial(has_graph, db))


def test_rows_that_wait_already_count(rng, tmp_path):
    with DB.open(tmp_path / "db") as db:
        db.add_batch(rows(rng, 900))
    with DB.open(tmp_path / "db", background=True, build_after=900, quiet_seconds=0.0, build_threshold=LEAST) as db:
        until(partial(has_graph, db))


def test_close_while_it_waits_or_builds(rng, tmp_path):
    options: dict[str, Any] = {"background": True, "build_after": 800, "build_threshold": LEAST}
    with DB.open(tmp_path / "db", quiet_seconds=3_600.0, **options) as db:
        db.add_batch(rows(rng, 900))
        thread = db._builder._thread  # type: ignore[union-attr]
    assert thread is not None
    assert not thread.is_alive()
    inside, go_on = threading.Event(), threading.Event()

    def progress(phase: str, *_: int) -> None:
        if phase == "pick":
            inside.set()
            assert go_on.wait(60)

    db = DB.open(tmp_path / "db", quiet_seconds=0.0, progress=progress, **options)
    assert inside.wait(60)
    thread = db._builder._thread  # type: ignore[union-attr]
    closing = threading.Thread(target=db.close)
    closing.start()
    until(lambda: db._builder._stopping)  # type: ignore[union-attr]
    go_on.set()
    closing.join(60)
    assert not closing.is_alive()
    assert not thread.is_alive()  # type: ignore[union-attr]
    with DB.open(tmp_path / "db") as again:
        assert not has_graph(again)
        assert len(again) == 900
        assert again.verify(full=True).ok


def test_a_callback_may_close(rng, tmp_path):
    closed = threading.Event()
    holder: list[DB] = []

    def progress(phase: str, *_: int) -> None:
        if phase == "pick" and not closed.is_set():
            holder[0].close()
            closed.set()

    options: dict[str, Any] = {"background": True, "build_after": 1, "quiet_seconds": 0.2, "build_threshold": LEAST}
    holder.append(DB.open(tmp_path / "db", progress=progress, **options))
    holder[0].add_batch(rows(rng, 1_500))
    assert closed.wait(60)
    DB.open(tmp_path / "db").close()  # nothing is left locked


def test_what_fails_is_tried_again_with_more_rows(rng, tmp_path, caplog):
    tries: list[int] = []

    def progress(phase: str, *_: int) -> None:
        if phase == "twins":
            tries.append(1)
            if len(tries) == 1:
                raise ZeroDivisionError("of the callback")

    options: dict[str, Any] = {"background": True, "build_after": 800, "quiet_seconds": 0.0, "build_threshold": LEAST}
    with caplog.at_level(logging.WARNING, "omendb"), DB.open(tmp_path / "db", progress=progress, **options) as db:
        db.add_batch(rows(rng, 800))
        until(lambda: bool(tries) and db._builder._thread is None)  # type: ignore[union-attr]
        assert "of the callback" in caplog.text
        db.add_batch(rows(rng, 799))
        assert db._builder._thread is None  # type: ignore[union-attr]
        assert not has_graph(db)
        db.add_batch(rows(rng, 1))
        until(partial(has_graph, db))


def test_readers_and_bad_settings(tmp_path):
    for wrong in ({"build_after": 0}, {"quiet_seconds": -1}, {"quiet_seconds": float("nan")}, {"quiet_seconds": True}):
        with pytest.raises(omendb.InvalidParameter, match=next(iter(wrong))):
            DB.open(tmp_path / "db", background=True, **wrong)
    assert not (tmp_path / "db").exists()
    with DB.open(tmp_path / "db", dim=2) as db:
        db.add_batch(np.ones((30, 2)))
    with DB.open(tmp_path / "db", "r", background=True, build_after=1, quiet_seconds=0, build_threshold=1) as reader:
        assert reader._builder is not None
        assert reader._builder._thread is None


@pytest.mark.parametrize("quiet", [0.0, 3_600.0])
def test_the_program_ends_though_nobody_closes(tmp_path, quiet):
    code = f"""
import numpy as np, omendb
db = omendb.DB.open({str(tmp_path / "db")!r}, background=True, build_after=1_000, quiet_seconds={quiet}, build_threshold=1_000)
db.add_batch(np.random.default_rng(0).standard_normal((3_000, 8)))
assert db._builder._thread is not None
"""
    path = os.pathsep.join([str(Path(omendb.__file__).parent.parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], timeout=120, capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    with DB.open(tmp_path / "db") as db:
        assert len(db) == 3_000
        assert db.verify(full=True).ok
