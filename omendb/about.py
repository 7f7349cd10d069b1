"""What is installed here and what is in an index file, as plain JSON values: the facts behind `omendb info`."""

from __future__ import annotations

import dataclasses
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import omendb_kernels

from . import __version__
from .db import DB
from .snapshot import Snapshot

NAMESAKE = "omendb"  # a distribution of other people that installs into our import name


def installation() -> dict[str, Any]:
    """Version, machine and library facts, backends (None = usable, else the reason against), the namesake if installed."""
    return {
        "omendb": __version__,
        "location": str(Path(__file__).parent),
        "namesake": namesake(),
        **omendb_kernels.facts(),
        "backend": omendb_kernels.backend_name(),
        "backends": omendb_kernels.list_backends(),
    }


def namesake() -> str | None:
    """The version of the foreign distribution named `omendb`, None (as it should be) when it is not installed."""
    try:
        return metadata.version(NAMESAKE)
    except metadata.PackageNotFoundError:
        return None


def index_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The facts of one saved index. Raises what `DB.load` raises."""
    with DB.load(path) as db:
        assert db._file is not None
        return {**dataclasses.asdict(db.stats()), "parts": parts(db._file.path)}


def parts(path: str | os.PathLike[str]) -> dict[str, int]:
    """Bytes of a file by what they hold: vectors, codes, bounds, ids, metadata; the largest first. Adds up to the whole."""
    snapshot = Snapshot.open(path)
    sizes: dict[str, int] = {}
    for name, array in snapshot.arrays.items():
        group, _, column = name.partition(".")
        part = group if group != "points" else column if column in ("vectors", "codes") else "bounds"
        sizes[part] = sizes.get(part, 0) + array.nbytes
    sizes["format"] = snapshot.nbytes - sum(sizes.values())
    return dict(sorted(sizes.items(), key=lambda part: -part[1]))
