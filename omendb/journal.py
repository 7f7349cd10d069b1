"""The journal of a folder: changes in a SQLite file, and the name of the snapshot that they stand on.

One row of `state` says which snapshot is in force and which changes are; it is rewritten in the very transaction that adds
changes or names a snapshot, so that a transaction is what happens or does not. SQLite does the durability. What it does not do
is notice a flipped bit: every row bears a hash of its content and its place. See docs/format.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import xxhash

from .errors import CorruptFile, NewerFormat, ReadOnly, StorageError, StorageFailed, StorageFull
from .publish import published, sync_folder

FOLDER_VERSION = 1
FILE = "omen.sqlite"
PART = 16 << 20  # bytes of a change in one row: SQLite holds a row in memory
PAGE = 8192  # bytes
CHECKPOINT = 64 << 20  # bytes of the write-ahead log from which SQLite carries it over into the file
WAIT = 30  # seconds for a lock of SQLite, which is only ever held for moments
_FAILURES = (sqlite3.Error, UnicodeDecodeError)  # the latter: of messages that quote a damaged schema
SCHEMA = (
    "CREATE TABLE state (one INTEGER PRIMARY KEY, version INTEGER, snapshot TEXT, base INTEGER, last INTEGER, hash BLOB)",
    "CREATE TABLE journal (sequence INTEGER PRIMARY KEY, rest INTEGER, content BLOB, hash BLOB)",
)


@dataclass(frozen=True)
class State:
    """The snapshot in force, the number of the last row of the journal inside it, and of the last row of all."""

    snapshot: str
    base: int = 0
    last: int = 0

    @property
    def hash(self) -> bytes:
        return xxhash.xxh3_64(f"{FOLDER_VERSION} {self.base} {self.last} {self.snapshot}".encode()).digest()


def _hash(sequence: int, rest: int, content: bytes | memoryview) -> bytes:
    hasher = xxhash.xxh3_64(b"%d %d " % (sequence, rest))
    hasher.update(content)
    return hasher.digest()


class Journal:
    """One connection to the SQLite file. Not for two threads at once, nor for a forked child."""

    def __init__(self, path: Path, connection: sqlite3.Connection, quiet: tuple[int, ...] | None) -> None:
        self.path = path
        self._connection = connection
        self._quiet = quiet
        self._synchronous = "FULL"

    @staticmethod
    def create(folder: Path, state: State) -> None:
        """The file, whole or not at all, durably. Raises AlreadyExists, StorageError."""
        with _translated(folder / FILE), tempfile.TemporaryDirectory() as aside:
            made = Path(aside) / FILE
            with contextlib.closing(sqlite3.connect(made, isolation_level=None)) as connection:
                connection.execute(f"PRAGMA page_size={PAGE}")
                connection.execute("PRAGMA auto_vacuum=NONE")
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute("BEGIN")
                for statement in SCHEMA:
                    connection.execute(statement)
                values = (FOLDER_VERSION, state.snapshot, state.base, state.last, state.hash)
                connection.execute("INSERT INTO state VALUES (1, ?, ?, ?, ?, ?)", values)
                connection.execute("COMMIT")
            content = made.read_bytes()
        with published(folder / FILE, overwrite=False) as file:
            file.write(content)

    @classmethod
    def open(cls, folder: Path, *, write: bool, durable: bool = True) -> Journal:
        """Raises CorruptFile, NewerFormat, ReadOnly (what a crash left has to be cleared up first), StorageError."""
        path = folder / FILE
        with _translated(path):
            if not path.is_file():
                raise CorruptFile(f"{path} is missing")
            # Readers never may write: one that closed last would carry over, and delete, the log of a writer whose locks are
            # lost (POSIX drops them when its process closes any other handle on the file). Without a writer nothing is
            # locked, and nothing left behind: `unmoved` tells whether that was right.
            quiet = None if write else _quiet(path)
            how = "mode=rw" if write else "mode=ro" if quiet is None else "mode=ro&immutable=1"
            place = f"{path.absolute().as_uri()}?{how}"
            connection = sqlite3.connect(place, uri=True, isolation_level=None, check_same_thread=False, timeout=WAIT)
        journal = cls(path, connection, quiet)
        try:
            with _translated(path):
                journal._prepare(write, durable)
        except BaseException:
            connection.close()
            raise
        return journal

    def _prepare(self, write: bool, durable: bool) -> None:
        run = self._connection.execute
        self._connection.text_factory = lambda text: text.decode("utf-8", "replace")
        for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0"):  # the file may be anybody's
            run(f"PRAGMA {pragma}")
        tables = [sql for (sql,) in run("SELECT sql FROM sqlite_master ORDER BY rootpage")]
        if tables != list(SCHEMA):
            raise CorruptFile(f"{self.path} is damaged: its tables are not those of an omendb folder")
        if not write:
            return
        (mode,) = run("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise StorageError(f"{self.path}: this file system lacks what SQLite's write-ahead log needs")
        self._synchronous = "FULL" if durable else "NORMAL"
        (size,) = run("PRAGMA page_size").fetchone()
        run(f"PRAGMA wal_autocheckpoint={CHECKPOINT // size}")
        run(f"PRAGMA journal_size_limit={CHECKPOINT}")
        if sys.platform == "darwin":  # fsync alone leaves the data in the drive's cache there
            run("PRAGMA fullfsync=ON")
            run("PRAGMA checkpoint_fullfsync=ON")

    # --- reading -------------------------------------------------------------------------------------------------

    @contextmanager
    def view(self) -> Iterator[State]:
        """Everything read inside is of one moment."""
        with _translated(self.path):
            self._connection.execute("BEGIN")
        try:
            yield self.state()
        finally:
            self.rollback()

    def unmoved(self) -> bool:
        """Whether what a reader has read is of one moment: also without locks, since nobody wrote meanwhile."""
        return self._quiet is None or self._quiet == _quiet(self.path)

    def state(self) -> State:
        """The row that holds. Raises CorruptFile, NewerFormat."""
        with _translated(self.path):
            found = self._connection.execute("SELECT version, snapshot, base, last, hash FROM state").fetchall()
        if len(found) != 1:
            raise CorruptFile(f"{self.path} is damaged: {len(found)} rows of state")
        version, snapshot, base, last, digest = found[0]
        if type(version) is int and version > FOLDER_VERSION:
            raise NewerFormat(
                f"{self.path} has folder version {version}; this omendb reads up to {FOLDER_VERSION}: a newer one is needed"
            )
        state = State(snapshot, base, last)
        types = (type(version), type(snapshot), type(base), type(last))
        if types != (int, str, int, int) or digest != state.hash or not 0 <= base <= last:
            raise CorruptFile(f"{self.path} is damaged: the hash of its state is wrong")
        return state

    def size(self) -> int:
        """Bytes of all changes."""
        with _translated(self.path):
            return int(self._connection.execute("SELECT ifnull(sum(length(content)), 0) FROM journal").fetchone()[0])

    def changes(self, after: int, last: int) -> Iterator[tuple[int, bytes]]:
        """(number of its last row, content) of each change in rows after + 1 .. last. Raises CorruptFile."""
        expected, parts = after + 1, []
        for sequence, rest, content in self._rows(after):
            if sequence != expected or sequence > last:
                raise CorruptFile(f"{self.path} is damaged: row {expected} of the journal is not where it should be")
            parts.append(content)
            expected += 1
            if rest == 0:
                yield sequence, b"".join(parts) if len(parts) > 1 else content
                parts = []
        if parts or expected != last + 1:
            raise CorruptFile(f"{self.path} is damaged: row {expected} of the journal is missing")

    def _rows(self, after: int) -> Iterator[tuple[int, int, bytes]]:
        query = (
            f"SELECT sequence, rest, CASE WHEN length(content) <= {PART} THEN content END, hash FROM journal "
            "WHERE sequence > ? ORDER BY sequence"
        )
        with _translated(self.path):
            for sequence, rest, content, digest in self._connection.execute(query, (after,)):
                whole = type(content) is bytes and type(rest) is int and digest == _hash(sequence, rest, content)
                if not whole:
                    raise CorruptFile(f"{self.path} is damaged: row {sequence} of the journal has changed")
                yield sequence, rest, content

    def problems(self) -> list[str]:
        """What SQLite finds wrong with the file, each page looked at; nothing when it is well."""
        try:
            found = self._connection.execute("PRAGMA integrity_check").fetchall()
        except _FAILURES as error:
            return [str(error)]
        return [str(line) for (line,) in found if line != "ok"]

    def salvage(self, problems: list[str], after: int | None, last: int) -> list[bytes | None]:
        """As `changes`, all that can be read; None where some are lost. after: None, last: 0 where they are not known."""
        found: list[bytes | None] = []
        parts: list[bytes] | None = []
        expected = None if after is None else after + 1
        for sequence, rest, content in self._sound_rows(problems, after or 0, last):
            if expected not in (None, sequence):
                found.append(None)
                parts = None  # of a change whose beginning is lost
            if parts is not None:
                parts.append(content)
            if rest == 0:
                found += [b"".join(parts)] if parts else []
                parts = []
            expected = sequence + 1
        if parts or (expected or 1) <= last:
            found.append(None)
        return found

    def _sound_rows(self, problems: list[str], after: int, last: int) -> Iterator[tuple[int, int, bytes]]:
        """Those with the right hash; around damaged pages row by row."""
        while True:
            try:
                for row in self._rows(after):
                    after = row[0]
                    yield row
                return
            except CorruptFile as error:
                problems.append(str(error))
            after = self._next(after, last)
            if not after:
                return

    def _next(self, after: int, last: int) -> int:
        """The number of the row behind `after`, to be passed over; 0 where there is none to be found."""
        with contextlib.suppress(*_FAILURES):
            (number,) = self._connection.execute("SELECT min(sequence) FROM journal WHERE sequence > ?", (after,)).fetchone()
            return number if type(number) is int else 0
        return after + 1 if after < last else 0

    # --- writing -------------------------------------------------------------------------------------------------

    def append(self, after: State, content: memoryview) -> None:
        """One more change, whose last row is the last of `after`, durably. Raises StorageFull, StorageFailed, StorageError."""
        parts = [content[start : start + PART] for start in range(0, len(content), PART)]
        rows = []
        for rest, part in zip(range(len(parts) - 1, -1, -1), parts, strict=True):
            sequence = after.last - rest
            rows.append((sequence, rest, part, _hash(sequence, rest, part)))
        with self._transaction(after, self._synchronous) as run:
            run.executemany("INSERT INTO journal VALUES (?, ?, ?, ?)", rows)

    def name(self, after: State) -> None:
        """Put another snapshot in force, which holds every change there is. Errors as for `append`."""
        with self._transaction(after, "FULL") as run:  # the snapshot before is deleted next: no power failure may undo this
            run.execute("DELETE FROM journal")

    @contextmanager
    def _transaction(self, after: State, synchronous: str) -> Iterator[sqlite3.Connection]:
        """All of it or nothing, and `after` with it."""
        with _translated(self.path, writing=True):
            self._connection.execute(f"PRAGMA synchronous={synchronous}")
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
            values = (after.snapshot, after.base, after.last, after.hash)
            self._connection.execute("UPDATE state SET snapshot = ?, base = ?, last = ?, hash = ?", values)
            self._connection.execute("COMMIT")

    def rollback(self) -> None:
        """End a transaction that has not ended itself."""
        if self._connection.in_transaction:
            with _translated(self.path):
                self._connection.execute("ROLLBACK")

    def checkpoint(self) -> None:
        """Carry the write-ahead log over into the file: what is in force is then in its main part, and synced."""
        with _translated(self.path, writing=True):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            sync_folder(self.path.parent)  # the name of the log: SQLite does this once as well, and lets a failure pass

    def shrink(self, *, secure: bool = False) -> None:
        """Give back what deleted changes held: the file is made anew and the write-ahead log emptied.

        secure: StorageError where a reader is in the way of that; else it is left for the next time.
        """
        with _translated(self.path, writing=True):
            self._connection.execute("VACUUM")
            (busy, _, _) = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy and secure:
            raise StorageError(f"{self.path}: a reader holds the old content open; compact again when it is done")

    def close(self) -> None:
        """Carry the write-ahead log over into the file, where nobody is in the way, and let go."""
        with contextlib.suppress(*_FAILURES):
            self._connection.execute("PRAGMA busy_timeout=0")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()

    def leak(self) -> None:
        """In a forked child: never to be closed, not even by the garbage collector. SQLite must not be used there at all."""
        if hasattr(ctypes, "pythonapi"):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))


def parts_of(size: int) -> int:
    """The rows that a change of so many bytes takes."""
    return -(-size // PART)


def _quiet(path: Path) -> tuple[int, ...] | None:
    """A mark of the file as it lies there, where nobody has it open for writing and all of it is in the file; else None."""
    log, shared = path.with_name(FILE + "-wal"), path.with_name(FILE + "-shm")
    if shared.exists() or (log.exists() and log.stat().st_size):
        return None
    facts = path.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


@contextmanager
def _translated(path: Path, *, writing: bool = False) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except _FAILURES as error:
        text = str(error)
        if "is full" in text:
            raise StorageFull(f"cannot write {path}: {text}") from error
        if "readonly" in text or ("unable to open" in text and not os.access(path.parent, os.W_OK)):
            raise ReadOnly(
                f"{path}: changes that a dead writer left have to be cleared up, and this folder cannot be written to; "
                "open it once where it can"
            ) from error
        if "I/O" in text or "unable to open" in text:
            kind = StorageFailed if writing else StorageError
            raise kind(f"cannot {'write' if writing else 'read'} {path}: {text}") from error
        if "locked" in text or "busy" in text:
            raise StorageError(f"{path} is in use: {text}") from error
        raise CorruptFile(f"{path} is damaged: {text}") from error
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"cannot {'write' if writing else 'read'} {path}: {error.strerror or error}") from error
