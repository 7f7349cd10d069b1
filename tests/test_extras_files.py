"""Vectors in files that optional libraries read, whole and damaged."""

from __future__ import annotations

import numpy as np
import pytest
from test_files import check_whole, fuzz

from omendb import DB, CorruptFile, InvalidParameter
from omendb.files import open_vectors

pa = pytest.importorskip("pyarrow")
h5py = pytest.importorskip("h5py")
parquet = pytest.importorskip("pyarrow.parquet")


def lists_of(rows: np.ndarray):
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])


def write(path, rows: np.ndarray) -> None:
    """A file of these rows, by its suffix, in several row groups or batches."""
    if path.suffix in (".hdf5", ".h5"):
        with h5py.File(path, "w") as file:
            file.create_dataset("train", data=rows, chunks=(7, rows.shape[1]), compression="gzip")
            file.create_dataset("test", data=rows[:5])
            file.create_dataset("neighbors", data=np.zeros((5, 3), np.int32))
        return
    table = pa.table({"id": np.arange(len(rows)), "vector": lists_of(rows)})
    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=40)
        return
    make = pa.ipc.new_stream if path.suffix == ".ipc" else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as sink, make(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=40)


SUFFIXES = [".hdf5", ".h5", ".parquet", ".arrow", ".feather", ".ipc"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_whole_files(rng, tmp_path, suffix):
    rows = rng.standard_normal((130, 6), dtype=np.float32)
    write(tmp_path / f"a{suffix}", rows)
    check_whole(tmp_path / f"a{suffix}", rows, counted=suffix in (".hdf5", ".h5", ".parquet"))


def test_the_datasets_of_ann_benchmarks(rng, tmp_path):
    rows = rng.standard_normal((30, 6), dtype=np.float32)
    write(tmp_path / "a.hdf5", rows)
    assert open_vectors(tmp_path / "a.hdf5").rows == 30
    assert open_vectors(tmp_path / "a.hdf5", queries=True).rows == 5
    assert open_vectors(tmp_path / "a.hdf5", "neighbors").dim == 3
    with pytest.raises(InvalidParameter, match="'train'"):
        open_vectors(tmp_path / "a.hdf5", "distances")


def test_columns_are_chosen(rng, tmp_path):
    rows = rng.standard_normal((30, 4), dtype=np.float32)
    table = pa.table({"one": lists_of(rows), "two": lists_of(-rows), "three": pa.array(rows.tolist()), "n": np.arange(30)})
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InvalidParameter, match="'one', 'two', 'three'"):
        open_vectors(tmp_path / "a.parquet")
    with pytest.raises(InvalidParameter, match="column: got 'n'"):
        open_vectors(tmp_path / "a.parquet", "n")
    assert (DB.build_from_numpy(open_vectors(tmp_path / "a.parquet", "two").batches()).get(3).vector == -rows[3]).all()
    plain = open_vectors(tmp_path / "a.parquet", "three")
    assert (plain.rows, plain.dim) == (30, None)
    assert (DB.build_from_numpy(plain.batches()).get(3).vector == rows[3]).all()


def test_a_dataset_larger_than_its_file_is_refused(tmp_path):
    for options in ({"chunks": (10, 1000)}, {"chunks": (10, 1000), "compression": "gzip"}):
        with h5py.File(tmp_path / "a.hdf5", "w") as file:
            file.create_dataset("train", shape=(10**9, 1000), dtype=np.float32, **options)
        with pytest.raises(CorruptFile, match="cannot hold 1000000000 rows"):
            open_vectors(tmp_path / "a.hdf5")


@pytest.mark.parametrize("suffix", [".hdf5", ".parquet", ".arrow", ".ipc"])
def test_damaged_files_are_refused(rng, tmp_path, suffix):
    write(tmp_path / f"a{suffix}", rng.standard_normal((60, 6), dtype=np.float32))
    fuzz(rng, tmp_path / f"a{suffix}", 150)
