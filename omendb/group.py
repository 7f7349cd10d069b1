"""Group commit: writes that wait together become one change, hence one transaction, and each still succeeds or fails alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .changes import Change
from .db import DB
from .generation import Generation
from .ids import Key, as_key_array, as_list


@dataclass(eq=False)
class Write:
    """rows that it brings, the ids as they were given, and the change that it makes of a generation; act: for what cannot be
    joined, all that it does.

    Afterwards: what it gives back, or the error that it ended with.
    """

    rows: int = 0
    ids: Any = None
    judge: Callable[[Generation], Change] | None = None
    act: Callable[[], Any] | None = None
    answer: Any = None
    error: Exception | None = None


def add(vectors: Any, ids: Any, metadata: Any, rows: int) -> Write:
    """As `DB.add_batch`."""
    return Write(rows, ids, lambda now: now.adding(now.judge_vectors(vectors), ids, metadata))


def upsert(vectors: Any, ids: Any, metadata: Any, rows: int) -> Write:
    """As `DB.upsert`."""
    return Write(rows, ids, lambda now: now.upserting(now.judge_vectors(vectors), ids, metadata))


def commit(db: DB, writes: Iterable[Write], ended: Callable[[Write], None]) -> None:
    """Do the writes, in order; `ended` is told of each when it is durable or has failed, in this order too.

    The database goes through the states that the writes one by one would have taken it to, but for those in the middle of a
    group, which nobody sees. What fails for itself is left out of its group; where a transaction fails, all of it do.
    """
    rest = deque(writes)
    while rest:
        for write in [_alone(rest)] if rest[0].judge is None else _together(db, rest):
            ended(write)


def _alone(rest: deque[Write]) -> Write:
    write = rest.popleft()
    assert write.act is not None
    try:
        write.answer = write.act()
    except Exception as error:  # noqa: BLE001  it belongs to whoever asked for the write
        write.error = error
    return write


def _together(db: DB, rest: deque[Write]) -> list[Write]:
    """Take from the front what one transaction can do; gives the writes that were taken, all ended."""
    taken: list[Write] = []
    group: list[tuple[Write, Change]] = []
    try:
        with db._writing() as now:
            _gather(now, rest, taken, group)
            if group:
                joined = Change.joined([change for _, change in group])
                db._commit(now, joined)
                _answer(group, joined)
    except Exception as error:  # noqa: BLE001  it belongs to whoever asked for the writes
        if not taken:
            taken.append(rest.popleft())
            taken[0].error = error
        for write, _ in group:
            write.error = error
    return taken


def _gather(now: Generation, rest: deque[Write], taken: list[Write], group: list[tuple[Write, Change]]) -> None:
    """Move to `taken` what can be judged by `now` although the group comes before it, and to the group what is well."""
    known: set[Key] = set()
    while rest and (judge := rest[0].judge) is not None:
        if group and now.id_kind is None:
            return  # the first rows fix what is still open
        try:
            change = judge(now)
        except Exception as error:  # noqa: BLE001
            if not known.isdisjoint(_named(rest[0].ids)):
                return  # which of its faults is told depends on ids that the group brings: it is judged behind it
            rest[0].error = error
            taken.append(rest.popleft())
            continue
        keys = [] if change.kind == "row" else as_list(change.keys)
        if group and (change.verb != group[0][1].verb or not known.isdisjoint(keys)):
            return
        known.update(keys)
        taken.append(rest.popleft())
        group.append((taken[-1], change))


def _named(ids: Any) -> set[Key]:
    """Those of the ids, which nobody has judged, that could be ids."""
    found = ids if isinstance(ids, (list, tuple)) else as_list(ids) if isinstance(ids, np.ndarray) and ids.ndim == 1 else [ids]
    return {key for key in found if isinstance(key, (str, int))}


def _answer(group: list[tuple[Write, Change]], joined: Change) -> None:
    keys, start = as_key_array(joined.keys), 0
    for write, change in group:
        write.answer = keys[start : start + len(change)].copy()
        start += len(change)
