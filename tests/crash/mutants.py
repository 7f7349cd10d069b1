"""Mistakes that a store could make with its syncs, made on purpose inside a recorded child: the check has to find each."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def full_is_normal() -> None:
    """Commits are not synced, though durability="full" was asked for."""
    from omendb.journal import Journal

    real = Journal._prepare
    Journal._prepare = lambda self, write, durable: real(self, write, False)  # type: ignore[method-assign]


def named_without_full() -> None:
    """With durability="normal", the transaction that names a snapshot is not synced either, but the old one is deleted."""
    from omendb.journal import Journal

    real = Journal._transaction
    Journal._transaction = lambda self, after, _: real(self, after, self._synchronous)  # type: ignore[method-assign]


def old_snapshot_first() -> None:
    """The snapshot in force is deleted before the next one is."""
    from omendb import snapshot

    real = snapshot.write

    def write(path: Path, *arguments: Any, **options: Any) -> None:
        for old in path.parent.glob("snapshot-*.omen"):
            old.unlink()
        real(path, *arguments, **options)

    snapshot.write = write


MUTANTS = {mutant.__name__: mutant for mutant in (full_is_normal, named_without_full, old_snapshot_first)}
