"""The errors of omendb: one tree under `OmenError`.

    OmenError
      InvalidInput (ValueError)        an argument cannot be served: .argument, .got, .wanted
        WrongShape, WrongDtype (TypeError), NotFinite, ValueTooLarge, ZeroVector
        InvalidParameter               UnknownMetric, UnknownBackend
        InvalidIds                     DuplicateId
        InvalidMetadata, BatchTooSmall
      UnknownId (KeyError)             no row has this id
      StorageError                     NotFound (FileNotFoundError), AlreadyExists (FileExistsError)
        CorruptFile                    NotAnIndex
        NewerFormat
        Locked, ReadOnly               the folder is another writer's; this handle, or this folder, only reads
        StorageFull                    no room: nothing has changed, the handle goes on
        StorageFailed                  the disk failed: the handle only reads from here on
      Closed                           the database was used after close()
      MissingLibrary (ImportError)     an optional library is not installed; the message holds the command
      OutOfDeviceMemory (MemoryError)  an op needs more memory than the GPU has left

Whatever raises one of these has changed nothing: not the database, not a file.
"""

from __future__ import annotations

from omendb_kernels import (
    InvalidInput,
    InvalidParameter,
    NotFinite,
    OmenError,
    OutOfDeviceMemory,
    UnknownBackend,
    UnknownMetric,
    ValueTooLarge,
    WrongDtype,
    WrongShape,
    ZeroVector,
)

__all__ = [
    "AlreadyExists",
    "BatchTooSmall",
    "Closed",
    "CorruptFile",
    "DuplicateId",
    "InvalidIds",
    "InvalidInput",
    "InvalidMetadata",
    "InvalidParameter",
    "Locked",
    "MissingLibrary",
    "NewerFormat",
    "NotAnIndex",
    "NotFinite",
    "NotFound",
    "OmenError",
    "OutOfDeviceMemory",
    "ReadOnly",
    "StorageError",
    "StorageFailed",
    "StorageFull",
    "UnknownBackend",
    "UnknownId",
    "UnknownMetric",
    "ValueTooLarge",
    "WrongDtype",
    "WrongShape",
    "ZeroVector",
]


class InvalidIds(InvalidInput):
    """Ids of the wrong length, of mixed or foreign kind, negative, empty, bool, or given twice."""


class DuplicateId(InvalidIds):
    """An id twice in one batch, or an id that the index already holds."""


class InvalidMetadata(InvalidInput):
    """Not one JSON object or None per row."""


class BatchTooSmall(InvalidInput):
    """Fewer rows than the bulk call is made for; `add_batch` takes any number."""


class UnknownId(OmenError, KeyError):
    """No row of the index has this id."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # KeyError would print the message in quotes


class StorageError(OmenError):
    """A file could not be written or read; the message holds the operating system's reason."""


class NotFound(StorageError, FileNotFoundError):
    """No such file, or no such folder to save into."""


class AlreadyExists(StorageError, FileExistsError):
    """The path is taken and `overwrite=True` was not given."""


class CorruptFile(StorageError):
    """The file is truncated, damaged, or says things that cannot be true."""


class NotAnIndex(CorruptFile):
    """The file does not begin as an omendb index does."""


class NewerFormat(StorageError):
    """The file was written by a newer omendb; the message names both format versions."""


class Locked(StorageError):
    """The folder is open for writing elsewhere; the message holds the process id."""


class ReadOnly(StorageError):
    """A write to a database that was opened for reading, or a folder that would have to be written to first."""


class StorageFull(StorageError):
    """The disk is full. Nothing has changed; once there is room, the same handle can go on."""


class StorageFailed(StorageError):
    """Writing or syncing failed, so nothing is known of what the disk holds beyond what was acknowledged before.

    The handle serves what was acknowledged and refuses to write from here on. Open the folder anew when the disk is well.
    """


class MissingLibrary(OmenError, ImportError):
    """Something was asked for that an optional library does, and it cannot be imported."""


class Closed(OmenError):
    """The database was used after close(), or in a forked child of the process that opened it."""
