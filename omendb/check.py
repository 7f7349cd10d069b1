"""verify: whether a file or a folder holds what was written to it, read by fresh eyes and changed nowhere."""

from __future__ import annotations

import contextlib
from pathlib import Path

from . import store
from .errors import StorageError
from .generation import Generation
from .journal import Journal
from .results import VerifyReport
from .snapshot import Snapshot


def verify(path: Path, *, full: bool, threads: int, known: tuple[str, ...] = ()) -> VerifyReport:
    """See `DB.verify`. Whatever cannot be read is a problem; nothing is raised for it. known: problems found before."""
    problems = list(known)
    rows = changes = nbytes = 0
    try:
        if store.is_folder(path):
            read = store.read(path, verify=False, threads=threads)
            problems += read.broken
            file, generation, changes = read.file, read.generation, read.state.last - read.state.base
        else:
            file = Snapshot.open(path)
            generation = _restored(file)
        rows = len(generation)
        if full:
            nbytes = file.nbytes
            problems += [f"{file.path}: block {number} has changed" for number in file.damaged()]
    except (StorageError, ValueError) as error:
        problems.append(str(error))
    if store.is_folder(path):
        try:
            with contextlib.closing(Journal.open(path, write=False)) as journal:
                nbytes += journal.size()
                if full:
                    problems += [f"{journal.path}: {line}" for line in journal.problems()]
        except StorageError as error:
            problems.append(str(error))
    return VerifyReport(tuple(dict.fromkeys(problems)), rows, changes, nbytes)


def _restored(file: Snapshot) -> Generation:
    try:
        return Generation.restore(file.facts, file.arrays)
    except ValueError as error:
        raise ValueError(f"{file.path} is damaged: {error}") from error
