"""The bench reads HDF5 files of ann-benchmarks."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from bench_runs import bench, measured

from bench import sets

h5py = pytest.importorskip("h5py")


def write(path, distance, rows, queries):
    """As ann-benchmarks does."""
    with h5py.File(path, "w") as file:
        if distance is not None:
            file.attrs["distance"] = distance
        file["train"], file["test"] = rows, queries
        file["neighbors"] = np.zeros((len(queries), 100), np.int32)
        file["distances"] = np.zeros((len(queries), 100), np.float32)
    return path


@pytest.mark.parametrize("distance", ["euclidean", "angular", np.bytes_("angular")])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_a_file_is_a_set(rng, tmp_path, distance, dtype):
    rows = rng.integers(0, 256, (50, 6)).astype(dtype)
    (data,) = sets.load(write(tmp_path / "some-6.hdf5", distance, rows, rows[:5]))
    assert (data.name, data.metric) == ("some-6", "l2" if distance == "euclidean" else "cosine")
    assert data.base.dtype == data.queries.dtype == dtype
    assert (data.base == rows).all()
    assert list(data.asked) == ["queries"]
    assert sets.chosen(tmp_path / "some-6.hdf5", "some-6")[0].name == "some-6"


def test_commands_take_it(rng, tmp_path):
    rows = (rng.standard_normal((20, 8))[rng.integers(0, 20, 2060)] + rng.standard_normal((2060, 8)) / 2).astype(np.float32)
    path = write(tmp_path / "some.hdf5", "euclidean", rows[60:], rows[:60])
    options = ("--peers", "", "--rounds", 1, "--builds", 1, "--masks", "")
    (one,) = measured(tmp_path / "ann.json", "ann", "--data", path, *options)["results"]
    assert one["set"] == "some"
    (one,) = measured(tmp_path / "start.json", "start", "--data", path, "--rounds", 1)["results"]
    assert (one["set"], one["rows"]) == ("some", 2000)


def test_other_files_are_one_line(rng, tmp_path):
    rows = rng.standard_normal((5, 3), dtype=np.float32)
    hamming = write(tmp_path / "a.hdf5", "hamming", rows, rows)
    done = bench("ann", "--data", hamming, "--peers", "")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip() == f"{hamming}: its distance is 'hamming', wanted one of euclidean, angular"
    with pytest.raises(SystemExit, match="distance is None"):
        sets.load(write(tmp_path / "b.hdf5", None, rows, rows))
    with h5py.File(tmp_path / "c.hdf5", "w") as file:
        file.attrs["distance"] = "angular"
    with pytest.raises(SystemExit, match="not an HDF5 file of ann-benchmarks with train and test"):
        sets.load(tmp_path / "c.hdf5")
    (tmp_path / "d.hdf5").write_text("text")
    with pytest.raises(SystemExit, match="not an HDF5 file"):
        sets.load(tmp_path / "d.hdf5")


def test_a_missing_library_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "a.hdf5").write_text("any")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(SystemExit, match=r"needs h5py: pip install 'omendb-kernels\[hdf5\]'$"):
        sets.load(tmp_path / "a.hdf5")
