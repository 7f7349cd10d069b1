"""The durable folder among processes: one writer, many readers, kills, forks, folders that cannot be written to."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from store_sets import DIM, assert_same, files, rows, sample

import omendb
from omendb import DB

ROOT = Path(__file__).parent.parent
posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
NOBODY = 65534


def start(code: str, *arguments: Any) -> subprocess.Popen[str]:
    """A fresh interpreter; its stdin and stdout are pipes."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "kernels"), str(ROOT / "tests")])
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def in_fork(act: Callable[[], Any], *, powerless: bool = False) -> Any:
    """What `act` gives in a forked child, or the error it raises there; powerless: as a user who owns nothing."""
    receive, send = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads do not survive a fork: that is what is tested
        child = os.fork()
    if child == 0:
        try:
            if powerless and os.geteuid() == 0:
                os.setuid(NOBODY)
            try:
                result = ("gives", act())
            except Exception as error:  # noqa: BLE001  it is handed on
                result = ("raises", (type(error).__name__, str(error), traceback.format_exc()))
            os.write(send, pickle.dumps(result))
        finally:
            os._exit(0)
    os.close(send)
    with open(receive, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    return pickle.loads(data)


@pytest.fixture
def public(rng: np.random.Generator) -> Iterator[Path]:
    """A folder that other users may read, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as home:
        os.chmod(home, 0o755)
        yield Path(home) / "db"


HOLD = """
import sys
from omendb import DB
db = DB.open(sys.argv[1])
db.add_batch([[1, 2]])
print("open", flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


def ask(process: subprocess.Popen[str], line: str) -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def test_the_lock_names_its_holder_and_dies_with_it(tmp_path):
    with start(HOLD, tmp_path / "db") as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(omendb.Locked, match=f"process {holder.pid};"):
            DB.open(tmp_path / "db")
        holder.kill()
        holder.wait()
    with DB.open(tmp_path / "db") as db:
        assert len(db) == 1


def test_a_reader_follows_another_process(tmp_path):
    with start(HOLD, tmp_path / "db") as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        reader = DB.open(tmp_path / "db", "r")
        assert (len(reader), reader.refresh()) == (1, False)
        for line, count in (
            ("db.add_batch([[3, 4], [5, 6]])", 3),
            ("db.compact()", 3),
            ("db.delete([0])", 2),
            ("db.compact(secure=True)", 2),
            ("db.build_index()", 2),
            ("db.add_batch([[7, 8]])", 3),
            ("db.close()", 3),
        ):
            assert ask(holder, line) == "done"
            reader.refresh()
            assert len(reader) == count
        assert sorted(files(tmp_path / "db")) == ["omen.lock", "omen.sqlite", "snapshot-000004.omen"]
        ask(holder, "import sys; sys.exit()")


def test_a_copy_by_hand_in_the_writers_process_costs_nothing(tmp_path):
    """Closing any handle on a file makes POSIX drop the process's locks on it, SQLite's too. Readers must not profit."""
    load = "import sys; from omendb import DB; print(len(DB.load(sys.argv[1])), len(DB.open(sys.argv[1], 'r')))"
    with DB.open(tmp_path / "db") as db:
        for i in range(1, 4):
            db.add_batch([[1, i]])
            files(tmp_path / "db")
            with start(load, tmp_path / "db") as other:
                assert other.communicate()[0].split() == [str(i)] * 2
            assert "omen.sqlite-wal" in files(tmp_path / "db")
    assert len(DB.load(tmp_path / "db")) == 3


WRITE = """
import sys, time
import numpy as np
from omendb import DB, store
store.JOURNAL = 200_000  # so that snapshots are replaced all the time
db = DB.open(sys.argv[1], threads=1)
end, number = time.monotonic() + float(sys.argv[2]), 0
while time.monotonic() < end:  # whole batches of 50 equal rows; batch i is deleted when batch i + 20 comes
    number += 1
    db.add_batch(np.full((50, 8), number), ids=np.arange(50) + 50 * number, metadata=[{"batch": number}] * 50)
    if number > 20:
        db.delete(np.arange(50) + 50 * (number - 20))
    if number % 50 == 0:
        db.compact()
db.close()
print(number)
"""
READ = """
import sys, time
import numpy as np
from omendb import DB
reader, end, last, seen, snapshots = DB.open(sys.argv[1], "r", threads=1), time.monotonic() + float(sys.argv[2]), 0, 0, set()
while time.monotonic() < end:
    seen += reader.refresh()
    if not len(reader):
        continue
    ids = reader.ids
    batches = np.unique(ids // 50)
    assert len(ids) == 50 * len(batches), "a batch in part"
    assert (np.diff(batches) == 1).all() and len(batches) <= 21, "not a prefix of what was written"
    assert batches[-1] >= last, "backwards"
    last = int(batches[-1])
    found = reader.search(np.full(8, last), 50, with_metadata=True)
    assert sorted(found.ids) == list(range(50 * last, 50 * last + 50)) and (found.distances == 0).all()
    assert found.metadata == [{"batch": last}] * 50
    snapshots.add(reader._followed.read.state.snapshot)
assert reader.refresh() in (True, False)
print(last, seen, len(snapshots))
"""


@pytest.mark.parametrize("seconds", [10, pytest.param(60, marks=pytest.mark.long)])
def test_one_writer_and_three_readers(tmp_path, seconds):
    folder = tmp_path / "db"
    DB.open(folder, "create").close()
    writer = start(WRITE, folder, seconds)
    readers = [start(READ, folder, seconds - 1) for _ in range(3)]
    for reader in readers:
        output, _ = reader.communicate(timeout=seconds + 60)
        assert reader.returncode == 0
        last, seen, snapshots = map(int, output.split())
        assert last > 20, "the reader was to see much"
        assert seen > 20
        assert snapshots > 1
    output, _ = writer.communicate(timeout=60)
    assert writer.returncode == 0
    with DB.open(folder) as db:
        assert db.ids.max() // 50 == int(output)
        assert db.verify(full=True).ok


# ---- forks ------------------------------------------------------------------------------------------------------------


@posix
def test_a_forked_child_reads_and_does_not_write(tmp_path, rng):
    with DB.open(tmp_path / "db", threads=1) as db:
        db.add_batch(rows(rng, 20))
        assert in_fork(lambda: db.search(np.ones(DIM), 5).ids.tolist()) == ("gives", db.search(np.ones(DIM), 5).ids.tolist())
        for act in (lambda: db.add_batch(rows(rng, 1)), db.compact, lambda: db.delete([0])):
            verdict, (name, message, _) = in_fork(act)
            assert (verdict, name) == ("raises", "Closed")
            assert f"process {os.getpid()}" in message
        assert in_fork(db.close) == ("gives", None)
        assert in_fork(lambda: (db.__dict__.clear(), gc.collect())[0]) == ("gives", None)
        assert in_fork(lambda: DB.open(tmp_path / "db"))[1][0] == "Locked"
        db.add_batch(rows(rng, 1))
        with pytest.raises(omendb.Locked):
            DB.open(tmp_path / "db")
        assert_same(db, DB.open(tmp_path / "db", "r"), tmp_path)


@posix
def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    db = DB.open(tmp_path / "db", dim=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        db.close()
        DB.open(tmp_path / "db").close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@posix
def test_a_forked_reader_goes_on(tmp_path, rng):
    with DB.open(tmp_path / "db", threads=1) as db:
        reader = DB.open(tmp_path / "db", "r", threads=1)
        db.add_batch(rows(rng, 20))
        assert in_fork(lambda: (reader.refresh(), len(reader))) == ("gives", (True, 20))
        assert len(reader) == 0


# ---- folders that cannot be written to ----------------------------------------------------------------------------------


def locked_up(folder: Path) -> None:
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)


@posix
def test_a_read_only_folder_opens_for_reading(public):
    with sample(public) as db:
        ids, distances = db.ids.tolist(), db.search(np.ones(DIM), 9).distances.tobytes()
    before = files(public)
    locked_up(public)

    def read() -> Any:
        with DB.open(public, "r", threads=1) as reader:
            assert not reader.refresh()
            assert reader.verify(full=True).ok
            return reader.ids.tolist(), reader.search(np.ones(DIM), 9).distances.tobytes()

    assert in_fork(read, powerless=True) == ("gives", (ids, distances))
    verdict, (name, message, _) = in_fork(lambda: DB.open(public), powerless=True)
    assert (verdict, name) == ("raises", "ReadOnly")
    assert "mode='r'" in message
    assert files(public) == before


@posix
def test_what_a_dead_writer_left_in_a_read_only_folder(public):
    """It is read whole, or refused: never without its last changes."""
    with start(HOLD, public) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        holder.kill()
        holder.wait()
    assert files(public)["omen.sqlite-wal"]
    (public / "omen.sqlite-shm").unlink()
    locked_up(public)
    verdict, got = in_fork(lambda: len(DB.open(public, "r", threads=1)), powerless=True)
    assert (verdict, got) == ("gives", 1) or got[0] == "ReadOnly", got
    public.chmod(0o755)
    for path in public.iterdir():
        path.chmod(0o644)
    DB.open(public).close()
    locked_up(public)
    assert in_fork(lambda: len(DB.open(public, "r", threads=1)), powerless=True) == ("gives", 1)


@posix
def test_ctrl_c_by_signal(tmp_path, rng):
    """Real signals at random moments; whatever was interrupted is in the folder or not, and memory agrees."""
    folder = tmp_path / "db"
    db = DB.open(folder, threads=1)
    db.add_batch(rows(rng, 3), ids=[0, 1, 2])
    started = time.perf_counter()
    db.add_batch(rows(rng, 2), ids=[3, 4])
    usual = 1.5 * (time.perf_counter() - started)
    before, interrupted = signal.signal(signal.SIGALRM, signal.default_int_handler), 0
    try:
        for i in range(1, 150):
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, usual))
                db.add_batch(rows(rng, 2), ids=[10 * i, 10 * i + 1])
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            if i % 10 == 0:
                db.delete([])
                assert DB.open(folder, "r", threads=1).ids.tolist() == db.ids.tolist()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 5
    db.close()
    with DB.open(folder) as again:
        assert again.verify(full=True).ok
