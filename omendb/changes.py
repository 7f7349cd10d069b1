"""Change: one write as it was judged, ready to be applied to a generation, and as facts and arrays for a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from omendb_kernels import PointSet, Rows, as_vectors

from .columns import Texts
from .errors import OmenError
from .ids import IdKind, Ids, Keys
from .snapshot import Arrays, Facts, under

Verb = Literal["add", "upsert", "delete"]


@dataclass(frozen=True)
class Change:
    """keys: the ids of all its rows, running numbers included, each once. rows and texts (JSON, b"" for none; None: no row
    has metadata): of the rows that come, None where rows go.
    """

    verb: Verb
    kind: IdKind
    keys: Keys
    rows: Rows | None = None
    texts: list[bytes] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def nbytes(self) -> int:
        """About the bytes that `state` takes."""
        keys = 16 * len(self.keys) if not isinstance(self.keys, list) else sum(map(len, self.keys))
        return keys + (0 if self.rows is None else self.rows.data.nbytes) + sum(map(len, self.texts or ()))

    @staticmethod
    def joined(changes: Sequence[Change]) -> Change:
        """One change that does what these of one verb and kind do, whose ids are all different; running numbers run on."""
        first, total = changes[0], sum(map(len, changes))
        if len(changes) == 1:
            return first
        keys: Keys
        if first.kind == "str":
            keys = [str(key) for change in changes for key in change.keys]
        elif first.kind == "row" and total:
            start = next(int(change.keys[0]) for change in changes if len(change))
            keys = np.arange(start, start + total, dtype=np.int64)
        else:
            keys = np.concatenate([change.keys for change in changes])
        rows = [change.rows for change in changes if change.rows is not None]
        data = Rows(np.concatenate([part.data for part in rows]), rows[0].kind, ours=True)
        texts = [text for change in changes for text in change.texts or [b""] * len(change)]
        return Change(first.verb, first.kind, keys, data, texts if any(texts) else None)

    def state(self, metric: str) -> tuple[Facts, Arrays]:
        """JSON facts and named arrays, all that `restore` needs. metric: that the rows were judged for."""
        facts: Facts = {"change": self.verb, "metric": metric, "ids": self.kind, "rows": len(self.keys)}
        arrays: Arrays = {f"ids.{name}": array for name, array in Ids.of(self.kind, self.keys).arrays().items()}
        if self.rows is not None:
            facts["dtype"] = self.rows.kind
            arrays["vectors"] = self.rows.data
        if self.texts is not None:
            arrays |= {f"metadata.{name}": array for name, array in Texts.of(self.texts).arrays().items()}
        return facts, arrays

    @classmethod
    def restore(cls, facts: Facts, arrays: Arrays) -> Change:
        """The change that `state` described, judged as if a user brought it. ValueError where it cannot be true."""
        try:
            return cls._restore(facts, arrays)
        except (KeyError, TypeError, IndexError, OverflowError, OmenError) as error:
            raise ValueError(f"not a change: {error!r}") from error

    @classmethod
    def _restore(cls, facts: Facts, arrays: Arrays) -> Change:
        verb, metric, kind, n = facts["change"], facts["metric"], facts["ids"], facts["rows"]
        if verb not in get_args(Verb) or kind not in get_args(IdKind) or type(n) is not int or n < 0:
            raise ValueError("an unknown kind of change")
        ids = Ids.restore(kind, under("ids.", arrays), n, 2**62)
        taken = ids.take_keys(np.arange(n))
        keys: Keys = taken.tolist() if kind == "str" else taken
        if verb == "delete":
            return cls(verb, kind, keys)
        vectors = Rows(arrays["vectors"], facts["dtype"])
        if vectors.data.ndim != 2 or len(vectors) != n:
            raise ValueError("as many vectors as ids are wanted")
        rows = judged(vectors, metric)
        texts = under("metadata.", arrays)
        column = Texts.restore(texts["bytes"], texts["offsets"], n) if texts else None
        return cls(verb, kind, keys, rows, None if column is None else [column[row] for row in range(n)])


def judged(rows: Rows, metric: str) -> Rows:
    """Rows that were read, as if a user brought them. Raises what `as_vectors` raises, ValueError for a foreign dtype."""
    if rows.data.dtype != PointSet.empty(1, metric, rows.kind).vectors.data.dtype:
        raise ValueError(f"{rows.data.dtype} that are called {rows.kind}")
    if rows.kind != "bfloat16":
        return as_vectors(rows.data, metric=metric, dtype=rows.kind)
    as_vectors(rows.float32(), metric=metric)
    return rows
