"""The built wheel as a user gets it. ci/test copies this file into an empty folder and runs it there with pytest."""

import os
import subprocess
import sys
import sysconfig
from importlib.metadata import distribution
from pathlib import Path

import numpy as np

import omendb
import omendb_kernels

SITE = Path(sysconfig.get_path("purelib"))
PACKAGES = {"omendb", "omendb_kernels"}


def test_top_level_names():
    # A distribution lists its scripts as paths that climb out of site-packages.
    names = {file.parts[0] for file in distribution("omendb-kernels").files if file.parts[0] != ".."}
    assert {name for name in names if not name.endswith(".dist-info")} == PACKAGES


def test_every_source_file_is_packed():
    source = Path(os.environ["OMENDB_SOURCE"])
    for folder in (source / "omendb", source / "kernels" / "omendb_kernels"):
        written = {path.relative_to(folder.parent) for path in folder.rglob("*") if path.is_file()}
        written = {path for path in written if "__pycache__" not in path.parts}
        assert {path for path in written if not (SITE / path).is_file()} == set()


def test_packages_come_from_the_wheel():
    for package in (omendb, omendb_kernels):
        assert SITE in Path(package.__file__).parents


def test_license_and_notice_are_packed():
    packed = {file.name for file in distribution("omendb-kernels").files}
    assert {"LICENSE", "NOTICE"} <= packed


def test_search_survives_the_file(tmp_path):
    vectors = np.random.default_rng().standard_normal((300, 8), dtype=np.float32)
    omendb.DB.build_from_numpy(vectors).save(tmp_path / "index.omen")
    with omendb.DB.load(tmp_path / "index.omen") as db:
        found = db.search(vectors[:5], k=3)
    distances, ids = omendb_kernels.knn(vectors[:5], vectors, 3)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_array_equal(found.distances, distances)


def test_demo_runs():
    script = Path(sys.executable).with_name("omendb")
    result = subprocess.run([script, "demo", "guitar"], capture_output=True, text=True, encoding="utf-8")
    assert result.returncode == 0, result.stderr
    assert "guitar" in result.stdout
