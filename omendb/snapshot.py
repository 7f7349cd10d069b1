"""One file, one index: JSON facts and named arrays in a sealed safetensors file, mapped when it is read.

    [header length, 8 bytes][header: JSON][tensors ...][hashes of their blocks][seal]

Any safetensors reader can open the file. On top of that format (docs/format.md): every tensor lies on a multiple of 64
bytes, each 1 MiB block of them has an xxh3-64 hash, and the seal at the end is an xxh3-128 of the header and those
hashes, so that no byte can change unnoticed. The same facts and arrays give the same bytes.

This module knows no metric and no index. When reading, a file is hostile until proven otherwise: every size is checked
against the true size of the file before it is used, and nothing in it is ever executed.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
from numpy.typing import NDArray

from .columns import Stream
from .errors import CorruptFile, NewerFormat, NotAnIndex, NotFound, StorageError
from .publish import published

FORMAT_VERSION = 1
ALIGNMENT = 64  # bytes: a cache line, and the widest vector load
BLOCK = 1 << 20  # bytes under one hash
MAX_HEADER = 1 << 18  # bytes; bounds what parsing hostile JSON can cost, about 20 times its length

_RESERVED = "file."  # tensors of the format itself: padding, hashes, seal
_HASHES, _SEAL = "file.hashes", "file.seal"
_START = '{"__metadata__":{"format":"omendb","version":"'
_DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "F16": np.dtype("<f2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

Facts = dict[str, Any]
Arrays = dict[str, NDArray[Any]]
Content = Mapping[str, NDArray[Any] | Stream]


@dataclass(frozen=True)
class _Tensor:
    """Where one tensor lies: bytes begin..end of the data section."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def under(prefix: str, arrays: Arrays) -> Arrays:
    """The arrays whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


# --- writing -----------------------------------------------------------------------------------------------------


def write(path: Path, facts: Facts, arrays: Content, *, overwrite: bool) -> None:
    """Write one file, whole or not at all; on failure nothing at `path` has changed.

    facts: JSON values; arrays: any shape of up to four axes, streamed from where they lie. Raises AlreadyExists (unless
    `overwrite`), NotFound when the folder is missing, StorageError with the system's reason.
    """
    with published(path, overwrite=overwrite) as file:
        _write_through(file, facts, arrays)


def encoded(facts: Facts, arrays: Content) -> memoryview:
    """The bytes that `write` would write."""
    file = io.BytesIO()
    _write_through(file, facts, arrays)
    return file.getbuffer()


def _lay_out(arrays: Content) -> tuple[list[_Tensor], int]:
    """Where each tensor goes, gaps filled by zero tensors (safetensors allows no holes), and where the content ends."""
    tensors: list[_Tensor] = []
    position = 0

    def place(name: str, dtype: str, shape: tuple[int, ...]) -> None:
        nonlocal position
        end = position + prod(shape) * _DTYPES[dtype].itemsize
        tensors.append(_Tensor(name, dtype, shape, position, end))
        position = end

    def fill(name: str) -> None:
        if position % ALIGNMENT:
            place(f"{_RESERVED}pad.{name}", "U8", (-position % ALIGNMENT,))

    for name in sorted(arrays):
        if name.startswith(_RESERVED):
            raise ValueError(f"array name {name!r} is reserved for the file format")
        place(name, _NAMES[arrays[name].dtype.newbyteorder("<")], arrays[name].shape)
        fill(name)
    content = position
    place(_HASHES, "U64", (-(-content // BLOCK),))
    fill(_HASHES)
    place(_SEAL, "U8", (16,))
    return tensors, content


def _header(facts: Facts, tensors: list[_Tensor]) -> bytes:
    """The length and the JSON, padded by spaces so that the data section is aligned."""
    metadata = {"format": "omendb", "version": str(FORMAT_VERSION), "facts": _json(facts)}
    entries: dict[str, Any] = {"__metadata__": metadata}
    for tensor in tensors:
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [tensor.begin, tensor.end],
        }
    text = json.dumps(entries, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    if len(text) > MAX_HEADER:
        raise ValueError(f"a header of {len(text)} bytes; facts belong in arrays when they are large")
    return len(text).to_bytes(8, "little") + text


def _json(facts: Facts) -> str:
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _write_through(file: BinaryIO, facts: Facts, arrays: Content) -> None:
    """Header, tensors, hashes, seal, in one pass."""
    tensors, content = _lay_out(arrays)
    header = _header(facts, tensors)
    file.write(header)
    hashes: list[int] = []
    for block in _blocks(_pieces(tensors, content, arrays)):
        hasher = xxhash.xxh3_64()
        for piece in block:
            hasher.update(piece)
            file.write(piece)
        hashes.append(hasher.intdigest())
    table = np.array(hashes, dtype="<u8").tobytes()
    table += bytes(-len(table) % ALIGNMENT)
    file.write(table)
    file.write(_seal(header, table))


def _pieces(tensors: list[_Tensor], content: int, arrays: Content) -> Iterator[memoryview]:
    """The bytes of the content, tensor by tensor."""
    for tensor in tensors:
        if tensor.begin == tensor.end or tensor.begin >= content:
            continue
        if tensor.name in arrays:
            array = arrays[tensor.name]
            for piece in array.pieces() if isinstance(array, Stream) else [array]:
                little = np.ascontiguousarray(piece, dtype=piece.dtype.newbyteorder("<"))
                yield little.reshape(-1).view(np.uint8).data
        else:
            yield memoryview(bytes(tensor.end - tensor.begin))


def _blocks(pieces: Iterable[memoryview]) -> Iterator[list[memoryview]]:
    """The same bytes, cut and gathered into blocks of BLOCK bytes (the last one may be shorter)."""
    block: list[memoryview] = []
    room = BLOCK
    for piece in pieces:
        while len(piece):
            block.append(piece[:room])
            piece = piece[room:]
            room -= len(block[-1])
            if room == 0:
                yield block
                block, room = [], BLOCK
    if block:
        yield block


def _seal(header: bytes, table: bytes) -> bytes:
    return xxhash.xxh3_128(header + table).digest()


# --- reading -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Snapshot:
    """An open file: its facts, and its arrays as read-only views of the mapped file, which they keep mapped."""

    path: Path
    nbytes: int
    facts: Facts
    arrays: Arrays
    _content: NDArray[np.uint8]
    _hashes: NDArray[np.uint64]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Snapshot:
        """Map a file; header, sizes and seal are checked, the content is not (see `verify`): cost free of its size.

        Raises NotFound, NotAnIndex, NewerFormat, CorruptFile, StorageError.
        """
        source = Path(path)
        try:
            if not stat.S_ISREG(os.stat(source).st_mode):  # opening a pipe would wait for its writer
                raise NotAnIndex(f"{source} is not a file")
            with open(source, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                header = _read_header(file, size, source)
                mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        except StorageError:
            raise
        except FileNotFoundError as error:
            raise NotFound(f"no file {source}") from error
        except (OSError, ValueError) as error:  # ValueError: it shrank before it was mapped
            raise StorageError(f"cannot read {source}: {getattr(error, 'strerror', None) or error}") from error
        return cls._judged(source, header, np.frombuffer(mapped, np.uint8))

    @classmethod
    def parse(cls, content: bytes, name: Path) -> Snapshot:
        """The same of bytes in memory; `name` is for messages. Raises NotAnIndex, NewerFormat, CorruptFile."""
        header = _read_header(io.BytesIO(content), len(content), name)
        return cls._judged(name, header, np.frombuffer(content, np.uint8))

    @classmethod
    def _judged(cls, path: Path, header: bytes, data: NDArray[np.uint8]) -> Snapshot:
        try:
            return cls._of(path, header, data)
        except (ValueError, RecursionError) as error:
            raise CorruptFile(f"{path} is damaged: {error}") from error

    @classmethod
    def _of(cls, path: Path, header: bytes, data: NDArray[np.uint8]) -> Snapshot:
        entries = _parse(header[8:])
        metadata = entries.pop("__metadata__")  # an object: the file begins with it
        if set(metadata) != {"format", "version", "facts"} or not isinstance(metadata["facts"], str):
            raise ValueError("unknown header fields")
        section = data[len(header) :]
        tensors = [_tensor(name, entry) for name, entry in entries.items()]
        content = _check_layout(tensors, len(section))
        table, seal = section[content:-16], section[-16:]
        if _seal(header, table.tobytes()) != seal.tobytes():
            raise ValueError("the seal does not match the header and the hashes")
        facts = _parse(metadata["facts"])
        if not isinstance(facts, dict):
            raise ValueError("the facts are not an object")
        views = {tensor.name: _view(section, tensor) for tensor in tensors}
        arrays = {name: view for name, view in views.items() if not name.startswith(_RESERVED)}
        return cls(path, len(data), facts, arrays, section[:content], views[_HASHES])

    def verify(self) -> None:
        """Read the whole file and compare every block with its hash: several GB/s once it is in memory.

        Raises CorruptFile, naming the first damaged block.
        """
        for number in self.damaged():
            raise CorruptFile(f"{self.path} is damaged: block {number} (from byte {number * BLOCK} of the data) has changed")

    def damaged(self) -> Iterator[int]:
        """The numbers of the blocks that do not have their hash."""
        for number, expected in enumerate(self._hashes.tolist()):
            begin = number * BLOCK
            if xxhash.xxh3_64_intdigest(self._content[begin : begin + BLOCK].data) != expected:
                yield number

    def place(self, array: NDArray[Any]) -> int:
        """The byte of the content at which one of `arrays` begins."""
        return int(array.__array_interface__["data"][0] - self._content.__array_interface__["data"][0])


def _read_header(file: BinaryIO, size: int, path: Path) -> bytes:
    """The length and the header, their size and format judged before anything of that length is read."""
    start = file.read(8 + len(_START) + 20)
    if start[8 : 8 + len(_START)] != _START.encode():
        raise NotAnIndex(f"{path} is not an omendb index")
    version = re.match(rb'([0-9]{1,18})"', start[8 + len(_START) :])
    if version is None or int(version[1]) < 1:
        raise CorruptFile(f"{path} is damaged: no format version")
    if int(version[1]) > FORMAT_VERSION:
        raise NewerFormat(
            f"{path} has format version {int(version[1])}; this omendb reads up to {FORMAT_VERSION}: a newer one is needed"
        )
    length = int.from_bytes(start[:8], "little")
    if length > min(MAX_HEADER, size - 8) or (8 + length) % ALIGNMENT:
        raise CorruptFile(f"{path} is damaged: a header of {length} bytes in a file of {size}")
    header = start + file.read(8 + length - len(start)) if 8 + length > len(start) else start[: 8 + length]
    if len(header) != 8 + length:
        raise CorruptFile(f"{path} is damaged: it ends inside its header")
    return header


def _tensor(name: str, entry: Any) -> _Tensor:
    """One header entry, judged by itself."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name!r} has unknown fields")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"tensor {name!r} has an unknown dtype")
    if not _counts(shape, 0, 4) or not _counts(offsets, 2, 2):
        raise ValueError(f"tensor {name!r} has an impossible shape or place")
    begin, end = offsets
    if prod(shape) * _DTYPES[dtype].itemsize != end - begin:
        raise ValueError(f"tensor {name!r} does not fill its place")
    return _Tensor(name, dtype, tuple(shape), begin, end)


def _counts(values: Any, least: int, most: int) -> bool:
    """A list of `least` to `most` integers from 0 to 2^62."""
    return (
        isinstance(values, list)
        and least <= len(values) <= most
        and all(type(value) is int and 0 <= value <= 1 << 62 for value in values)
    )


def _check_layout(tensors: list[_Tensor], size: int) -> int:
    """Tensors in order without gaps that fill the section exactly, hashes and seal last; gives the size of the content."""
    position = 0
    for tensor in tensors:
        if tensor.begin != position:
            raise ValueError(f"tensor {tensor.name!r} is out of place")
        if position % ALIGNMENT and not tensor.name.startswith(_RESERVED):
            raise ValueError(f"tensor {tensor.name!r} is not aligned")
        position = tensor.end
    if position != size:
        raise ValueError(f"{size} bytes of data where the header tells of {position}")
    places = {tensor.name: tensor for tensor in tensors}
    hashes, seal = places.get(_HASHES), places.get(_SEAL)
    if hashes is None or seal is None or seal is not tensors[-1] or (seal.dtype, seal.shape) != ("U8", (16,)):
        raise ValueError("no hashes or no seal at the end")
    content = hashes.begin
    if (hashes.dtype, hashes.shape) != ("U64", (-(-content // BLOCK),)) or seal.begin - hashes.end >= ALIGNMENT:
        raise ValueError("the hashes do not match the content")
    return content


def _view(section: NDArray[np.uint8], tensor: _Tensor) -> NDArray[Any]:
    return section[tensor.begin : tensor.end].view(_DTYPES[tensor.dtype]).reshape(tensor.shape)


def _parse(text: str | bytes) -> Any:
    """Strict JSON: no NaN, no name twice in one object (readers would disagree on which holds)."""
    return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> Facts:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return names
