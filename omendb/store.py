"""The durable folder: a snapshot in the one-file format, and the changes since then in a journal.

    omen.sqlite             which snapshot is in force, and the changes behind it (journal.py)
    snapshot-000007.omen    all rows up to there (snapshot.py); never changed, only replaced by the next one
    omen.lock               the process id of the writer, and the lock that it holds (lock.py)

A write is a change in the journal before it is acknowledged. From time to time the writer puts everything into a new snapshot;
one transaction puts that in force and empties the journal. Opening is mapping the snapshot and applying the changes: the same
code on the same rows, hence the same bits that the writer had.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from . import journal, snapshot
from .changes import Change
from .errors import AlreadyExists, Closed, CorruptFile, NotAnIndex, NotFound, StorageError, StorageFailed, StorageFull
from .generation import Generation
from .ids import as_list
from .journal import Journal, State, parts_of
from .lock import Lock
from .publish import sync_folder
from .snapshot import Snapshot
from .wal import transactions_lost

log = logging.getLogger("omendb")

LOCK = "omen.lock"
JOURNAL = 64 << 20  # bytes of changes from which a new snapshot is due,
SHARE = 8  # or this part of the snapshot, where that is more
_SNAPSHOT = re.compile(r"snapshot-([0-9]{6,18})\.omen")
_ASIDE = re.compile(r"\.omen-[0-9a-f]+\.tmp")
_OURS = re.compile(rf"{_SNAPSHOT.pattern}|{_ASIDE.pattern}|{LOCK}")
_RETRIES = 100  # of a reader whose snapshot is replaced under its hands


def _name(number: int) -> str:
    return f"snapshot-{number:06d}.omen"


def is_folder(path: Path) -> bool:
    """Whether there is a durable folder at this place, be it damaged."""
    return path.is_dir() and (path / journal.FILE).exists()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder; those that vanish meanwhile count nothing."""
    size = 0
    for file in list(path.iterdir()) if path.is_dir() else [path]:
        with contextlib.suppress(FileNotFoundError):
            size += file.stat().st_size
    return size


def broken_log(folder: Path, writer: str | None = None) -> tuple[str, ...]:
    """A line where a log was damaged that a dead writer left; writer: what it said of itself, read from its lock if None."""
    if writer is None:
        writer = ""
        with contextlib.suppress(OSError):
            writer = (folder / LOCK).read_bytes()[:40].decode("ascii", "replace")
    path = folder / f"{journal.FILE}-wal"
    lost = transactions_lost(path) if writer.endswith(" full") else 0  # under normal a power failure leaves such logs as well
    line = f"{path} is damaged: at least {lost} writes in it are lost, and what came before them is in force"
    if lost:
        log.warning(line)
    return (line,) if lost else ()


# --- reading -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Read:
    """What a folder held at one moment. broken: what `broken_log` said before it was opened, which clears it up."""

    generation: Generation
    state: State
    file: Snapshot
    broken: tuple[str, ...] = ()


def read(folder: Path, *, verify: bool, threads: int, known: Read | None = None) -> Read:
    """The folder as it is now, from `known` on where its snapshot is still in force.

    verify: compare the snapshot with its hashes; journals always are. Raises NotFound, CorruptFile, NewerFormat, ReadOnly,
    StorageError.
    """
    if not is_folder(folder):
        raise NotFound(f"no omendb folder {folder}") if not folder.is_dir() else NotAnIndex(f"{folder} is not an omendb folder")
    missing = ""
    broken = broken_log(folder) if known is None else known.broken
    for _ in range(_RETRIES):
        changes = None
        try:
            with contextlib.closing(Journal.open(folder, write=False)) as changes:
                try:
                    found = _read(changes, folder, verify, threads, known)
                except NotFound as error:  # a new snapshot was put in force meanwhile, and this one deleted
                    name = changes.state().snapshot
                    if name == missing:
                        raise CorruptFile(f"{folder} is damaged: {name} is missing") from error
                    missing = name
                    continue
                if changes.unmoved():
                    return replace(found, broken=broken)
        except CorruptFile:
            if changes is None or changes.unmoved():
                raise
    raise StorageError(f"{folder}: it changes too fast to be read")


def _read(changes: Journal, folder: Path, verify: bool, threads: int, known: Read | None) -> Read:
    with changes.view() as state:
        if known is not None and (state.last < known.state.last or state.base < known.state.base):
            raise CorruptFile(f"{folder} went back behind change {known.state.last}, which was read before")
        if known is not None and state.snapshot == known.state.snapshot:
            generation, file, after = known.generation, known.file, known.state.last
        else:
            generation, file = _load(folder, state, verify)
            after = state.base
        for _, content in changes.changes(after, state.last):
            generation = replayed(generation, content, changes.path, threads)
        return Read(generation, state, file)


def _load(folder: Path, state: State, verify: bool) -> tuple[Generation, Snapshot]:
    """The snapshot in force, mapped. Raises NotFound, CorruptFile."""
    if not _SNAPSHOT.fullmatch(state.snapshot):
        raise CorruptFile(f"{folder} is damaged: a snapshot of the name {state.snapshot!r}")
    file = Snapshot.open(folder / state.snapshot)
    if verify:
        file.verify()
    if file.facts.get("sequence") != state.base:
        raise CorruptFile(f"{file.path} is not the file that was put in force: its number is {file.facts.get('sequence')}")
    try:
        return Generation.restore(file.facts, file.arrays), file
    except ValueError as error:
        raise CorruptFile(f"{file.path} is damaged: {error}") from error


def replayed(now: Generation, content: bytes, path: Path, threads: int) -> Generation:
    """The generation after a change that was read. Raises CorruptFile where it cannot have been made for this one."""
    file = Snapshot.parse(content, path)
    file.verify()
    try:
        change = Change.restore(file.facts, file.arrays)
        _judge(change, now, file.facts["metric"])
        return now.applied(change, threads=threads)
    except ValueError as error:
        raise CorruptFile(f"{path} is damaged: {error}") from error


def _judge(change: Change, now: Generation, metric: str) -> None:
    """ValueError where a change cannot have been made for this generation."""
    if metric != now.metric:
        raise ValueError(f"a change for {metric} where the metric is {now.metric}")
    if now.id_kind not in (None, change.kind) or (change.verb == "upsert" and change.kind == "row"):
        raise ValueError(f"a change of {change.kind} ids where they are {now.id_kind}")
    rows = change.rows
    if rows is not None and not (now.dim in (None, rows.dim) and now.dtype in (None, rows.kind)):
        raise ValueError(f"rows of {rows.dim} dimensions, {rows.kind}, where they are {now.dim}, {now.dtype}")
    if len(set(as_list(change.keys))) != len(change):
        raise ValueError("an id occurs twice in one change")
    if change.verb == "add" and change.kind == "row":
        if len(change) and int(change.keys[0]) < now.next_row:
            raise ValueError("row numbers that were given before")
        return
    known = now.find(change.keys) >= 0
    if known.any() if change.verb == "add" else change.verb == "delete" and not known.all():
        raise ValueError("ids that cannot be added or deleted")


class Follower:
    """A reader of a folder. It holds nothing open but the mapped snapshot, so that it may be forked and never is in the way."""

    def __init__(self, folder: Path, *, verify: bool, threads: int) -> None:
        self.folder = folder
        self._verify = verify
        self.read = read(folder, verify=verify, threads=threads)

    def refresh(self, threads: int) -> Generation:
        """What is in force now. Raises what `read` raises."""
        self.read = read(self.folder, verify=self._verify, threads=threads, known=self.read)
        return self.read.generation

    def close(self) -> None:
        """Nothing is open."""


# --- writing -----------------------------------------------------------------------------------------------------


def create(folder: Path, start: Generation, *, threads: int) -> None:
    """A new folder that holds these rows. Raises AlreadyExists, NotFound (no folder to put it in), Locked, StorageError."""
    _make_room(folder)
    lock = Lock(folder / LOCK)
    try:
        if is_folder(folder):
            raise AlreadyExists(f"{folder} is an omendb folder already")
        _fill(folder, start, threads)
    finally:
        lock.release()


def _make_room(folder: Path) -> None:
    """An empty folder, or one in which somebody began to make an omendb folder."""
    try:
        if not folder.exists():
            os.mkdir(folder)
        with contextlib.suppress(PermissionError):  # also of one that is there: whoever made it may have died before this
            sync_folder(folder.parent)
        strangers = sorted(name for name in os.listdir(folder) if not _OURS.fullmatch(name))
    except FileNotFoundError as error:
        raise NotFound(f"cannot make {folder}: no folder {folder.parent}") from error
    except NotADirectoryError as error:
        raise AlreadyExists(f"cannot make {folder}: it is a file") from error
    except OSError as error:
        raise StorageError(f"cannot make {folder}: {error.strerror}") from error
    if strangers:
        raise AlreadyExists(f"{folder} holds {strangers[0]!r}: a new omendb folder has to be empty")


def _fill(folder: Path, start: Generation, threads: int) -> None:
    """The first snapshot, then the journal: only with that is it an omendb folder."""
    first = State(_name(1))
    for path in folder.iterdir():
        if _SNAPSHOT.fullmatch(path.name) and (path.name != first.snapshot or _rows_in(path)):
            raise CorruptFile(f"{folder} is damaged: {journal.FILE} is missing beside {path.name}")
    facts, arrays = start.state(threads=threads)
    snapshot.write(folder / first.snapshot, {**facts, "sequence": first.base}, arrays, overwrite=True)
    Journal.create(folder, first)


def _rows_in(path: Path) -> bool:
    """Whether a file has anything to lose."""
    try:
        return bool(Snapshot.open(path).facts.get("rows"))
    except CorruptFile:
        return False


class Writer:
    """The one writer of a folder. Its calls are made one at a time (`DB` holds a lock), and never in a forked child.

    read: what is in force. A transaction may be interrupted anywhere; `settle` asks the folder what has become of it.
    """

    def __init__(self, folder: Path, start: Generation | None, *, durable: bool, verify: bool, threads: int) -> None:
        """start: what the folder holds where it has to be made; None: it has to be there. Raises what `DB.open` raises."""
        self.folder = folder
        self.failure: str | None = None
        self._pending: Read | None = None
        process = self._process = os.getpid()
        if start is not None and not is_folder(folder):
            _make_room(folder)
        elif not is_folder(folder):
            raise NotAnIndex(f"{folder} is not an omendb folder") if folder.exists() else NotFound(f"no omendb folder {folder}")
        with contextlib.ExitStack() as undo:
            self._lock = Lock(folder / LOCK, "full" if durable else "normal")
            undo.callback(self._lock.release)
            if start is not None and not is_folder(folder):
                _fill(folder, start, threads)
            broken = broken_log(folder, self._lock.before)
            self._journal = Journal.open(folder, write=True, durable=durable)
            undo.callback(self._journal.close)
            try:
                self.read = replace(_read(self._journal, folder, verify, threads, None), broken=broken)
            except NotFound as error:
                raise CorruptFile(f"{folder} is damaged, its snapshot is missing: {error}") from error
            self._size = self._journal.size()
            self._journal.checkpoint()
            self._sweep()
            undo.pop_all()
        self._close = weakref.finalize(self, _close, self._journal, self._lock, process)

    def check(self) -> None:
        """Before any write. Raises Closed in a forked child, StorageFailed after a failure."""
        if os.getpid() != self._process:
            raise Closed(f"{self.folder} was opened by process {self._process}, and this is a child of it: open it here anew")
        if self.failure is not None:
            raise StorageFailed(f"{self.folder} is only read since writing to it failed: {self.failure}")

    @property
    def room(self) -> int:
        """Bytes that the changes in the journal may take together."""
        return max(JOURNAL, self.read.file.nbytes // SHARE)

    @property
    def due(self) -> bool:
        """Whether they take more, so that it is time for a new snapshot."""
        return self._size > self.room

    def append(self, change: Change, after: Generation) -> None:
        """Put a change into the journal; `after` is the generation with it. Raises StorageFull, StorageFailed, StorageError."""
        now, content = self.read.state, snapshot.encoded(*change.state(after.metric))
        state = State(now.snapshot, now.base, now.last + parts_of(len(content)))
        self._commit(Read(after, state, self.read.file, self.read.broken), lambda: self._journal.append(state, content))
        self._size += len(content)

    def keep(self, now: Generation, *, threads: int) -> None:
        """Put the live rows of `now` into a new snapshot, and empty the journal. Raises what `append` raises.

        In force is then what the new file holds, mapped: the very thing that the next process to open the folder gets.
        """
        last = self.read.state.last + 1  # a number of its own: it may hold what no change in the journal tells
        state = State(_name(_number(self.read.state.snapshot) + 1), last, last)
        facts, arrays = now.state(threads=threads)
        snapshot.write(self.folder / state.snapshot, {**facts, "sequence": last}, arrays, overwrite=True)
        generation, file = _load(self.folder, state, verify=False)
        try:
            self._commit(Read(generation, state, file, self.read.broken), lambda: self._journal.name(state))
        except StorageFull:
            if self.read.state != state and self.failure is None:
                self._sweep()  # there is no room for a file that is not in force
            raise
        self._size = 0
        self._sweep()

    def _commit(self, after: Read, transaction: Callable[[], None]) -> None:
        self._pending = after
        try:
            transaction()
        except StorageFailed as error:
            self.failure = str(error)
            raise
        finally:
            self.settle()

    def settle(self) -> None:
        """Bring `read` up to what is in force in the folder; to be called before any use of it."""
        pending = self._pending
        if pending is None:
            return
        try:
            self._journal.rollback()
            state = self._journal.state()
        except StorageError as error:
            self.failure = self.failure or str(error)
        else:
            if state == pending.state:
                self.read = pending
            elif state != self.read.state:
                self.failure = self.failure or "the folder was changed by somebody else"
        self._pending = None

    def postpone(self) -> None:
        """A snapshot that was due could not be written: try again when the journal has grown by half."""
        self._size = self.room // 2

    def shrink(self, *, secure: bool) -> None:
        """Give back the space of changes and snapshots that are in force no more. secure: or raise StorageError."""
        left = self._sweep()
        try:
            self._journal.shrink(secure=secure)
        except StorageFailed as error:  # a sync that failed here is no better than one of a write
            self.failure = str(error)
            raise
        if secure and left:
            raise StorageError(f"{left[0]} cannot be deleted while a process has it open; compact again when it is closed")

    def _sweep(self) -> list[Path]:
        """Delete what is in force no more; gives what could not be deleted. POSIX lets readers keep what they have mapped."""
        left = []
        names = []
        with contextlib.suppress(OSError):  # then it is for the next time
            names = list(self.folder.iterdir())
        for path in names:
            if (_SNAPSHOT.fullmatch(path.name) or _ASIDE.fullmatch(path.name)) and path.name != self.read.state.snapshot:
                try:
                    path.unlink()
                except OSError:  # Windows: a reader has it mapped; the next sweep finds it
                    left.append(path)
        return left

    def close(self) -> None:
        """Let go of the folder."""
        self._close()


def _close(changes: Journal, lock: Lock, process: int) -> None:
    """Not in a forked child, where the connection is the parent's."""
    if os.getpid() == process:
        changes.close()
        lock.release()
    else:
        changes.leak()


def _number(name: str) -> int:
    match = _SNAPSHOT.fullmatch(name)
    assert match is not None  # judged when it was read
    return int(match[1])
