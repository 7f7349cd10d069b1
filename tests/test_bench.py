"""`python -m bench NAME` as a user runs it: toy sizes of every command, alone; how it refuses, goes on, and ends early."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
from bench_runs import bench, make_set, measured

import omendb
from bench import ann as bench_ann
from bench import databases, scale, sets
from bench.index import Ours
from bench.record import Record


@pytest.fixture
def folder(tmp_path, rng):
    """One tiny set."""
    make_set(tmp_path / "data" / "tiny", rng)
    return tmp_path / "data"


def report(folder, out, threads="1", resume=False, masks=""):
    """In this process."""
    options = {"sets": "", "peers": "", "threads": threads, "rounds": 1, "builds": 1, "masks": masks}
    return bench_ann.report(folder, **options, out=out, resume=resume, unset={})


def test_ann_measures_ours_alone(folder, tmp_path):
    options = ("--peers", "", "--threads", "1,2", "--rounds", 1, "--builds", 1)
    both = measured(tmp_path / "both.json", "ann", "--data", folder, *options)
    assert report(folder, tmp_path / "one.json", masks="50,10,1,.1") == 0
    one = json.loads((tmp_path / "one.json").read_text())
    assert one["config_hash"] == both["config_hash"]
    assert [run["threads"] for run in both["results"][0]["runs"]] == [1, 2]
    assert set(both["results"][0]["speedups"]) == {"1 -> 2"}
    (run,) = one["results"][0]["runs"]
    curve = run["curves"]["queries"]["ours"]
    assert all(0 <= point["recall"] <= 1 and point["qps"] > 0 for point in curve)
    assert curve[-1]["recall"] >= 0.95
    assert run["build"]["ours"]["nbytes"] > 3000 * 32
    assert run["build"]["ours"]["load"]["seconds"] > 0
    assert sorted(run["single"]["ours"]["us"]) == run["single"]["ours"]["us"]
    assert [one["rows"] for one in run["masks"].values()] == [1500, 300, 30, 3]  # the last are fewer than k
    assert all(one["tuned"]["recall"] > 0.9 and one["exact"]["qps"] > 0 for one in run["masks"].values())


@pytest.mark.parametrize(
    "wrong", [("--peers", "hnswlib,unheard"), ("--sets", "unheard"), ("--threads", "0"), ("--threads", "1,x"), ("--masks", "0")]
)
def test_a_wrong_word_is_one_line(folder, wrong):
    done = bench("ann", "--data", folder, "--peers", "", *wrong)
    assert done.returncode != 0
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert wrong[1].split(",")[-1] in line


# ---- ann: the gate, and going on ------------------------------------------------------------------------------------


class Blind(Ours):
    """Finds nothing, as an index does that lost its rows."""

    def search(self, queries, k):
        return np.full((len(queries), k), -1)


def test_an_empty_index_is_refused(folder, tmp_path, monkeypatch, capsys):
    (data,) = sets.load(folder)
    assert bench_ann.gate(data, {1: Ours.build(data.base, "l2", 1)}) == ""
    none = Ours(omendb.DB(metric="l2", dim=data.base.shape[1]))
    assert bench_ann.gate(data, {1: none}).startswith("nothing to look for or in")
    monkeypatch.setattr(bench_ann, "Ours", Blind)
    assert report(folder, tmp_path / "red.json") == 1
    shown = capsys.readouterr().out
    assert "RED: tiny: an id out of range (queries). No times." in shown
    assert "QPS" not in shown
    assert not (tmp_path / "red.json").exists()


def test_ann_goes_on_where_it_was_interrupted(folder, tmp_path, rng, monkeypatch):
    make_set(folder / "tinier", rng, rows=2000)
    out, real, seen = tmp_path / "ann.json", bench_ann.build_all, []

    def once(data, *rest):
        seen.append(data.name)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(data, *rest)

    monkeypatch.setattr(bench_ann, "build_all", once)
    with pytest.raises(SystemExit) as ended:
        report(folder, out)
    assert ended.value.code == 130
    kept = json.loads(out.read_text())
    assert [one["set"] for one in kept["results"]] == ["tinier"]
    assert not kept["finished"]
    assert report(folder, out, resume=True) == 0
    whole = json.loads(out.read_text())
    assert seen == ["tinier", "tiny", "tiny"]
    assert whole["results"][0] == kept["results"][0]
    assert [one["set"] for one in whole["results"]] == ["tinier", "tiny"]
    assert whole["finished"]
    with pytest.raises(SystemExit, match="other options"):
        report(folder, out, threads="1,2", resume=True)


def test_a_record_of_another_machine_or_commit_is_not_gone_on_with(tmp_path):
    out = tmp_path / "record.json"
    Record("ann", out, {"rounds": 1}, {}, resume=False).put("first", {"seconds": 1.0})
    assert Record("ann", out, {"rounds": 1}, {}, resume=True).get("first") == {"key": "first", "seconds": 1.0}
    assert Record("ann", out, {"rounds": 1}, {}, resume=False).get("first") is None
    told = json.loads(out.read_text())
    told["stamp"] |= {"commit": "another", "machine": {"cpu": "another"}}
    out.write_text(json.dumps(told))
    with pytest.raises(SystemExit, match="other commit and machine"):
        Record("ann", out, {"rounds": 1}, {}, resume=True)
    with pytest.raises(SystemExit, match="--out"):
        Record("ann", None, {"rounds": 1}, {}, resume=True)


# ---- the other commands, at toy sizes -------------------------------------------------------------------------------


def test_writes(folder, tmp_path):
    told = measured(tmp_path / "out.json", "writes", "--data", folder, "--threads", 1, "--rounds", 1, "--scale", 0.005)
    assert told["insert"]["1"]["ours"]["rows_per_second"] > 0
    assert told["durable"]["1"]["full"]["rows_per_second"] > 0


def test_large(folder, tmp_path):
    told = measured(tmp_path / "out.json", "large", "--data", folder, "--rows", 5000, "--threads", 1)
    assert told["build"]["report"]["rows"] == 5000
    assert told["found"]["clustered"][-1]["recall"] > 0.5


def test_start(folder, tmp_path):
    told = measured(tmp_path / "out.json", "start", "--data", folder, "--rounds", 1)
    seconds = told["results"][0]["seconds"]
    assert seconds["import"] < seconds["first answer"]


@pytest.mark.skipif(not importlib.util.find_spec("hnswlib"), reason="exchange is with hnswlib or FAISS: neither is installed")
def test_exchange(tmp_path, rng):
    """Its gate is of half a point: where two of 60 queries begin in a wrong small cluster, one of them lost is 1.7."""
    make_set(tmp_path / "data" / "tiny", rng, clusters=4)
    told = measured(tmp_path / "out.json", "exchange", "--data", tmp_path / "data", "--threads", 1)
    assert max(told["results"]["tiny"]["exported"]["hnswlib"]["recall"]) > 0.9


@pytest.mark.long
def test_dispatch(tmp_path):
    told = measured(tmp_path / "out.json", "dispatch", "--quick", "--rounds", 1, "--threads", 1)
    assert all(one["regret"] >= 1 for one in told["calls"])


@pytest.mark.long
def test_compiling(tmp_path):
    told = measured(tmp_path / "out.json", "compiling")
    assert set(told["cold"]["seconds"]) == {"build", "search", "insert", "delete", "total"}


def test_scale(tmp_path):
    axes = ("--n", "300,600", "--d", "", "--k", "", "--batch", "", "--threads", "")
    told = measured(tmp_path / "out.json", "scale", "--rows", 300, "--dim", 8, *axes, "--rounds", 1)
    assert [one["axis"] for one in told["results"]] == ["n"]


def test_scale_fits_exponents_and_refuses_wrong_answers(tmp_path, monkeypatch, capsys):
    points = [{"at": size, "seconds": 3e-6 * size**1.5} for size in (100, 1000, 7000)]
    assert scale.exponent(points) == pytest.approx(1.5)
    grown = {"n": "300,600", "d": "", "k": "1,3", "batch": "", "threads": ""}
    out, options = tmp_path / "out.json", {"base": scale.Point(300, 8, batch=10), "grown": grown, "rounds": 1, "unset": {}}
    assert scale.report(**options, out=out, resume=False) == 0
    told = json.loads(out.read_text())
    assert [one["axis"] for one in told["results"]] == ["n", "k"]
    assert [len(one["results"]) for one in told["results"]] == [3, 2]  # a build does not know k
    right = scale.reference.knn
    monkeypatch.setattr(scale.reference, "knn", lambda *args: tuple(part[:, ::-1] for part in right(*args)))
    capsys.readouterr()
    assert scale.report(**options, out=None, resume=False) == 1
    assert "RED: n 300: " in capsys.readouterr().out
    with pytest.raises(SystemExit, match="two or more whole numbers"):
        scale.values("n", "5")


# ---- databases ------------------------------------------------------------------------------------------------------


def test_databases(tmp_path):
    told = measured(tmp_path / "out.json", "databases", "--rows", 300, "--dim", 8, "--batch", 100)
    assert [one["name"] for one in told["results"]] == ["ours", "ours, normal"]
    assert all(one["recall"] == 1 and one["rows_per_second"] > 0 and one["durability"] for one in told["results"])
    page = tmp_path / "page.html"
    assert bench("report", tmp_path / "out.json", "--out", page).returncode == 0
    assert told["results"][0]["durability"] in page.read_text()


class Forgetful(databases.Ours):
    """Keeps the first batch only."""

    def add(self, first, rows):
        if not first:
            super().add(first, rows)


class Confused(databases.Ours):
    """Answers with the second nearest first."""

    def search(self, query, k):
        return super().search(query, k)[::-1]


@pytest.mark.parametrize(("kind", "trouble"), [(Forgetful, "100 of 300 rows are there"), (Confused, "are not the oracle's")])
def test_a_wrong_database_is_refused(kind, trouble, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(databases.KINDS, "ours", kind)
    options = {"rows": 300, "dim": 8, "batch": 100, "peers": "", "unset": {}}
    assert databases.report(**options, out=tmp_path / "out.json") == 1
    shown = capsys.readouterr().out
    assert trouble in shown
    assert "rows/s" not in shown
    assert not (tmp_path / "out.json").exists()
    with pytest.raises(SystemExit, match="unknown database 'unheard'"):
        databases.chosen("unheard")
