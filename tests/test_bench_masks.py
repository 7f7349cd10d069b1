"""Masks in `ann`: peers beside ours, speed with recall; a row that a mask refuses. `ci/test peers` has the real peers."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from bench_runs import bench, make_set, measured

import omendb
import omendb_kernels as ok
from bench import ann, masks, sets, tables
from bench.index import Ours
from bench.measurements import measurements
from bench.peers import PEERS

SHARES = [50.0, 10.0, 0.1]  # of 3,000 rows; the last allows 3, fewer than k


@pytest.fixture
def data(tmp_path, rng):
    """One tiny set, uint8 under l2."""
    make_set(tmp_path / "data" / "tiny", rng)
    return sets.load(tmp_path / "data")[0]


class Scan:
    """A peer that scans its rows; how wrong it is, is told by the class."""

    filter = "none to speak of"
    form = staticmethod(lambda rows, metric: rows)

    def __init__(self, rows):
        self.rows, self.asked = rows, []

    def tune(self, effort, threads):
        self.effort = effort

    def allow(self, mask):
        return mask

    def masked(self, queries, k, allowed):
        self.asked.append(len(queries))
        return ok.knn(queries, self.rows, k, "l2", mask=allowed)[1]


class Deaf(Scan):
    def masked(self, queries, k, allowed):
        return super().masked(queries, k, None)


class Lost(Scan):
    def masked(self, queries, k, allowed):
        return super().masked(queries, k, allowed) + len(self.rows)


class Half(Scan):
    """Finds every other neighbour."""

    def masked(self, queries, k, allowed):
        ids = super().masked(queries, k, allowed)
        ids[:, 1::2] = -1
        return ids


def under_masks(data, **others):
    indexes = {"ours": Ours.build(data.base, data.metric, 1), **others}
    curve = [{"effort": effort, "recall": recall} for effort, recall in ((10, 0.9), (12, 0.96), (14, 1.0))]
    return masks.masked(data, indexes, dict.fromkeys(indexes, curve), SHARES, 1, 1)


def test_a_peer_stands_beside_ours_with_its_recall(data):
    right, half = Scan(data.base), Half(data.base)
    found = under_masks(data, right=right, half=half)
    assert [one["rows"] for one in found.values()] == [1500, 300, 3]
    assert all(one["queries"] == 60 and one["exact"]["qps"] > 0 for one in found.values())
    assert all(one["others"]["right"]["recall"] == 1 for one in found.values())
    assert [one["others"]["half"]["recall"] for one in found.values()] == pytest.approx([1 / 2, 1 / 2, 2 / 3])
    assert right.effort == found["10%"]["others"]["right"]["effort"] == 12
    run = {"masks": found, "build": dict.fromkeys(("ours", "right", "half", "svs"))}
    shown = tables.masks(run)
    assert "50% right" in shown
    assert "0.6667" in shown
    assert "half at effort 12: none to speak of" in shown
    assert "takes no filter: svs" in shown


def test_a_slow_peer_is_asked_fewer(data, monkeypatch):
    monkeypatch.setattr(masks, "SECONDS", 0.0)
    slow = Scan(data.base)
    found = under_masks(data, slow=slow)
    assert [one["others"]["slow"]["queries"] for one in found.values()] == [masks.FEW] * 3
    assert set(slow.asked) == {masks.FEW}
    assert all(one["others"]["slow"]["recall"] == 1 and one["queries"] == 60 for one in found.values())


@pytest.mark.parametrize(("kind", "trouble"), [(Deaf, "that the mask refuses"), (Lost, "that does not exist")])
def test_a_peer_that_finds_refused_rows_is_refused(data, kind, trouble):
    with pytest.raises(masks.WrongAnswer, match=f"wrong found a row {trouble}"):
        under_masks(data, wrong=kind(data.base))


def test_ours_that_finds_refused_rows_is_refused(data, tmp_path, monkeypatch, capsys):
    real = omendb.DB.search
    monkeypatch.setattr(omendb.DB, "search", lambda self, *args, mask=None, **options: real(self, *args, **options))
    options = {"sets": "", "peers": "", "threads": "1", "rounds": 1, "builds": 1, "masks": "10", "resume": False}
    assert ann.report(tmp_path / "data", **options, out=tmp_path / "red.json", unset={}) == 1
    shown = capsys.readouterr().out
    assert "RED: tiny: ours found a row that the mask refuses. No times." in shown
    assert "QPS" not in shown
    assert not (tmp_path / "red.json").exists()


def test_runs_from_before_peers_were_masked_are_still_shown():
    found = {"10%": {"rows": 300, "tuned": {"qps": 2000.0, "recall": 0.97}, "exact": {"qps": 1000.0}}}
    run = {"masks": found, "build": {"ours": {}, "hnswlib": {}}}
    assert [line.split() for line in tables.masks(run).splitlines()[1:]] == [
        ["10%", "ours", "300", "-", "2,000", "0.9700"],
        ["10%", "ours,", "exact", "300", "-", "1,000", "1"],
    ]


# ---- the real ones --------------------------------------------------------------------------------------------------

FILTERING = ("hnswlib", "faiss", "flat")


def test_who_takes_a_filter():
    assert tuple(name for name, kind in PEERS.items() if hasattr(kind, "allow")) == FILTERING


def built(name, rows, metric):
    kind = PEERS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that SWIG makes
        pytest.importorskip(kind.module, reason=f"{kind.package} is not installed: ci/test peers")
    return kind.build(kind.form(rows, metric), metric, 1)


@pytest.mark.parametrize("name", FILTERING)
@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_they_find_what_a_mask_allows(rng, name, metric):
    """With an ef of all rows: nothing else, and all of it."""
    rows, mask = rng.standard_normal((1000, 16)).astype(np.float32), rng.random(1000) < 0.3
    queries = rng.standard_normal((20, 16)).astype(np.float32)
    index = built(name, rows, metric)
    index.tune(1000, 1)
    ids = index.masked(index.form(queries, metric), 10, index.allow(mask))
    found = sets.DataSet("some", metric, rows, queries)
    assert masks.recall(found, ids, mask, ok.knn(queries, rows, 10, metric, mask=mask)[0], name) > 0.98


@pytest.mark.parametrize("name", FILTERING)
def test_who_finds_fewer_than_k(rng, name):
    rows, mask = rng.standard_normal((500, 8)).astype(np.float32), np.arange(500) < 3
    index = built(name, rows, "l2")
    index.tune(500, 1)
    allowed = index.allow(mask)
    assert set(index.masked(rows[:1], 3, allowed)[0]) == {0, 1, 2}
    ids = index.masked(rows[:2], 5, allowed)
    assert ids.shape == (2, 5)
    assert set(ids.ravel()) == ({-1} if name == "hnswlib" else {-1, 0, 1, 2})  # which raises: nothing was found


def test_ann_asks_them_under_masks(data, tmp_path):
    built("hnswlib", np.eye(2), "l2")
    built("faiss", np.eye(2), "l2")
    options = ("--peers", "hnswlib,faiss,flat", "--rounds", 1, "--builds", 1, "--masks", "50,.1")
    told = measured(tmp_path / "ann.json", "ann", "--data", tmp_path / "data", *options)
    (run,) = told["results"][0]["runs"]
    for share in run["masks"].values():
        assert list(share["others"]) == ["hnswlib", "faiss", "flat"]
        assert all(0 <= one["recall"] <= 1 and one["qps"] > 0 for one in share["others"].values())
        assert share["others"]["flat"]["recall"] == 1
    assert run["masks"]["50%"]["others"]["hnswlib"]["recall"] > 0.9
    assert sum("masks" in name and "faiss" in name for name in measurements(told)) == 4  # speed and recall, twice
    assert bench("report", tmp_path / "ann.json", "--out", tmp_path / "page.html").returncode == 0
    page = (tmp_path / "page.html").read_text()
    assert "0.1% hnswlib" in page
    assert "a Python function for each row it meets" in page
