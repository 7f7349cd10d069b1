"""bench/integrations: what other projects' benchmarks do with omendb, through their own interfaces.

Where a project can be imported it is used, else its stand-in of tests/stand_ins. The stand-ins were checked, by these tests and
with the real projects, against ann-benchmarks at commit f402b2cc (June 2025), and VectorDBBench 2.0.0 and its commit 4ea18105.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
STAND_INS = ROOT / "tests" / "stand_ins"
PLACE = ROOT / "bench" / "integrations" / "place.py"
DRIVERS = {"ann_benchmarks": "integration_ann.py", "vectordb_bench": "integration_vdb.py"}
NAMES = {"ann_benchmarks": "ann-benchmarks", "vectordb_bench": "vectordbbench"}


def run(*arguments: Any, cwd: Path, path: tuple[Path, ...] = ()) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT, ROOT / "kernels", *sys.path)))}
    done = subprocess.run([sys.executable, *map(str, arguments)], env=env, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]


def placed(package: str, home: Path, source: Path) -> Path:
    """A folder that holds a copy of a project, with our files in it; placed twice, which is no error."""
    shutil.copytree(source, home / package, ignore=shutil.ignore_patterns("__pycache__"))
    if source.parent == STAND_INS:
        shutil.copy(STAND_INS / "pydantic.py", home)
    for _ in range(2):
        run(PLACE, NAMES[package], home, cwd=home)
    return home


def reported(package: str, home: Path, source: Path) -> dict[str, Any]:
    project = placed(package, home, source)
    out = home / "report.json"
    run(ROOT / "tests" / DRIVERS[package], out, home / "data", cwd=home, path=(project,))
    return json.loads(out.read_text(encoding="utf-8"))


def real(package: str) -> Path | None:
    """The installed project's folder."""
    spec = util.find_spec(package)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


@pytest.fixture(scope="module")
def ann(tmp_path_factory) -> dict[str, Any]:
    package = "ann_benchmarks"
    return reported(package, tmp_path_factory.mktemp("ann"), real(package) or STAND_INS / package)


@pytest.fixture(scope="module")
def vdb(tmp_path_factory) -> dict[str, Any]:
    package = "vectordb_bench"
    return reported(package, tmp_path_factory.mktemp("vdb"), real(package) or STAND_INS / package)


@pytest.mark.parametrize("metric", ["euclidean", "angular"])
def test_ann_benchmarks_runs_every_definition(ann, metric):
    found = ann[metric]
    kinds = {kind: [one for one in found if one["arguments"][1] == kind] for kind in ("graph", "tuned", "certified")}
    assert [one["arguments"] for one in kinds["tuned"]] == [[metric, "tuned", recall] for recall in (0.9, 0.95, 0.99)]
    assert [one["asked"] for one in kinds["graph"]][:2] == [[10], [12]]
    assert all(one["beam"] == one["asked"][0] for one in kinds["graph"])
    assert len({one["name"] for one in found}) == len(found)
    assert all(one["ids0"] == one["ids1"] for one in found)  # one query at a time, and all at once
    assert [(one["recall"], one["beam"]) for one in kinds["certified"]] == [(1.0, 0)]
    assert kinds["graph"][-1]["recall"] > 0.999
    assert kinds["graph"][0]["recall"] < kinds["graph"][-1]["recall"] or kinds["graph"][0]["recall"] == 1.0
    for one in kinds["tuned"]:
        assert one["recall"] > one["arguments"][2] - 0.06  # 400 neighbours of 40 queries


def test_ann_benchmarks_sets_with_rows_of_zeros(ann):
    alone, own, zeros = ann["zeros"][:3]
    assert own[0] == 5
    assert len(set(alone)) == len(set(zeros)) == 10
    assert not {3, 70} & {row for ids in ann["zeros"] for row in ids}


@pytest.mark.parametrize(("case", "least"), [("COSINE False", 0.9), ("L2 True", 1.0), ("IP False", 0.8), ("COSINE True", 1.0)])
def test_vectordbbench_client_lives_in_several_processes(vdb, case, least):
    found = vdb[case]
    assert found["inserted"] == 12_000
    assert all(found[kind] >= least for kind in ("none", "int", "label")), found
    assert len(found["beside"]) == 10
    if not case.startswith("L2"):  # ten times the query itself is not near under l2
        assert found["beside"][0] == 12_007


def test_vectordbbench_drops_only_what_is_ours(vdb):
    assert vdb["keeps"]


@pytest.mark.parametrize("package", DRIVERS)
def test_stand_ins_have_the_real_signatures(package, tmp_path, request):
    if real(package) is None:
        pytest.skip(f"{package} is not installed")
    theirs = request.getfixturevalue({"ann_benchmarks": "ann", "vectordb_bench": "vdb"}[package])["methods"]
    ours = reported(package, tmp_path, STAND_INS / package)["methods"]
    assert ours == {name: theirs[name] for name in ours}


def test_a_project_that_changed_is_left_alone(tmp_path):
    package = "vectordb_bench"
    shutil.copytree(STAND_INS / package, tmp_path / package)
    listed = tmp_path / package / "backend" / "clients" / "__init__.py"
    text = listed.read_text(encoding="utf-8").replace("if self == DB.Milvus", "if self is DB.Milvus", 1)
    listed.write_text(text, encoding="utf-8")
    done = subprocess.run([sys.executable, PLACE, NAMES[package], tmp_path], capture_output=True, text=True)
    assert done.returncode == 1
    assert "by hand" in done.stderr
    assert listed.read_text(encoding="utf-8") == text


def test_yaml_of_the_stand_in_is_yaml():
    yaml = pytest.importorskip("yaml")
    spec = util.spec_from_file_location("stand_in_definitions", STAND_INS / "ann_benchmarks" / "definitions.py")
    module = util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    text = (ROOT / "bench/integrations/ann_benchmarks/omendb/config.yml").read_text(encoding="utf-8")
    assert module.plain(text) == yaml.safe_load(text)
