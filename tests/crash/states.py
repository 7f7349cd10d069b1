"""The folders that a power failure can leave behind, made from a log of what a process did (recorder.c).

The model, POSIX at its weakest but for three things that all file systems of Linux give (a rename is one step, an entry is
whole or absent, a file's bytes never turn into another file's):

- Data (write, ftruncate, fallocate) may be lost until fsync or fdatasync of that file has returned; each on its own and in
  any order. A lost write below a kept one leaves zeros. A write that crashes half way may be there in part.
- Names (create, rename, link, unlink, mkdir) may be lost until fsync of their folder has returned, each on its own.
  fsync of a file says nothing about its name.
- A sync that failed has synced nothing, and no later one syncs the data written before it: the kernel took those pages for
  clean. (Names do not go that way: file systems keep them in a journal.)
- sync_file_range guarantees nothing and is not recorded. `-shm` files are no durable state: SQLite's first opener wipes them.

After each event of the log: everything there; all unsynced lost; only names, only data; one file or folder lost, or alone
there; single changes lost, or alone there, and random subsets (at most `subsets` of each, seeded); the last write torn. Of
the states with equal content one is given; it must hold what was acknowledged at the latest moment that leaves it.
"""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import xxhash

_HEAD = struct.Struct("<BBHHHQqQ")
CREATED, TRUNCATED, FAILED = 1, 2, 1
SECTORS = (512, 4096)  # bytes: what a disk, and what the page cache writes whole

Files = dict[str, bytes]
Folder = str


class Event(NamedTuple):
    """One call. kind: o(pen) w(rite) t(runcate) a(llocate) s(ync) r(ename) l(ink) u(nlink) d (mkdir) p (mmap) m(ark)."""

    kind: str
    flag: int = 0
    node: int = 0
    offset: int = 0  # of a write; the new size for t and a
    path: str = ""
    other: str = ""
    data: bytes = b""


def read_log(file: Path) -> list[Event]:
    """All events, in order."""
    log, events, at = file.read_bytes(), [], 0
    while at < len(log):
        kind, flag, path, other, _, node, offset, size = _HEAD.unpack_from(log, at)
        at += _HEAD.size
        ends = (at + path, at + path + other, at + path + other + size)
        texts = (log[at : ends[0]].decode(), log[ends[0] : ends[1]].decode())
        events.append(Event(chr(kind), flag, node, offset, *texts, log[ends[1] : ends[2]]))
        at = ends[2]
    return events


class Unmodelled(Exception):
    """The process did something whose crash states are not known here."""


@dataclass(eq=False)
class Node:
    """A file, or a folder when `data` is None: what is durable of it."""

    data: bytearray | None
    frozen: tuple[bytes, str] | None = None  # data and its hash, until it changes

    def content(self) -> tuple[bytes, str]:
        assert self.data is not None
        if self.frozen is None:
            self.frozen = _hashed(self.data)
        return self.frozen


@dataclass(eq=False)
class Data:
    """A change of a file's bytes: `data` at `offset`, or the size set to (at least) `offset`."""

    node: Node
    kind: str
    offset: int
    data: bytes = b""
    doomed: bool = False  # a sync of it failed, and no later one will help
    durable: bool = False  # but it came after one that is doomed, and waits here to keep the order

    def apply(self, content: bytearray) -> None:
        size = len(content)
        if self.kind == "w":
            content.extend(bytes(max(0, self.offset - size)))
            content[self.offset : self.offset + len(self.data)] = self.data
        elif self.kind == "t":
            del content[self.offset :]
            content.extend(bytes(max(0, self.offset - size)))
        else:
            content.extend(bytes(max(0, self.offset - size)))

    def torn(self) -> Iterator[tuple[str, list[Data]]]:
        """The write cut at the borders of sectors: its beginning alone, with zeros behind it, its end alone."""
        end = self.offset + len(self.data)
        for sector in SECTORS:
            first = self.offset // sector * sector + sector
            for cut in sorted({first, (self.offset + end) // 2 // sector * sector}):
                if self.offset < cut < end:
                    head = Data(self.node, "w", self.offset, self.data[: cut - self.offset])
                    yield "torn: beginning", [head]
                    yield "torn: beginning and zeros", [head, Data(self.node, "a", end)]
                    yield "torn: end", [Data(self.node, "w", cut, self.data[cut - self.offset :])]


@dataclass(eq=False)
class Names:
    """An unsynced change of names, one step: each name gets a node or none. `folders` were not synced since."""

    names: dict[str, Node | None]
    folders: set[Folder]


Change = Data | Names


def parent(path: str) -> Folder:
    return path.rpartition("/")[0] or "."


class Disk:
    """What is durable, and the changes that are not yet, in order."""

    def __init__(self, initial: Files | None = None) -> None:
        self.durable: dict[str, Node] = {".": Node(None)}
        for path, content in (initial or {}).items():
            for folder in list(_folders(path)):
                self.durable.setdefault(folder, Node(None))
            self.durable[path] = Node(bytearray(content))
        self.names: dict[str, Node] = dict(self.durable)  # as the process sees them
        self.nodes: dict[int, Node] = {}
        self.changes: list[Change] = []

    def do(self, event: Event) -> None:
        """Take one event. Raises Unmodelled."""
        if event.path.endswith("-shm"):
            return
        if event.kind == "p":
            raise Unmodelled(f"a shared writable map of {event.path}: its changes cannot be seen")
        if event.kind == "o":
            self._open(event)
        elif event.kind in "wta":
            self.changes.append(Data(self._node(event), event.kind, event.offset, event.data))
        elif event.kind == "s":
            self._sync(event)
        elif event.kind in "rlud":
            self._rename(event)

    def _node(self, event: Event) -> Node:
        if event.node not in self.nodes:
            self.nodes[event.node] = self.names[event.path]  # was there before the log began
        return self.nodes[event.node]

    def _open(self, event: Event) -> None:
        if event.flag & CREATED:
            node = self.nodes[event.node] = Node(bytearray())
            self._name(event.path, {event.path: node})
        else:
            self.nodes[event.node] = self.names[event.path]
            if event.flag & TRUNCATED:
                self.changes.append(Data(self.nodes[event.node], "t", 0))

    def _name(self, folder_of: str, names: dict[str, Node | None], *others: str) -> None:
        self.changes.append(Names(names, {parent(path) for path in (folder_of, *others)}))
        _assign(self.names, names)

    def _rename(self, event: Event) -> None:
        path, other = event.path, event.other
        if event.kind == "d":
            self.nodes[event.node] = Node(None)
            self._name(path, {path: self.nodes[event.node]})
        elif event.kind == "u":
            self._name(path, {path: None})
        elif not path or not other:
            raise Unmodelled(f"{path or other} moved in or out of the folder")
        elif event.kind == "l":
            self._name(other, {other: self.names[path]})
        else:
            inside = [name for name in self.names if name.startswith(path + "/")]
            moved = {other + name[len(path) :]: self.names[name] for name in (path, *inside)}
            self._name(other, {**dict.fromkeys((path, *inside)), **moved}, path)

    def _sync(self, event: Event) -> None:
        node = self._node(event)
        left: list[Change] = []
        waiting = False  # behind a doomed change of this file
        for change in self.changes:
            if isinstance(change, Names):
                if event.path in change.folders and not event.flag & FAILED:
                    change.folders.discard(event.path)
                if change.folders:
                    left.append(change)
                else:
                    _assign(self.durable, change.names)
            elif change.node is not node:
                left.append(change)
            else:
                change.doomed |= bool(event.flag & FAILED) and not change.durable
                waiting |= change.doomed
                change.durable = not change.doomed
                if waiting:
                    left.append(change)
                else:
                    assert node.data is not None
                    change.apply(node.data)
                    node.frozen = None
        self.changes = left

    @property
    def pending(self) -> list[Change]:
        """What may still be lost, in order."""
        return [change for change in self.changes if isinstance(change, Names) or not change.durable]

    def files(self, kept: Iterable[Change]) -> tuple[Files, bytes]:
        """The files when, of the unsynced changes, these reached the disk; and a digest of all."""
        names = dict(self.durable)
        content: dict[Node, bytearray] = {}
        for change in self._in_order(list(kept)):
            if isinstance(change, Names):
                _assign(names, change.names)
            else:
                assert change.node.data is not None
                change.apply(content.setdefault(change.node, bytearray(change.node.data)))
        reachable = {path for path, node in names.items() if all(f in names and names[f].data is None for f in _folders(path))}
        files: Files = {}
        digest = xxhash.xxh3_128()
        for path in sorted(reachable):
            node = names[path]
            if node.data is not None:
                files[path], its = _hashed(content[node]) if node in content else node.content()
                digest.update(f"{path}\0{its}\0".encode())
        return files, digest.digest()

    def _in_order(self, kept: list[Change]) -> list[Change]:
        """With the durable ones that wait; parts of a torn write, which are no changes of the log, come last."""
        if not any(isinstance(change, Data) and change.durable for change in self.changes):
            return kept
        chosen, known = set(kept), set(self.changes)
        there = [one for one in self.changes if one in chosen or (isinstance(one, Data) and one.durable)]
        return there + [change for change in kept if change not in known]


def _hashed(data: bytearray) -> tuple[bytes, str]:
    content = bytes(data)
    return content, f"{len(content)} {xxhash.xxh3_128_hexdigest(content)}"


def _folders(path: str) -> Iterator[Folder]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _assign(names: dict[str, Node], changes: dict[str, Node | None]) -> None:
    for path, node in changes.items():
        if node is None:
            names.pop(path, None)
        else:
            names[path] = node


@dataclass(frozen=True)
class Moment:
    """When a crash comes: after so many events, the last call being `event`, with so many steps acknowledged."""

    position: int
    event: Event
    acked: int
    kept: str  # what reached the disk

    def __str__(self) -> str:
        return f"after event {self.position} ({self.event.kind} {self.event.path}), {self.kept}"


@dataclass(frozen=True)
class State:
    """One folder after a crash, and the first moment that leaves it."""

    files: Files
    digest: bytes
    moment: Moment


@dataclass
class CrashStates:
    """Iterate to get the distinct states of a log. When the iteration has ended, `last[digest]` is the last moment that leaves
    such a state: the one by which most was acknowledged.
    """

    events: list[Event]
    initial: Files = field(default_factory=dict)
    subsets: int = 3
    seed: int = 0
    last: dict[bytes, Moment] = field(default_factory=dict)
    kept: Counter[str] = field(default_factory=Counter)  # how often each choice was made, distinct or not

    def __iter__(self) -> Iterator[State]:
        disk, marks, last = Disk(self.initial), 0, Event("m")
        for position, event in enumerate(self.events, 1):
            disk.do(event)
            marks += event.kind == "m"
            last = last if event.kind == "m" else event
            for label, kept in _choices(disk.pending, event, self.subsets, random.Random(f"{self.seed} {position}")):
                files, digest = disk.files(kept)
                self.kept[label] += 1
                moment = Moment(position, last, marks, label)
                if digest not in self.last:
                    yield State(files, digest, moment)
                self.last[digest] = moment

    def files_of(self, digest: bytes) -> Files:
        """A state given earlier, made again."""
        again = CrashStates(self.events, self.initial, self.subsets, self.seed)
        return next(state.files for state in again if state.digest == digest)


def _choices(pending: list[Change], event: Event, subsets: int, random_: random.Random) -> Iterator[tuple[str, list[Change]]]:
    """Which of the unsynced changes are kept."""
    yield "all kept", pending
    if not pending:
        return
    yield "unsynced lost", []
    yield "only names", [change for change in pending if isinstance(change, Names)]
    yield "only data", [change for change in pending if isinstance(change, Data)]
    homes = [change.node if isinstance(change, Data) else frozenset(change.folders) for change in pending]
    for home in dict.fromkeys(homes):
        yield "one file lost", [change for change, its in zip(pending, homes, strict=True) if its != home]
        yield "one file kept", [change for change, its in zip(pending, homes, strict=True) if its == home]
    for one in random_.sample(pending, min(subsets, len(pending))):
        yield "one change lost", [change for change in pending if change is not one]
        yield "one change kept", [one]
    for _ in range(subsets if len(pending) > 2 else 0):
        yield "a random subset", [change for change in pending if random_.random() < 0.5]
    last = pending[-1]
    if event.kind == "w" and isinstance(last, Data) and last.kind == "w" and last.data == event.data:
        for how, parts in last.torn():
            yield how, [*pending[:-1], *parts]
            yield f"{how}, unsynced lost", list(parts)
            yield f"{how}, names kept", [*(change for change in pending if isinstance(change, Names)), *parts]
