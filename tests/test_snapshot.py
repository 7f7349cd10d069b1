"""The file: the same bytes whatever computed them, everything comes back, old files open, saving is all or nothing."""

from __future__ import annotations

import errno
import importlib
import io
import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import omendb
from omendb import DB, publish
from omendb.snapshot import Snapshot
from omendb_kernels import list_backends

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "data" / "format-1.omen"
N, DIM, SPREAD = 4500, 36, 1024
SETS = [(metric, kind) for metric in ("l2", "cosine", "ip") for kind in ("float32", "float16", "uint8")]
each_set = pytest.mark.parametrize(("metric", "kind"), SETS)


def rows_of(seed: int, kind: str) -> np.ndarray:
    """Rows that take every turn: one dimension is an outlier, and from row SPREAD on another one, beyond what codes hold."""
    rng = np.random.default_rng(seed)
    if kind == "uint8":
        rows = rng.integers(10, 30, (N, DIM))
        rows[SPREAD:, 5] = 255 * rng.integers(0, 2, N - SPREAD)
        return rows.astype(np.uint8)
    rows = rng.normal(size=(N, DIM))
    rows[:, 3] *= 20
    rows[:SPREAD] += 50
    rows[SPREAD:, 5] += 300 * rng.choice([-1, 1], N - SPREAD)
    return rows.astype(kind)


def added(rows: np.ndarray, metric: str, threads: int = 2, cuts: tuple[int, ...] = ()) -> DB:
    db = DB(metric=metric, threads=threads)
    for piece in np.split(rows, cuts):
        db.add_batch(piece)
    return db


def saved(db: DB, path: Path) -> bytes:
    db.save(path, overwrite=True)
    return path.read_bytes()


@pytest.fixture
def seed(rng) -> int:
    return int(rng.integers(2**32))


# --- the same bytes --------------------------------------------------------------------------------------------------


@each_set
def test_threads_change_no_byte(seed, tmp_path, metric, kind):
    rows = rows_of(seed, kind)
    files = {saved(added(rows, metric, threads), tmp_path / "a.omen") for threads in (1, 2, 3)}
    files |= {saved(DB.load(tmp_path / "a.omen"), tmp_path / "b.omen")}
    assert len(files) == 1
    built = [DB.build_from_numpy(rows, metric=metric, threads=threads) for threads in (1, 2, 3)]
    assert len({saved(db, tmp_path / "a.omen") for db in built}) == 1


@each_set
def test_block_sizes_change_no_byte(seed, tmp_path, monkeypatch, metric, kind):
    rows = rows_of(seed, kind)
    plain = saved(added(rows, metric), tmp_path / "a.omen")
    monkeypatch.setattr("omendb_kernels.points._BLOCK_ROWS", 351)
    for name, size, value in (("numpy", "BLOCK_VALUES", 999), ("numba", "BLOCK", 97)):
        if list_backends()[name] is None:
            monkeypatch.setattr(importlib.import_module(f"omendb_kernels.backends.{name}.encode"), size, value)
    assert saved(added(rows, metric), tmp_path / "a.omen") == plain


@each_set
def test_call_cuts_change_no_byte(rng, seed, tmp_path, metric, kind):
    rows = rows_of(seed, kind)
    plain = saved(added(rows, metric), tmp_path / "a.omen")
    random = tuple(np.sort(rng.integers(0, N, 5)).tolist())
    for cuts in (random, (1, 2, 1023, 1024, 1025, 4095), (4096, 4097), (0, 1024, 1024, 4096)):
        assert saved(added(rows, metric, cuts=cuts), tmp_path / "a.omen") == plain, cuts
    half = added(rows[: N // 2], metric)
    half.save(tmp_path / "half.omen")
    half = DB.load(tmp_path / "half.omen")
    half.add_batch(rows[N // 2 :])
    assert saved(half, tmp_path / "a.omen") == plain


def test_the_rows_above_take_every_turn(seed, tmp_path):
    for metric, kind in SETS:
        rows = rows_of(seed, kind)
        codecs = [added(rows[:n], metric).stats().codec for n in (1023, 1024, 4095, 4096)]
        lossless = (metric, kind) == ("l2", "uint8")
        assert codecs[0] is None
        assert codecs[1] is not None
        assert codecs[1] == codecs[2]
        assert (codecs[2] == codecs[3]) == lossless  # fitted anew
        added(rows, metric).save(tmp_path / "a.omen", overwrite=True)
        names = Snapshot.open(tmp_path / "a.omen").arrays.keys()
        assert ("points.signs" in names) == (not lossless), (metric, kind)  # rotated


def save_all(seed: int, folder: Path) -> None:
    for metric, kind in SETS:
        added(rows_of(seed, kind), metric).save(folder / f"{metric}-{kind}.omen")


@pytest.mark.parametrize("how", ["absent", "not chosen"])
def test_the_backend_changes_no_byte(seed, tmp_path, how):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    code = (
        "import sys; from pathlib import Path\n"
        f"if {how == 'absent'}: sys.modules['numba'] = None\n"
        "import omendb_kernels, test_snapshot\n"
        f"test_snapshot.save_all({seed}, Path(sys.argv[1])); print(omendb_kernels.backend_name())"
    )
    path = os.pathsep.join(map(str, (ROOT, ROOT / "kernels", ROOT / "tests")))
    env = {**os.environ, "PYTHONPATH": path} | ({"OMENDB_BACKEND": "numpy"} if how == "not chosen" else {})
    result = subprocess.run([sys.executable, "-c", code, there], env=env, capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (0, "numpy"), result.stderr
    save_all(seed, here)
    names = sorted(path.name for path in here.iterdir())
    assert len(names) == len(SETS)
    assert [name for name in names if (here / name).read_bytes() != (there / name).read_bytes()] == []


# --- what comes back -------------------------------------------------------------------------------------------------


def everything(db: DB, queries: np.ndarray) -> tuple[Any, ...]:
    found = db.search(queries, k=12, with_metadata=True, explain=True)
    assert found.proof is not None
    keys = db.ids.tolist()
    records = [db.get(key) for key in (keys[0], keys[7], keys[-1])]
    return (
        (len(db), db.dim, db.metric, db.dtype, db.stats().ids, db.stats().codec),
        keys,
        [(record.id, record.vector.dtype, record.vector.tobytes(), record.metadata) for record in records],
        (found.ids.tolist(), found.distances.tobytes(), found.metadata),
        (found.proof.certified_first, found.proof.rounds, found.proof.rows_reranked),
    )


@pytest.mark.parametrize("ids", ["row", "int", "str"])
@pytest.mark.parametrize(
    ("metric", "kind"), [*SETS, ("l2", "bfloat16"), ("cosine", "bfloat16"), ("ip", "bfloat16"), ("l2", "int8"), ("ip", "int8")]
)
def test_everything_comes_back(rng, tmp_path, metric, kind, ids):
    n = 1500
    dtype = ml_dtypes.bfloat16 if kind == "bfloat16" else np.dtype(kind)
    rows = rng.integers(1, 100, (n + 20, DIM)).astype(dtype)
    names = {"row": None, "int": rng.permutation(n + 20) * 2**40, "str": [f"ключ {i}" for i in range(n + 20)]}[ids]
    metadata = [{"i": i, "words": ["ä", None, 1.5, True]} if i % 3 else None for i in range(n)]
    db = DB.build_from_numpy(rows[:n], ids=None if names is None else names[:n], metadata=metadata, metric=metric)
    db.save(tmp_path / "a.omen")
    loaded = DB.load(tmp_path / "a.omen")
    assert everything(loaded, rows[:9]) == everything(db, rows[:9])
    for one in (db, loaded):
        one.add_batch(rows[n:], ids=None if names is None else names[n:])
        one.delete(one.ids[5::7])
    assert everything(loaded, rows[:9]) == everything(db, rows[:9])
    assert saved(loaded, tmp_path / "b.omen") == saved(db, tmp_path / "c.omen")
    assert everything(DB.load(tmp_path / "b.omen", verify=False), rows[:9])[1:4] == everything(db, rows[:9])[1:4]


def lies_in_a_map(array: Any) -> bool:
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, memoryview) and isinstance(array.obj, mmap.mmap)


def test_arrays_are_mapped_and_read_only(rng, tmp_path):
    db = DB.build_from_numpy(rng.normal(size=(2000, 8)), ids=[f"{i}" for i in range(2000)], metadata=[{}] * 2000, metric="ip")
    db.save(tmp_path / "a.omen")
    arrays = Snapshot.open(tmp_path / "a.omen").arrays
    assert {"ids.bytes", "ids.offsets", "metadata.bytes", "points.codes", "points.vectors", "points.wide"} < arrays.keys()
    points = DB.load(tmp_path / "a.omen")._now.points
    assert points is not None
    for array in (*arrays.values(), points.vectors.data, points.codes, points.residuals, points.lengths):
        assert not array.flags.writeable
        assert array.ctypes.data % 64 == 0
        assert lies_in_a_map(array)
    with pytest.raises(ValueError, match="read-only"):
        points.vectors.data[0] = 0


def test_a_read_only_file_in_a_read_only_folder(rng, tmp_path):
    folder = tmp_path / "ä ключ \N{SNOWMAN}"
    folder.mkdir()
    path = folder / "ветор 索引.omen"
    db = DB.build_from_numpy(rng.normal(size=(50, 8)))
    db.save(str(path))
    path.chmod(0o444)
    folder.chmod(0o555)
    try:
        loaded = DB.load(path)
        loaded.add_batch(np.ones((60, 8)))
        loaded.delete([0, 70])
        assert (len(loaded), loaded.stats().path) == (108, str(path))
        assert DB.load(os.fspath(path)).search(np.ones(8)).ids.tolist() == db.search(np.ones(8)).ids.tolist()
    finally:
        folder.chmod(0o755)


def test_any_safetensors_reader_can_read_it(rng, tmp_path):
    rows = rng.normal(size=(1200, 5)).astype(np.float32)
    path = tmp_path / "a.omen"
    DB.build_from_numpy(rows, ids=[f"{i}" for i in range(1200)]).save(path)
    tensors = safetensors.numpy.load_file(path)
    for name, array in Snapshot.open(path).arrays.items():
        assert tensors[name].dtype == array.dtype
        np.testing.assert_array_equal(tensors[name], array)
    assert (tensors["points.vectors"] == rows).all()
    with safetensors.safe_open(path, "numpy") as file:
        assert set(file.keys()) == set(tensors)
        metadata = file.metadata()
        assert (file.get_tensor("points.vectors") == rows).all()
    assert (set(metadata), metadata["format"], metadata["version"]) == ({"format", "version", "facts"}, "omendb", "1")
    for db in (DB(), DB(4, "ip")):  # no rows: hashes and seal only
        db.save(path, overwrite=True)
        assert safetensors.numpy.load_file(path).keys() == {"file.hashes", "file.seal"}


# --- files of older versions -----------------------------------------------------------------------------------------


def test_the_file_of_format_1_opens_and_is_written_again(tmp_path):
    assert GOLDEN.stat().st_size < 8000
    with DB.load(GOLDEN) as db:
        assert repr(db) == "DB(rows=5, dim=3, metric='cosine', dtype='float32', ids='str')"
        assert db.ids.tolist() == ["east", "north", "\N{SNOWMAN} up", "north-east", "west"]
        vectors = [[1, 0, 0], [0, 2, 0], [0, 0, 0.5], [3, 3, 0], [-1, 0, 0]]
        metadata = [{"short": "E"}, {"short": "N", "list": [1, 2.5, None, "ä"]}, None, {}, None]
        for key, vector, fields in zip(db.ids, vectors, metadata, strict=True):
            record = db.get(key)
            assert (record.id, record.vector.tolist(), record.metadata) == (key, vector, fields)
        found = db.search([1, 0, 0], k=9)
        assert found.ids.tolist() == ["east", "north-east", "north", "\N{SNOWMAN} up", "west"]
        np.testing.assert_array_equal(found.distances, np.float32([0, 1 - 0.5**0.5, 1, 1, 2]))
        assert "south" not in db  # deleted before it was saved
        db.save(tmp_path / "a.omen")
        assert (tmp_path / "a.omen").read_bytes() == GOLDEN.read_bytes()
        assert db.add_batch([[1, 1, 1]], ids=["south"]).tolist() == ["south"]


def test_the_golden_file_is_of_this_format():
    assert omendb.FORMAT_VERSION == 1, "keep format-1.omen and its test, add one for the new version"


# --- saving is all or nothing ----------------------------------------------------------------------------------------

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="other calls sync and name files elsewhere")


def fail(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FullDisk(io.FileIO):
    """Takes the first 500 bytes."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > 500:
            super().write(data[: 500 - self.tell()])
            fail()
        return super().write(data)


def sync_files(handle: int) -> None:
    """os.fsync on a disk that fails for folders only."""
    if os.path.isdir(f"/proc/self/fd/{handle}"):
        fail()


FAILURES = {
    "open": (publish, "open", fail),
    "write": (publish, "open", lambda path, mode: FullDisk(path, "xb")),
    "sync": (os, "fsync", fail),
    "name": (os, "replace", fail),
}


@linux_only
@pytest.mark.parametrize("where", FAILURES)
def test_a_failure_leaves_the_old_file(rng, tmp_path, monkeypatch, where):
    path = tmp_path / "a.omen"
    old = saved(DB.build_from_numpy(rng.normal(size=(90, 4))), path)
    db = DB.build_from_numpy(rng.normal(size=(90, 4)))
    with monkeypatch.context() as broken:
        broken.setattr(*FAILURES[where], raising=False)
        with pytest.raises(omendb.StorageError, match=r"cannot write .*a\.omen: No space left"):
            db.save(path, overwrite=True)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["a.omen"]
    assert saved(db, path) != old


@linux_only
def test_when_only_the_last_sync_fails_the_new_file_is_there(rng, tmp_path, monkeypatch):
    path = tmp_path / "a.omen"
    db = DB.build_from_numpy(rng.normal(size=(90, 4)))
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", sync_files)
        with pytest.raises(omendb.StorageError, match="No space left"):
            db.save(path)
    assert os.listdir(tmp_path) == ["a.omen"]
    assert len(DB.load(path)) == 90


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interruption_leaves_the_old_file(rng, tmp_path, monkeypatch, error):
    path = tmp_path / "a.omen"
    db = DB.build_from_numpy(rng.normal(size=(90, 4)))
    old = saved(db, path)

    def interrupt(_: Any) -> None:
        raise error

    monkeypatch.setattr(publish, "_sync", interrupt)
    db.delete(0)
    with pytest.raises(error):
        db.save(path, overwrite=True)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["a.omen"]


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_without_overwrite_the_first_one_wins(rng, tmp_path, monkeypatch, links):
    path = tmp_path / "a.omen"
    db = DB.build_from_numpy(rng.normal(size=(90, 4)))
    honest = publish._sync
    if not links:
        monkeypatch.setattr(os, "link", fail, raising=False)

    def meanwhile(file: Any) -> None:
        honest(file)
        path.write_bytes(b"theirs")

    with monkeypatch.context() as racing:
        racing.setattr(publish, "_sync", meanwhile)
        with pytest.raises(omendb.AlreadyExists, match="appeared while saving; overwrite=True"):
            db.save(path)
    assert path.read_bytes() == b"theirs"
    path.unlink()
    db.save(path)
    assert os.listdir(tmp_path) == ["a.omen"]
    assert len(DB.load(path)) == 90


@pytest.mark.skipif(sys.platform == "win32", reason="a mapped file cannot be replaced there")
def test_saving_over_the_file_that_is_loaded(rng, tmp_path):
    rows, path = rng.normal(size=(1500, 8)), tmp_path / "a.omen"
    DB.build_from_numpy(rows).save(path)
    reader, writer = DB.load(path), DB.load(path)
    before = everything(reader, rows[:5])
    writer.delete(range(100))
    writer.add_batch(rows[:3] + 9)
    after = everything(writer, rows[:5])
    for _ in range(2):
        writer.save(path, overwrite=True)
        assert everything(writer, rows[:5]) == after
    assert everything(reader, rows[:5]) == before
    assert everything(DB.load(path), rows[:5])[1:3] == after[1:3]
    reader.save(path, overwrite=True)
    assert everything(DB.load(path), rows[:5]) == before


def test_a_link_is_replaced_and_what_it_leads_to_is_not(rng, tmp_path):
    (tmp_path / "other").write_bytes(b"precious")
    path = tmp_path / "a.omen"
    try:
        path.symlink_to(tmp_path / "other")
    except OSError:
        pytest.skip("no right to make links here")
    db = DB.build_from_numpy(rng.normal(size=(9, 4)))
    with pytest.raises(omendb.AlreadyExists):
        db.save(path)
    db.save(path, overwrite=True)
    assert (tmp_path / "other").read_bytes() == b"precious"
    assert len(DB.load(path)) == 9
