"""Files of vectors that NumPy reads: whole, damaged, lying about their size; the memory that reading takes."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import omendb
from omendb import DB, CorruptFile, InvalidParameter, MissingLibrary, NotFound, OmenError, StorageError, WrongShape, files
from omendb.files import open_vectors, read_ids, read_metadata

ROOT = Path(__file__).parent.parent
DTYPES = {
    ".npy": "float32", ".fvecs": "float32", ".bvecs": "uint8", ".ivecs": "int32",
    ".fbin": "float32", ".u8bin": "uint8", ".i8bin": "int8", ".ibin": "int32",
}  # fmt: skip


def write(path: Path, rows: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, rows)
    elif path.suffix.endswith("vecs"):
        path.write_bytes(b"".join(struct.pack("<i", len(row)) + row.tobytes() for row in rows))
    else:
        path.write_bytes(struct.pack("<II", *rows.shape) + rows.tobytes())


def drawn(rng: np.random.Generator, suffix: str, n: int = 130, d: int = 6) -> np.ndarray:
    return rng.integers(1, 100, (n, d)).astype(DTYPES[suffix])


def read_all(path: Path, limit: int | None = None) -> list[Any]:
    return list(open_vectors(path).batches(limit))


def check_whole(path: Path, rows: np.ndarray, counted: bool = True) -> None:
    """Every row comes, in order, in its kind; a limit is kept; reading twice gives the same."""
    found = open_vectors(path)
    assert (found.rows, found.dim) == (len(rows) if counted else None, rows.shape[1])
    db = DB.build_from_numpy(found.batches())
    assert db.dtype == ("float32" if rows.dtype == np.int32 else rows.dtype.name)
    for i in (0, 39, 40, 41, len(rows) - 1):
        assert (db.get(i).vector == rows[i]).all()
    assert len(db) == len(rows)
    assert [len(batch) for batch in found.batches()] == [len(batch) for batch in found.batches()]
    for limit in (1, 40, 41, len(rows), len(rows) + 1):
        assert sum(map(len, read_all(path, limit))) == min(limit, len(rows))


def fuzz(rng: np.random.Generator, path: Path, count: int) -> None:
    """Bytes changed, cut, added, exchanged: the rows come, other ones perhaps, or a typed error; never more rows than bytes."""
    whole, refused = path.read_bytes(), 0
    for _ in range(count):
        damaged = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(damaged))) if rng.integers(2) else int(rng.integers(min(80, len(damaged))))
            match int(rng.integers(4)):
                case 0:
                    damaged[at] ^= 1 << int(rng.integers(8))
                case 1:
                    del damaged[max(1, at) :]
                case 2:
                    damaged[at : at + 4] = struct.pack("<I", int(rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1])))
                case 3:
                    damaged += bytes(rng.integers(0, 256, rng.integers(1, 40), np.uint8))
        path.write_bytes(damaged)
        try:
            DB.build_from_numpy(open_vectors(path).batches())
        except OmenError:
            refused += 1
    assert refused >= count // 10


@pytest.mark.parametrize("suffix", DTYPES)
def test_whole_files(rng, tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(files, "BATCH", 500)  # several batches
    rows = drawn(rng, suffix)
    write(tmp_path / f"a{suffix}", rows)
    check_whole(tmp_path / f"a{suffix}", rows)
    assert len(read_all(tmp_path / f"a{suffix}")) > 1
    (tmp_path / f"a{suffix}").rename(tmp_path / f"B{suffix.upper()}")
    assert open_vectors(tmp_path / f"B{suffix.upper()}").rows == len(rows)


@pytest.mark.parametrize("suffix", DTYPES)
def test_damaged_files_are_refused(rng, tmp_path, suffix):
    write(tmp_path / f"a{suffix}", drawn(rng, suffix, 20))
    fuzz(rng, tmp_path / f"a{suffix}", 130)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.fbin", b"", "is empty"),
        ("a.fbin", b"abc", "ends inside its header"),
        ("a.fbin", struct.pack("<II", 2**32 - 1, 2**32 - 1), "8 bytes are not 4294967295 rows"),
        ("a.u8bin", struct.pack("<II", 2, 3) + b"12345", "13 bytes are not 2 rows of 3"),
        ("a.u8bin", struct.pack("<II", 1, 3) + b"1234", "12 bytes are not 1 rows of 3"),
        ("a.fvecs", struct.pack("<i", -1) + b"1234", "not rows of -1"),
        ("a.fvecs", struct.pack("<i", 2**31 - 1) + b"1234", "not rows of 2147483647"),
        ("a.bvecs", b"\x02\0\0\0ab\x03\0\0\0cd", "row 1 has another dimension"),
        ("a.npy", b"PK\x03\x04 a zip archive", "does not begin as a .npy"),
        ("a.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4'", "is damaged"),
    ],
)
def test_files_that_lie(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorruptFile, match=said):
        read_all(tmp_path / name)


def test_an_array_larger_than_its_file_is_refused_at_once(tmp_path):
    for shape in ("(1000000000000, 100)", "(4611686018427387904, 4611686018427387904)", "(-1, 4)"):
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
        (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"1234")
        with pytest.raises(CorruptFile):
            read_all(tmp_path / "a.npy")


def test_pickles_are_not_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[{}]], object), allow_pickle=True)
    for read in (read_all, read_ids):
        with pytest.raises(CorruptFile):
            read(tmp_path / "a.npy")


def test_what_is_no_file_of_vectors(tmp_path):
    with pytest.raises(NotFound):
        open_vectors(tmp_path / "missing.npy")
    with pytest.raises(InvalidParameter, match="fvecs"):
        open_vectors(tmp_path / "a.txt")
    (tmp_path / "b.npy").mkdir()
    with pytest.raises(StorageError, match="not a file"):
        open_vectors(tmp_path / "b.npy")
    np.save(tmp_path / "c.npy", np.ones(3))
    with pytest.raises(WrongShape, match="two axes"):
        open_vectors(tmp_path / "c.npy")
    with pytest.raises(InvalidParameter, match="no columns"):
        open_vectors(tmp_path / "c.npy", "x")
    (tmp_path / "d.fbin").write_bytes(struct.pack("<II", 0, 4))
    with pytest.raises(WrongShape, match="at least one row"):
        open_vectors(tmp_path / "d.fbin")


@pytest.mark.parametrize(("suffix", "library", "extra"), [(".h5", "h5py", "hdf5"), (".parquet", "pyarrow", "arrow")])
def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch, suffix, library, extra):
    (tmp_path / f"a{suffix}").write_bytes(b"1234")
    for module in (library, f"{library}.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingLibrary, match=rf"{library} is needed.*omendb-kernels\[{extra}\]"):
        open_vectors(tmp_path / f"a{suffix}")


def test_ids_and_metadata(tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(3))
    assert read_ids(tmp_path / "ids.npy").tolist() == [0, 1, 2]
    (tmp_path / "ids.txt").write_bytes("\ufeffa\nü\r\nc\u2028d \n".encode())
    assert read_ids(tmp_path / "ids.txt") == ["a", "ü", "c\u2028d "]
    (tmp_path / "ids.txt").write_bytes(b"")
    assert read_ids(tmp_path / "ids.txt") == []
    (tmp_path / "meta").write_text('{"a": 1}\nnull\n', encoding="utf-8")
    assert read_metadata(tmp_path / "meta") == [{"a": 1}, None]
    (tmp_path / "meta").write_text('null\n{"a": \n', encoding="utf-8")
    with pytest.raises(CorruptFile, match="line 2: not JSON"):
        read_metadata(tmp_path / "meta")
    (tmp_path / "meta").write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(CorruptFile, match="line 1: not JSON"):
        read_metadata(tmp_path / "meta")
    (tmp_path / "ids.txt").write_bytes(b"\xff\n")
    with pytest.raises(CorruptFile):
        read_ids(tmp_path / "ids.txt")
    with pytest.raises(StorageError, match="cannot read"):
        read_ids(tmp_path / "missing.txt")


# --- iterators of batches ------------------------------------------------------------------------------------------


def cut(rng: np.random.Generator, rows: np.ndarray) -> list[np.ndarray]:
    return np.split(rows, np.sort(rng.integers(0, len(rows) + 1, 5)))


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_batches_make_the_index_of_the_whole_array(rng, tmp_path, metric):
    rows = rng.standard_normal((3_000, 12), dtype=np.float32)
    options = {"metric": metric, "build_threshold": 1_000}
    DB.build_from_numpy(rows, **options).save(tmp_path / "a")
    DB.build_from_numpy(iter(cut(rng, rows)), **options).save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_batches_may_share_their_memory(rng):
    rows = rng.integers(0, 256, (900, 5)).astype(np.uint8)
    one = np.empty((100, 5), np.uint8)

    def batches() -> Any:
        for start in range(0, 900, 100):
            one[:] = rows[start : start + 100]
            yield one

    db = DB()
    db.build(batches())
    db.add_batch(iter([rows[:3], rows[3:7]]))
    one[:] = 0
    for i in (0, 99, 100, 899):
        assert (db.get(i).vector == rows[i]).all()
    assert (len(db), db.dtype) == (907, "uint8")
    assert (db.get(905).vector == rows[5]).all()


def test_pieces_are_joined(rng, monkeypatch):
    monkeypatch.setattr("omendb_kernels.arrays._PIECE", 4 * 6 * 7)  # seven rows
    for n in (1, 6, 7, 8, 50):
        rows = rng.standard_normal((n, 6), dtype=np.float32)
        judged = omendb_kernels_as_vectors(iter(cut(rng, rows)))
        assert judged.ours
        assert (judged.data == rows).all()


def omendb_kernels_as_vectors(x: Any) -> Any:
    from omendb_kernels import as_vectors

    return as_vectors(x, metric="l2")


def test_bad_batches_change_nothing(rng):
    rows = rng.standard_normal((20, 4), dtype=np.float32)
    wrong = np.where(np.arange(20)[:, None] == 7, np.nan, rows)
    db = DB(4)
    for batches, kind, said in [
        ([rows, wrong], omendb.NotFinite, "vectors, batch 1: got NaN or infinity in row 7"),
        ([rows, rows[:, :3]], WrongShape, "batch 1: got 3 dimensions"),
        ([rows[0]], WrongShape, "batch 0: got an array of shape"),
        ([rows.astype(np.int8), rows], omendb.WrongDtype, "batch 1: got an array of float32"),
        ([], WrongShape, "no rows"),
    ]:
        with pytest.raises(kind, match=said):
            db.build(iter(batches))
        assert len(db) == 0
    with pytest.raises(WrongShape, match="an iterator without a batch"):
        DB().build(iter([]))
    with pytest.raises(ZeroDivisionError):
        db.build(1 / 0 for _ in range(3))
    assert len(db) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of the process from the system")
def test_two_copies_never_stand_whole():
    code = """
import resource, numpy as np, omendb_kernels as ok
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
one = np.ones((1 << 14, 1 << 10), np.uint8)
ok.as_vectors(iter([one]), metric="l2")
before = peak()
rows = ok.as_vectors((one for _ in range(24)), metric="l2")
assert rows.data.nbytes == 24 << 24, rows.data.nbytes
print((peak() - before) / rows.data.nbytes)
"""
    path = os.pathsep.join(map(str, (ROOT, ROOT / "kernels")))
    told = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert float(told.stdout) < 1.4
