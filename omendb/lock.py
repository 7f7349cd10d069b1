"""The writer's lock of a folder: held on an open file, so that the system frees it when the process dies, however it dies."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import weakref
from pathlib import Path

from .errors import Locked, ReadOnly, StorageError

_HELD: weakref.WeakSet[Lock] = weakref.WeakSet()
_PLACE = 1 << 20  # of the locked byte on Windows, where what is locked cannot be read: far behind the process id


class Lock:
    """Made by the one writer of a folder; the file holds its process id, and a word on how it writes.

    before: what the file held, of a writer that died. Raises Locked, ReadOnly, StorageError.
    """

    def __init__(self, path: Path, word: str = "") -> None:
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        except OSError as error:
            kind = ReadOnly if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else StorageError
            raise kind(f"cannot write to {path.parent}: {error.strerror}; mode='r' reads it") from error
        try:
            _lock(self._file)
        except BlockingIOError:
            holder = os.read(self._file, 40).decode("ascii", "replace").partition(" ")[0]
            os.close(self._file)
            who = f"process {holder}" if holder.isdigit() else "another process"
            raise Locked(f"{path.parent} is open for writing in {who}; mode='r' reads beside it") from None
        except OSError as error:
            os.close(self._file)
            raise StorageError(f"cannot lock {path}: {error.strerror}") from error
        _HELD.add(self)
        self.before = ""
        with contextlib.suppress(OSError):  # no room for the number: the lock holds without it
            self.before = os.read(self._file, 40).decode("ascii", "replace")
            os.lseek(self._file, 0, os.SEEK_SET)
            os.ftruncate(self._file, 0)
            os.write(self._file, f"{os.getpid()} {word}".encode())
            os.fsync(self._file)

    def release(self) -> None:
        """Let the next writer in. Twice is no error."""
        if self in _HELD:
            _HELD.discard(self)
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
            _unlock(self._file)  # closing alone would leave it to a forked child that has not begun to run
            os.close(self._file)


def _lock(file: int) -> None:
    """Raises BlockingIOError where another holds it, OSError where this file system has no locks."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(file, _PLACE, os.SEEK_SET)
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError from error
        finally:
            os.lseek(file, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _unlock(file: int) -> None:
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_UN)


def _let_go() -> None:
    """In a forked child: it has a share in the lock, which would outlive the parent."""
    for lock in list(_HELD):
        _HELD.discard(lock)
        os.close(lock._file)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
