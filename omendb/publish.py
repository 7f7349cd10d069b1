"""Files that appear whole or not at all: written aside, synced, named in one step, and the folder synced."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import AlreadyExists, NotFound, StorageError, StorageFull


@contextmanager
def published(target: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """A new file to write into; when the block ends it becomes `target`, durably. When the block raises, it vanishes.

    The file lies in the folder of `target` (only there is a rename one step). A process that is killed leaves it behind
    as `.omen-*.tmp`; `target` holds the old file then. Raises AlreadyExists without `overwrite`, NotFound for a missing
    folder, StorageError with the system's reason; when only the last sync fails the new file is there but may be lost in
    a power failure.
    """
    check_target(target, overwrite)
    aside = target.parent / f".omen-{secrets.token_hex(8)}.tmp"
    try:
        with open(aside, "xb") as file:
            yield file
            _sync(file)
        _name(aside, target, overwrite)
        sync_folder(target.parent)
    except StorageError:
        raise
    except OSError as error:
        kind = StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else StorageError
        raise kind(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def check_target(target: Path, overwrite: bool) -> None:
    """Refuse, before any work, what naming the file would refuse at the end. Raises NotFound, AlreadyExists."""
    if not os.path.isdir(target.parent):
        raise NotFound(f"cannot write {target}: no folder {target.parent}")
    if os.path.isdir(target):
        raise AlreadyExists(f"cannot write {target}: it is a folder")
    if not overwrite and os.path.lexists(target):
        raise AlreadyExists(f"{target} exists already; overwrite=True replaces it")


def _sync(file: BinaryIO) -> None:
    file.flush()
    if sys.platform == "darwin":  # fsync alone leaves the data in the drive's cache there
        import fcntl

        fcntl.fcntl(file.fileno(), fcntl.F_FULLFSYNC)
    else:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the new name durable; Windows has no such call."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _name(aside: Path, target: Path, overwrite: bool) -> None:
    if overwrite:
        os.replace(aside, target)
        return
    try:
        if sys.platform == "win32":
            os.rename(aside, target)  # refuses a taken name there
        else:
            _link(aside, target)
    except FileExistsError as error:
        raise AlreadyExists(f"{target} appeared while saving; overwrite=True replaces it") from error


def _link(aside: Path, target: Path) -> None:
    try:
        os.link(aside, target)  # unlike rename, refuses a taken name
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: the best that is left
        if os.path.lexists(target):
            raise FileExistsError(target) from None
        os.rename(aside, target)
    else:
        os.unlink(aside)
