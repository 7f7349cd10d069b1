"""Vectors in files that optional libraries read, whole and damaged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_files import ROOT, check_whole, fuzz
from typer.testing import CliRunner

from omendb import DB, CorruptFile, InvalidParameter, cli
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


def test_the_command_line_reads_and_writes_them(rng, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = rng.standard_normal((60, 4), dtype=np.float32)
    table = pa.table({"one": lists_of(rows), "two": lists_of(-rows)})
    parquet.write_table(table, "a.parquet")
    write(Path("q.hdf5"), -rows)
    run = CliRunner().invoke
    assert run(cli.app, ["build", "a.parquet", "a.omen"]).exit_code == 2
    assert run(cli.app, ["build", "a.parquet", "a.omen", "--column", "two"]).exit_code == 0
    ran = run(cli.app, ["search", "a.omen", "q.hdf5", "-k", "1", "--out", "found.parquet"])
    assert ran.exit_code == 0, ran.output
    found = parquet.read_table("found.parquet").to_pydict()
    assert (found["query"], found["id"], found["distance"]) == ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [0.0] * 5)


def test_optional_libraries_wait_until_they_are_asked_for():
    names = {"pyarrow", "pandas", "h5py", "sklearn", "scipy"}
    code = f"import sys, omendb, omendb.files, omendb.cli; print(sorted({names!r} & set(sys.modules)))"
    path = os.pathsep.join(map(str, (ROOT, ROOT / "kernels")))
    ran = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.strip()) == (0, "[]"), ran.stderr
