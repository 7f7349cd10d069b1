"""Ids, metadata and paths from users are judged here; vectors, queries and masks are judged by omendb_kernels."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from omendb_kernels import as_numpy

from .errors import DuplicateId, InvalidIds, InvalidMetadata, InvalidParameter
from .ids import IdKind, Key, Keys, as_list

MAX_METADATA_DEPTH = 64  # objects and lists inside each other: far below where parsers give up
_WANTED: dict[IdKind | None, str] = {
    None: "an integer >= 0 or a non-empty str",
    "row": "an integer >= 0",
    "int": "an integer >= 0",
    "str": "a non-empty str",
}
# by which arrays are known
ARRAYS = ("__array__", "__dlpack__", "__cuda_array_interface__", "__arrow_c_array__", "__arrow_c_stream__")
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def as_ids(ids: Any, n: int, kind: IdKind | None) -> tuple[IdKind, Keys | None]:
    """Judge the ids of n rows for an index of this kind (None: no row has fixed it yet).

    None stands for running numbers, given by the index. Raises InvalidIds, DuplicateId.
    """
    if ids is None:
        if kind in (None, "row"):
            return "row", None
        raise InvalidIds("ids", "no ids", f"one {kind} for each of the {n} rows, like the ids of this index")
    if kind == "row":
        raise InvalidIds("ids", "ids", "none: this index numbers its rows by itself")
    keys = as_keys(ids, kind)
    if len(keys) != n:
        raise InvalidIds("ids", f"{len(keys)} ids", f"{n}, one for each row")
    _refuse_repeats(keys)
    return ("str" if isinstance(keys, list) else "int"), keys


def as_keys(ids: Any, kind: IdKind | None, name: str = "ids") -> Keys:
    """Judge a one-dimensional array, list, tuple or range of ids; they must be of one kind. Raises InvalidIds."""
    array = as_array(ids, name)
    if isinstance(array, np.ndarray):
        if array.ndim != 1:
            raise InvalidIds(name, f"an array of shape {array.shape}", "one axis")
        if array.dtype.kind in "iu" and kind != "str" and array.size and 0 <= array.min() <= array.max() < 2**63:
            return array.astype(np.int64)
        ids = array.tolist()
    if not isinstance(ids, (list, tuple, range)):
        raise InvalidIds(name, f"a {type(ids).__name__}", f"a list or an array, each {_WANTED[kind]}")
    keys = []
    for i, value in enumerate(ids):
        keys.append(as_key(value, kind, f"{name}[{i}]"))
        kind = kind or ("str" if isinstance(value, str) else "int")  # the first id decides for the others
    return [str(key) for key in keys] if kind == "str" else np.array(keys, np.int64)


def as_array(x: Any, name: str) -> Any:
    """An array of any library, on any device, as NumPy's; anything else as it is. Raises WrongDtype."""
    foreign = not isinstance(x, np.generic) and any(hasattr(x, way) for way in ARRAYS)
    return as_numpy(x, name) if foreign else x


def as_key(value: Any, kind: IdKind | None, name: str = "id") -> Key:
    """Judge one id of this kind (None: of any). Raises InvalidIds."""
    if isinstance(value, str) and kind in ("str", None):
        if value and (value.isascii() or _in_utf8(value)):
            return str(value)
    elif isinstance(value, (int, np.integer)) and not isinstance(value, bool) and kind != "str" and 0 <= value < 2**63:
        return int(value)
    raise InvalidIds(name, f"{_short(value)} ({type(value).__name__})", _WANTED[kind])


def _in_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _refuse_repeats(keys: Keys) -> None:
    values = as_list(keys)
    if len(set(values)) == len(values):
        return
    seen: dict[Key, int] = {}
    for i, value in enumerate(values):
        if value in seen:
            raise DuplicateId(f"ids[{i}]", f"{value!r}, which is ids[{seen[value]}] too", "every id once")
        seen[value] = i


def as_metadata(metadata: Any, n: int) -> list[bytes] | None:
    """Judge one dict (a JSON object) or None for each of n rows; gives their JSON, b"" for None; None when all are None.

    Strict: names are str, numbers finite, nothing that JSON lacks; tuples are stored as lists. Raises InvalidMetadata.
    """
    if metadata is None:
        return None
    if isinstance(metadata, (str, bytes, dict)) or not hasattr(metadata, "__len__"):
        raise InvalidMetadata("metadata", f"a {type(metadata).__name__}", "a list of one dict or None for each row")
    if len(metadata) != n:
        raise InvalidMetadata("metadata", f"{len(metadata)} entries", f"{n}, one for each row")
    texts = [_as_json(value, f"metadata[{row}]") for row, value in enumerate(metadata)]
    return texts if any(texts) else None


def _as_json(value: Any, name: str) -> bytes:
    if value is None:
        return b""
    if not isinstance(value, dict):
        raise InvalidMetadata(name, f"a {type(value).__name__}", "a dict or None")
    _check_json(value, name, 1)
    try:
        return _ENCODER.encode(value).encode()
    except ValueError as error:  # a lone surrogate, or an integer of thousands of digits
        raise InvalidMetadata(name, str(error), "text and numbers that JSON can hold") from error


def _check_json(value: Any, name: str, depth: int) -> None:
    """Refuse what JSON lacks, and what `json` would change on the way: names that are not str, NaN."""
    if isinstance(value, (str, int)) or value is None:
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidMetadata(name, str(value), "finite numbers")
    elif not isinstance(value, (dict, list, tuple)):
        wanted = "dict, list, str, int, float, bool or None"
        raise InvalidMetadata(name, f"{_short(value)} ({type(value).__name__})", wanted)
    elif depth > MAX_METADATA_DEPTH:
        raise InvalidMetadata(name, f"more than {MAX_METADATA_DEPTH} levels", "flatter objects (is it inside itself?)")
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise InvalidMetadata(name, f"the name {_short(key)} ({type(key).__name__})", "names that are str")
            _check_json(item, name, depth + 1)
    else:
        for item in value:
            _check_json(item, name, depth + 1)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def as_path(path: Any) -> Path:
    """Judge the name of a file. Raises InvalidParameter."""
    if not isinstance(path, (str, os.PathLike)) or not str(path) or "\0" in str(path):
        raise InvalidParameter("path", repr(path), "the name of a file")
    return Path(path)
