"""Source: a foreign file that is read. Every size is compared with what is left of the file before it is used, nothing is
copied, and nothing in it is executed."""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptFile, InvalidInput, NotFound, StorageError

MAX_ROWS = 2**31 - 1


class Source:
    """The mapped bytes of a file and a place in them; what it gives are views, which keep the file mapped."""

    def __init__(self, path: Path) -> None:
        """Raises NotFound, CorruptFile for no file or an empty one, StorageError."""
        self.path, self.place = path, 0
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for its writer
                raise CorruptFile(f"{path} is not a file")
            with open(path, "rb") as file:
                if not os.fstat(file.fileno()).st_size:
                    raise CorruptFile(f"{path} is empty")
                self.data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        except StorageError:
            raise
        except FileNotFoundError as error:
            raise NotFound(f"no file {path}") from error
        except (OSError, ValueError) as error:  # ValueError: it shrank before it was mapped
            raise StorageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error

    @property
    def left(self) -> int:
        """Bytes behind the place."""
        return len(self.data) - self.place

    def damaged(self, why: str) -> CorruptFile:
        """The error to raise."""
        return CorruptFile(f"{self.path} is damaged: {why}")

    def array(self, dtype: Any, count: int, what: str) -> NDArray[Any]:
        """The next `count` values. Raises CorruptFile where the file is shorter."""
        kind = np.dtype(dtype)
        nbytes = count * kind.itemsize  # Python's integers do not overflow
        if not 0 <= nbytes <= self.left:
            raise self.damaged(f"{count} {what} of {kind.itemsize} bytes where {self.left} bytes are left")
        self.place += nbytes
        return self.data[self.place - nbytes : self.place].view(kind)

    def number(self, dtype: str, what: str) -> int:
        """The next integer."""
        return int(self.array(dtype, 1, what)[0])

    def end(self) -> None:
        """Raises CorruptFile unless all was read."""
        if self.left:
            raise self.damaged(f"{self.left} bytes behind its end")


Rows = NDArray[np.float32]
Ids = NDArray[np.int64]


def numbered(source: Source, rows: Rows, ids: NDArray[Any]) -> tuple[Rows, Ids | None]:
    """The rows and the ids that they are to have, None where these are 0, 1, ..., n-1: the rows are then put in this order.

    That is how hnswlib and FAISS number rows when nobody gives ids. Raises InvalidInput for ids that no database has.
    """
    if not len(rows):
        raise InvalidInput("path", f"{source.path}, a file without rows", "at least one row")
    if int(ids.min()) < 0 or int(ids.max()) >= 2**63:
        raise InvalidInput("path", f"{source.path}, with ids from {ids.min()} to {ids.max()}", "ids from 0 to 2^63 - 1")
    order = np.argsort(ids, kind="stable")
    ordered = ids[order].astype(np.int64)
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(twice):
        raise InvalidInput("path", f"{source.path}, with the id {ordered[twice[0]]} twice", "every id once")
    if int(ordered[-1]) == len(rows) - 1:
        return (rows if np.array_equal(ids, ordered) else rows[order]), None
    return rows, ids.astype(np.int64)
