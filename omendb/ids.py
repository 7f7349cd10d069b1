"""Ids: the user's names for rows, and the way from an id to its row."""

from __future__ import annotations

import threading
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .columns import Column, Texts
from .errors import CorruptFile

IdKind = Literal["row", "int", "str"]  # running numbers given by the index, the user's integers, the user's strings
Key = int | str
Keys = NDArray[np.int64] | list[str]  # a batch of ids of one kind


class _Lookup:
    """The map id -> latest row of one history of `Ids`. Made on first need, so that loading a large file costs nothing.

    It is shared by all generations: it may know rows that an older one does not hold yet, or that a failed write was to add.
    `Ids.find` therefore checks what it finds, and goes back through the earlier rows of an id that was given again.
    """

    def __init__(self) -> None:
        self.rows: dict[Key, int] | None = None
        self.earlier: dict[Key, list[int]] = {}
        self.lock = threading.Lock()


class Ids:
    """The ids of n rows, in row order; `append` gives the next generation, this one stays as it is."""

    def __init__(self, kind: IdKind, column: Column | Texts, lookup: _Lookup | None = None) -> None:
        self.kind: IdKind = kind
        self._column = column
        self._lookup = lookup or _Lookup()

    @classmethod
    def of(cls, kind: IdKind, keys: Keys) -> Ids:
        """The ids of the first rows."""
        return cls(kind, Texts.of(key.encode() for key in keys) if isinstance(keys, list) else Column.of(keys))

    def __len__(self) -> int:
        return len(self._column)

    @property
    def nbytes(self) -> int:
        return self._column.nbytes if isinstance(self._column, Texts) else int(self._column.values.nbytes)

    def at(self, row: int) -> Key:
        """The id of one row."""
        if isinstance(self._column, Texts):
            return _text(self._column[row])
        return int(self._column.values[row])

    def take_keys(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """The ids of these rows, of the same shape: int64, or an object array of str."""
        if isinstance(self._column, Column):
            return np.asarray(self._column.values[rows])
        return as_key_array([_text(self._column[row]) for row in rows.ravel().tolist()]).reshape(rows.shape)

    def find(self, keys: Keys) -> NDArray[np.int64]:
        """The row of each id, the latest one if it was given again after a delete; -1 where there is none."""
        if self.kind == "row" and isinstance(self._column, Column):
            rows = np.searchsorted(self._column.values, keys)
            known = rows < len(self)
            known[known] = self._column.values[rows[known]] == np.asarray(keys)[known]
            return np.where(known, rows, -1)
        row_of = self._row_of()
        names = as_list(keys)
        rows = np.array([row_of.get(key, -1) for key in names], np.int64)
        for i in np.flatnonzero(rows >= 0).tolist():
            if not self._holds(names[i], int(rows[i])):
                earlier = reversed(self._lookup.earlier.get(names[i], []))
                rows[i] = next((row for row in earlier if self._holds(names[i], row)), -1)
        return rows

    def _holds(self, key: Key, row: int) -> bool:
        return row < len(self) and self.at(row) == key

    def _row_of(self) -> dict[Key, int]:
        with self._lookup.lock:
            if self._lookup.rows is None:
                keys = self.take_keys(np.arange(len(self))).tolist()
                self._lookup.rows = dict(zip(keys, range(len(keys)), strict=True))
            return self._lookup.rows

    def append(self, keys: Keys) -> Ids:
        """These ids, then the new ones."""
        if self.kind != "row":
            row_of, names = self._row_of(), as_list(keys)
            for key in names:
                if key in row_of:
                    self._lookup.earlier.setdefault(key, []).append(row_of[key])
            row_of.update(zip(names, range(len(self), len(self) + len(names)), strict=True))
        if isinstance(self._column, Texts):
            assert isinstance(keys, list)
            return Ids(self.kind, self._column.append(key.encode() for key in keys), self._lookup)
        assert not isinstance(keys, list)
        return Ids(self.kind, self._column.append(keys), self._lookup)

    def take(self, rows: NDArray[np.int64]) -> Ids:
        """The ids of the chosen rows only."""
        if isinstance(self._column, Texts):
            return Ids(self.kind, self._column.take(rows))
        return Ids(self.kind, Column.of(self._column.values[rows]))

    def apart(self) -> Ids:
        """The same ids as the beginning of a history of their own, to be written by another thread. Cost: O(rows)."""
        ids = Ids(self.kind, self._column)
        if self.kind != "row":
            ids._row_of()
        return ids

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What `restore` needs."""
        return self._column.arrays() if isinstance(self._column, Texts) else {"numbers": self._column.values}

    @classmethod
    def restore(cls, kind: IdKind, arrays: dict[str, NDArray[Any]], rows: int, next_row: int) -> Ids:
        """The ids that `arrays` described; the arrays are used in place. ValueError, KeyError where they cannot be true."""
        if kind == "str":
            return cls(kind, Texts.restore(arrays["bytes"], arrays["offsets"], rows))
        numbers = arrays["numbers"]
        if numbers.dtype != np.int64 or numbers.shape != (rows,):
            raise ValueError("ids of the wrong dtype or shape")
        if rows and int(numbers.min()) < 0:
            raise ValueError("negative ids")
        if kind == "row" and rows and ((numbers[1:] <= numbers[:-1]).any() or int(numbers[-1]) >= next_row):
            raise ValueError("row numbers out of order")
        return cls(kind, Column.of(numbers))


def _text(utf8: bytes) -> str:
    try:
        return utf8.decode()
    except UnicodeDecodeError as error:  # never from ids that were added: they were str
        raise CorruptFile(f"an id in the file is not UTF-8: {utf8[:40]!r}") from error


def as_list(keys: Keys) -> list[Any]:
    """Ids as a list of Python int or str."""
    return keys if isinstance(keys, list) else keys.tolist()


def as_key_array(keys: Keys) -> NDArray[Any]:
    """Ids as an array to hand to a user: int64, or objects of str."""
    if not isinstance(keys, list):
        return keys
    array = np.empty(len(keys), object)
    array[:] = keys
    return array
