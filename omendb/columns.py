"""Columns that only grow: each `append` gives the next column, and all earlier ones stay valid for their readers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PIECE = 4 << 20  # bytes


@dataclass(frozen=True)
class Stream:
    """An array that is made piece by piece, each time it is written: for what would not fit into memory a second time."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    pieces: Callable[[], Iterator[NDArray[Any]]]

    @classmethod
    def taking(cls, array: NDArray[Any], rows: NDArray[np.int64]) -> Stream:
        """The chosen rows of an array, in the order given."""
        step = max(1, _PIECE * len(array) // max(1, array.nbytes))
        starts = range(0, len(rows), step)
        return cls(array.dtype, (len(rows), *array.shape[1:]), lambda: (array[rows[i : i + step]] for i in starts))


class _Buffer:
    """Room shared by the columns of one history; `used` tells whose turn it is to append."""

    def __init__(self, data: NDArray[Any]) -> None:
        self.data = data
        self.used = len(data)


class Column:
    """The first `length` values of a buffer. One writer at a time may append; readers need no lock."""

    def __init__(self, buffer: _Buffer, length: int) -> None:
        self._buffer = buffer
        self._length = length

    @classmethod
    def of(cls, values: NDArray[Any]) -> Column:
        """A column of these values, which are kept and never written to."""
        return cls(_Buffer(values), len(values))

    def __len__(self) -> int:
        return self._length

    @property
    def values(self) -> NDArray[Any]:
        return self._buffer.data[: self._length]

    def append(self, values: NDArray[Any]) -> Column:
        """These values, then the new ones; copies the column only when its buffer is full, by half as much again."""
        if len(values) == 0:
            return self  # also: a full buffer may be read-only, mapped from a file
        buffer, total = self._buffer, self._length + len(values)
        if buffer.used != self._length or total > len(buffer.data):
            data = np.empty(max(total, self._length + self._length // 2), buffer.data.dtype)
            data[: self._length] = self.values
            buffer = _Buffer(data)
        buffer.data[self._length : total] = values
        buffer.used = total
        return Column(buffer, total)


class Texts:
    """n byte strings: one uint8 column of all of them, and n + 1 int64 offsets into it."""

    def __init__(self, blob: Column, offsets: Column) -> None:
        self._blob = blob
        self._offsets = offsets

    @classmethod
    def of(cls, texts: Iterable[bytes]) -> Texts:
        """A column of these byte strings."""
        nothing = Column.of(np.empty(0, np.uint8))
        return cls(nothing, Column.of(np.zeros(1, np.int64))).append(texts)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> bytes:
        begin, end = self._offsets.values[row : row + 2].tolist()
        return self._blob.values[begin:end].tobytes()

    @property
    def nbytes(self) -> int:
        return int(self._blob.values.nbytes + self._offsets.values.nbytes)

    def append(self, texts: Iterable[bytes]) -> Texts:
        """These byte strings, then the new ones."""
        parts = list(texts)
        ends = len(self._blob) + np.cumsum([len(part) for part in parts], dtype=np.int64)
        blob = self._blob.append(np.frombuffer(b"".join(parts), np.uint8))
        return Texts(blob, self._offsets.append(ends))

    def take(self, rows: NDArray[np.int64]) -> Texts:
        """The byte strings of the chosen rows, ascending."""
        parts = self.streams(rows)
        blob = np.concatenate([np.empty(0, np.uint8), *parts["bytes"].pieces()])
        return Texts(Column.of(blob), Column.of(next(parts["offsets"].pieces())))

    def streams(self, rows: NDArray[np.int64]) -> dict[str, Stream]:
        """What `restore` needs of the chosen rows, ascending."""
        blob, offsets = self._blob.values, self._offsets.values
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(offsets[rows + 1] - offsets[rows])])
        firsts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)  # of runs of neighbours, whose bytes lie together
        lasts = np.append(firsts[1:], len(rows))[: len(firsts)] - 1
        runs = list(zip(offsets[rows[firsts]].tolist(), offsets[rows[lasts] + 1].tolist(), strict=True))
        return {
            "bytes": Stream(blob.dtype, (int(ends[-1]),), lambda: (blob[begin:end] for begin, end in runs)),
            "offsets": Stream(ends.dtype, ends.shape, lambda: iter([ends])),
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What `restore` needs."""
        return {"bytes": self._blob.values, "offsets": self._offsets.values}

    @classmethod
    def restore(cls, blob: NDArray[Any], offsets: NDArray[Any], rows: int) -> Texts:
        """The column that `arrays` described; the arrays are used in place. ValueError where they do not fit together."""
        if blob.dtype != np.uint8 or blob.ndim != 1 or offsets.dtype != np.int64 or offsets.shape != (rows + 1,):
            raise ValueError("texts of the wrong dtype or shape")
        if offsets[0] != 0 or offsets[-1] != len(blob) or (offsets[1:] < offsets[:-1]).any():
            raise ValueError("texts whose offsets do not cover their bytes in order")
        return cls(Column.of(blob), Column.of(offsets))
