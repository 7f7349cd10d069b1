"""omendb: an embedded vector database with exact, certified search and the same answer on every machine.

    import omendb

    db = omendb.DB.build_from_numpy(vectors, ids=words)     # (n, d): float32, float16, bfloat16, int8, uint8, lists
    for word, distance in db.search(vectors[0], k=5):
        ...
    db.save("words.omen")
    db = omendb.DB.load("words.omen")                       # mapped: instant, shared by processes

How it is made, from the outside in:

    aio          the public class for asyncio; group joins writes that wait into one transaction
    db           the public class: locks, calls, files
    reader       what it answers
    handle       the generation in force, the writers' turns, the folder behind
    background   graphs made beside the writes
    store        the durable folder: snapshots, and the one writer
    journal      changes in SQLite, and the name of the snapshot in force: the one commit point
    check, mend  verify and repair
    arrays       judges ids, metadata and paths (vectors are judged by omendb_kernels)
    generation   all rows at one moment, immutable; a write makes the next one and swaps it in
    ids, columns the user's names for rows; columns that grow without disturbing their readers
    snapshot     one sealed safetensors file of named arrays; knows no metric and no index
    publish      files that appear whole or not at all
    errors       one tree under OmenError

Distances and neighbours come from omendb_kernels, which knows nothing of the database.
"""

from __future__ import annotations

import logging
import typing

from .db import DB
from .errors import (
    AlreadyExists,
    BatchTooSmall,
    Closed,
    CorruptFile,
    DuplicateId,
    InvalidIds,
    InvalidInput,
    InvalidMetadata,
    InvalidParameter,
    Locked,
    MissingLibrary,
    NewerFormat,
    NotAnIndex,
    NotFinite,
    NotFound,
    OmenError,
    OutOfDeviceMemory,
    ReadOnly,
    StorageError,
    StorageFailed,
    StorageFull,
    UnknownBackend,
    UnknownId,
    UnknownMetric,
    ValueTooLarge,
    WrongDtype,
    WrongShape,
    ZeroVector,
)
from .results import BuildReport, Record, RepairReport, SearchResults, Stats, VerifyReport
from .snapshot import FORMAT_VERSION

if typing.TYPE_CHECKING:
    from .aio import AsyncDB

__version__ = "0.1.0"

__all__ = [
    "DB",
    "FORMAT_VERSION",
    "AlreadyExists",
    "AsyncDB",
    "BatchTooSmall",
    "BuildReport",
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
    "Record",
    "RepairReport",
    "SearchResults",
    "Stats",
    "StorageError",
    "StorageFailed",
    "StorageFull",
    "UnknownBackend",
    "UnknownId",
    "UnknownMetric",
    "ValueTooLarge",
    "VerifyReport",
    "WrongDtype",
    "WrongShape",
    "ZeroVector",
]

logging.getLogger("omendb").addHandler(logging.NullHandler())


def __getattr__(name: str) -> typing.Any:
    """AsyncDB, only when it is asked for: programs without it need not load asyncio."""
    if name == "AsyncDB":
        from .aio import AsyncDB

        return AsyncDB
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), "AsyncDB"]
