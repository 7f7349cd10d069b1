"""Files as accidents make them: cut, flipped, foreign, newer. Only OmenError may come of them. Liars: test_hostile.py."""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import xxhash

import omendb
from omendb import DB, snapshot
from omendb_kernels import list_backends, use_backend

METRICS = ["l2", "cosine", "ip"]
BACKENDS = [name for name, reason in list_backends().items() if reason is None]
REFUSALS = (omendb.CorruptFile, omendb.NewerFormat)  # NotAnIndex is a CorruptFile
DIM = 4


def small_file(metric: str = "l2", ids: str = "str") -> bytes:
    """Nine rows of all kinds of columns; codes as well, which stay when most rows go."""
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(1100, DIM)).astype(np.float32)
    names = {"str": [f"näme {i}" for i in range(1100)], "int": np.arange(1100) * 3, "row": None}[ids]
    db = DB.build_from_numpy(rows, metric=metric, ids=names, metadata=[{"i": i} for i in range(1100)])
    db.delete(db.ids[9:])
    with tempfile.TemporaryDirectory() as folder:
        db.save(Path(folder) / "a.omen")
        return (Path(folder) / "a.omen").read_bytes()


FILES = {(metric, ids): small_file(metric, ids) for metric in METRICS for ids in ("str", "int", "row")}
HONEST = FILES["ip", "str"]  # with every array but ids.numbers and points.signs


@dataclass
class Parts:
    """A file taken apart: `joined` seals it again, whatever was done to its header and content."""

    header: str  # JSON
    content: bytes  # the tensors before the hashes
    padding: bytes  # between the hashes and the seal

    @classmethod
    def of(cls, data: bytes) -> Parts:
        start = 8 + int.from_bytes(data[:8], "little")
        header = data[8:start].decode().rstrip()
        begin, end = json.loads(header)["file.hashes"]["data_offsets"]
        return cls(header, data[start : start + begin], data[start + end : -16])

    def joined(self) -> bytes:
        text = self.header.encode("utf-8", "surrogatepass")
        text += b" " * (-(8 + len(text)) % snapshot.ALIGNMENT)
        header = len(text).to_bytes(8, "little") + text
        starts = range(0, len(self.content), snapshot.BLOCK)
        hashes = [xxhash.xxh3_64_intdigest(self.content[i : i + snapshot.BLOCK]) for i in starts]
        table = np.array(hashes, "<u8").tobytes() + self.padding
        return header + self.content + table + snapshot._seal(header, table)


def section_of(data: bytes) -> range:
    """The places of all bytes behind the header."""
    return range(8 + int.from_bytes(data[:8], "little"), len(data))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damage") / "a.omen"


@contextmanager
def codes_used() -> Iterator[None]:
    """Few rows are searched by their codes too."""
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        patch.setattr("omendb_kernels.exact.CODED_ROWS", 0)
        yield


def use(path: Path, verify: bool, backend: str = "numpy") -> None:
    """Open and use a file in every way; OmenError is fine, and anything else the test's failure."""
    try:
        db = DB.load(path, verify=verify, threads=1)
    except REFUSALS:
        return
    again = path.with_name("again.omen")
    uses: list[Callable[[], Any]] = [
        lambda: db.save(again, overwrite=True),
        lambda: db.search(np.ones(db.dim or 1), k=3, with_metadata=True, explain=True),
        lambda: db.search(np.eye(2, db.dim or 2), k=50, with_metadata=True),
        lambda: db.search(np.ones(db.dim or 1), k=2, mask=np.arange(len(db)) % 2 == 0),
        lambda: [db.get(key) for key in db.ids],
        lambda: (0 in db, "x" in db, repr(db), db.stats(), len(db), db.recall(k=2)),
        lambda: db.add_batch(np.ones((2, db.dim or 3)), ids={"str": ["x", "y"], "int": [70, 71]}.get(db.stats().ids or "")),
        lambda: db.search(np.ones(db.dim or 1), k=50, with_metadata=True),
        lambda: db.delete(db.ids[:1]),
        lambda: db.save(again, overwrite=True),
    ]
    with codes_used(), use_backend(backend):
        for act in uses:
            with suppress(omendb.OmenError):
                act()


def refused(path: Path, data: bytes, error: Any = REFUSALS, words: str | None = None) -> None:
    path.write_bytes(data)
    with pytest.raises(error, match=words):
        DB.load(path)


def test_the_files_below_are_in_order(path):
    for data in (*FILES.values(), Parts.of(HONEST).joined()):
        path.write_bytes(data)
        assert len(DB.load(path)) == 9
        use(path, verify=True)
    assert Parts.of(HONEST).joined() == HONEST


def test_cut_at_every_byte(path):
    for size in range(len(HONEST)):
        refused(path, HONEST[:size])
        with pytest.raises(REFUSALS):
            DB.load(path, verify=False)
    refused(path, HONEST + b"\0")
    refused(path, HONEST + HONEST)


def flips(data: bytes, path: Path, bits: Iterable[int]) -> Iterator[int]:
    """The file at `path` with each of these bits flipped, one after another."""
    path.write_bytes(data)
    with open(path, "r+b", buffering=0) as file:
        for bit in bits:
            byte = bit // 8
            file.seek(byte)
            file.write(bytes([data[byte] ^ 1 << bit % 8]))
            yield bit
            file.seek(byte)
            file.write(data[byte : byte + 1])


def test_every_flipped_bit_is_noticed(path):
    data = FILES["l2", "int"]
    for bit in flips(data, path, range(8 * len(data))):
        try:
            DB.load(path)
        except REFUSALS:
            continue
        pytest.fail(f"bit {bit % 8} of byte {bit // 8} does not matter")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("metric", "ids"), FILES)
def test_damage_that_is_not_looked_for_never_crashes(rng, path, metric, ids, backend):
    data = FILES[metric, ids]
    for _ in flips(data, path, (8 * rng.choice(section_of(data), 60) + rng.integers(0, 8, 60)).tolist()):
        use(path, verify=False, backend=backend)


@pytest.mark.long
@pytest.mark.parametrize(("metric", "ids"), FILES)
def test_no_damage_crashes(path, metric, ids):
    data = FILES[metric, ids]
    for bit in flips(data, path, range(8 * len(data))):
        use(path, verify=False, backend=BACKENDS[bit % len(BACKENDS)])


def test_blocks_in_the_wrong_place(rng, tmp_path):
    db = DB.build_from_numpy(rng.normal(size=(9000, 64)))
    db.save(tmp_path / "a.omen")
    data, block = (tmp_path / "a.omen").read_bytes(), snapshot.BLOCK
    start = section_of(data)[0]
    first, second = data[start : start + block], data[start + block : start + 2 * block]
    swapped = data[:start] + second + first + data[start + 2 * block :]
    refused(tmp_path / "a.omen", swapped, omendb.CorruptFile, r"block 0 \(from byte 0 of the data\) has changed")
    zeroed = data[: start + block + 9] + bytes(100) + data[start + block + 109 :]
    refused(tmp_path / "a.omen", zeroed, omendb.CorruptFile, "block 1")


def test_foreign_files(rng, tmp_path):
    path = tmp_path / "a.omen"
    rows = {"points.vectors": np.ones((5, 3), np.float32)}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("a.omen", HONEST)
    foreign = {
        "empty": b"",
        "one byte": b"{",
        "text": b"id,vector\n" * 100,
        "JSON": json.dumps({"__metadata__": {"format": "omendb"}}).encode(),
        "safetensors": safetensors.numpy.save(rows),
        "safetensors with facts": safetensors.numpy.save(rows, {"format": "pt", "version": "1", "facts": "{}"}),
        "zip": archive.getvalue(),
        "zeros": bytes(5000),
        "random": rng.bytes(5000),
        "shifted": b"\0" + HONEST,
    }
    for name, data in foreign.items():
        refused(path, data, omendb.NotAnIndex, "a.omen is not an omendb index")
        with pytest.raises(omendb.NotAnIndex):
            DB.load(path, verify=False)
        assert name
    with pytest.raises(omendb.NotAnIndex, match="is not a file"):
        DB.load(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(omendb.NotAnIndex, match="is not a file"):
        DB.load(tmp_path / "pipe")


def of_version(version: str) -> bytes:
    parts = Parts.of(HONEST)
    parts.header = parts.header.replace('"version":"1"', f'"version":"{version}"')
    return parts.joined()


def test_a_newer_format_is_named(path):
    for version in ("2", "17", "9" * 18):
        refused(path, of_version(version), omendb.NewerFormat, f"format version {version}; this omendb reads up to 1: a newer")
    for version in ("0", "-1", "1.0", "", "x", "9" * 19):
        refused(path, of_version(version), omendb.CorruptFile, "no format version")
    unsealed = HONEST.replace(b'"version":"1"', b'"version":"2"')
    refused(path, unsealed, omendb.NewerFormat)  # whose seal this version cannot know


def test_a_file_that_shrinks_while_it_is_opened(path, monkeypatch):
    path.write_bytes(HONEST)
    honest = os.fstat

    def before(handle: int) -> Any:
        found = list(honest(handle))
        found[6] += 100_000
        return os.stat_result(found)

    monkeypatch.setattr(os, "fstat", before)
    with pytest.raises(omendb.StorageError):
        DB.load(path)
