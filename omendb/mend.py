"""repair: what still verifies of a damaged file or folder, copied to a new place. A row is saved whole or counted as lost."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omendb_kernels import Rows

from . import snapshot, store
from .changes import Change, judged
from .errors import CorruptFile, NewerFormat, NotFound, OmenError, ReadOnly, StorageError
from .generation import Generation
from .ids import Keys, as_list
from .journal import Journal
from .lock import Lock
from .publish import check_target
from .results import RepairReport
from .snapshot import BLOCK, Snapshot

Flags = NDArray[np.bool_]


class _Salvage:
    """What was saved so far, and what was lost."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.generation: Generation | None = None
        self.problems: list[str] = []
        self.lost_rows = self.lost_changes = 0

    def report(self) -> RepairReport:
        rows = 0 if self.generation is None else len(self.generation)
        return RepairReport(rows, self.lost_rows, self.lost_changes, tuple(self.problems))


def repair(path: Path, into: Path, *, threads: int) -> RepairReport:
    """See `DB.repair`."""
    salvage = _Salvage(threads)
    if not path.exists():
        raise NotFound(f"no file or folder {path}")
    if not path.is_dir():
        check_target(into, overwrite=False)
        _save_snapshot(path, salvage)
        generation = _saved(path, salvage)
        snapshot.write(into, *generation.state(threads=threads), overwrite=False)
        return salvage.report()
    with contextlib.ExitStack() as held:
        with contextlib.suppress(ReadOnly):  # read-only media: then nobody writes
            held.callback(Lock(path / store.LOCK).release)
        _save_folder(path, salvage)
        store.create(into, _saved(path, salvage), threads=threads)
    return salvage.report()


def _saved(path: Path, salvage: _Salvage) -> Generation:
    if salvage.generation is None:
        raise CorruptFile(f"nothing of {path} verifies: {'; '.join(salvage.problems)}")
    return salvage.generation


# --- a snapshot --------------------------------------------------------------------------------------------------


def _save_snapshot(path: Path, salvage: _Salvage) -> int | None:
    """Its number in the folder, where it has one; None where its header or its seal is damaged: then nothing is sure."""
    try:
        file = Snapshot.open(path)
    except NewerFormat:
        raise
    except StorageError as error:
        salvage.problems.append(str(error))
        return None
    bad = list(file.damaged())
    salvage.problems += [f"{path}: block {number} has changed" for number in bad]
    try:
        whole = not bad
        salvage.generation = Generation.restore(file.facts, file.arrays) if whole else _intact(file, bad, salvage)
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, OmenError) as error:
        salvage.problems.append(f"{path} contradicts itself: {error}")
        return None
    number = file.facts.get("sequence", 0)
    return number if type(number) is int else 0


def _intact(file: Snapshot, bad: list[int], salvage: _Salvage) -> Generation:
    """The rows of a file of which every byte lies in a sound block, coded anew and without a graph."""
    facts, arrays = file.facts, file.arrays
    empty = Generation.restore({**facts, "rows": 0}, {})
    n = facts["rows"]
    vectors = arrays["points.vectors"]
    good = _sound(file, bad, vectors, n)
    if facts["ids"] == "str":
        names, kept = _texts(file, bad, "ids", n)
        good &= kept
    else:
        names, numbers = [], arrays["ids.numbers"]
        good &= _sound(file, bad, numbers, n)
    texts: list[bytes] = []
    if "metadata.bytes" in arrays:
        texts, kept = _texts(file, bad, "metadata", n)
        good &= kept
    rows = np.flatnonzero(good)
    salvage.lost_rows += n - len(rows)
    if "graph" in facts:
        salvage.problems.append(f"{file.path}: the graph is left out; build_index makes it anew")
    if len(rows) == 0:
        return empty
    keys: Keys = [names[row].decode() for row in rows.tolist()] if facts["ids"] == "str" else numbers[rows]
    some = judged(Rows(vectors[rows], facts["dtype"]), facts["metric"])
    change = Change("add", facts["ids"], keys, some, [texts[row] for row in rows.tolist()] if any(texts) else None)
    if len(set(as_list(keys))) != len(keys):
        raise ValueError("an id occurs twice")
    made = empty.applied(change, threads=salvage.threads, whole=True)
    return replace(made, next_row=empty.next_row)


def _sound(file: Snapshot, bad: list[int], array: NDArray[Any], n: int) -> Flags:
    """bool (n,): the rows of an array that no bad block touches."""
    if len(array) < n:
        raise ValueError("an array is too short")
    start, size = file.place(array), array.nbytes // max(1, len(array))
    good = np.ones(len(array), np.bool_)
    for number in bad:
        first = (number * BLOCK - start) // size
        last = ((number + 1) * BLOCK - 1 - start) // size
        good[max(0, first) : max(0, last + 1)] = False
    return good


def _texts(file: Snapshot, bad: list[int], name: str, n: int) -> tuple[list[bytes], Flags]:
    """The byte strings of a column, and which of them are sound: both their offsets and all their bytes."""
    blob, offsets = file.arrays[f"{name}.bytes"], file.arrays[f"{name}.offsets"]
    known = _sound(file, bad, offsets, n + 1)
    good = known[:-1] & known[1:]
    broken = np.flatnonzero(~_sound(file, bad, blob, 0)) if len(blob) else np.empty(0, np.int64)
    begins, ends = offsets[:-1], offsets[1:]
    good &= (begins >= 0) & (begins <= ends) & (ends <= len(blob))
    good &= np.searchsorted(broken, begins) == np.searchsorted(broken, ends)  # no broken byte in between
    return [blob[b:e].tobytes() if g else b"" for b, e, g in zip(begins, ends, good, strict=True)], good


# --- a folder ----------------------------------------------------------------------------------------------------


def _save_folder(folder: Path, salvage: _Salvage) -> None:
    state, changes, base = None, [], None
    salvage.problems += store.broken_log(folder)
    with contextlib.ExitStack() as held:
        journal = None
        try:
            journal = held.enter_context(contextlib.closing(Journal.open(folder, write=False)))
            salvage.problems += [f"{journal.path}: {line}" for line in journal.problems()]
            state = journal.state()
        except NewerFormat:
            raise
        except StorageError as error:
            salvage.problems.append(str(error))
        files = sorted(folder.glob("snapshot-*.omen"), reverse=True)
        files.sort(key=lambda file: state is None or file.name != state.snapshot)  # the one in force first, else the latest
        for file in files:
            base = _save_snapshot(file, salvage)
            if base is not None:
                break
        else:
            salvage.problems.append("no snapshot can be read: only what the journal tells is saved")
        if journal is not None:
            changes = journal.salvage(salvage.problems, base, 0 if state is None else state.last)
    for content in changes:
        if content is None:
            salvage.lost_changes += 1
            salvage.problems.append("changes are lost in the journal")
        else:
            _save_change(content, salvage, folder)


def _save_change(content: bytes, salvage: _Salvage, folder: Path) -> None:
    """Apply a change as far as it still fits: what was lost before it may have been what it stands on."""
    try:
        file = Snapshot.parse(content, folder)
        file.verify()
        change = Change.restore(file.facts, file.arrays)
        now = salvage.generation or Generation(file.facts["metric"])
        if change.verb == "delete":
            known = now.find(change.keys)
            change = now.deleting_rows(known[known >= 0])
        elif change.kind != "row":
            change = replace(change, verb="upsert")
        salvage.generation = now.applied(change, threads=salvage.threads)
    except (ValueError, OmenError) as error:
        salvage.lost_changes += 1
        salvage.problems.append(f"a change does not fit: {error}")
