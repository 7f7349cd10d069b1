"""Files of hnswlib and FAISS without either library: what is written is read again by a parser of its own, and by ours."""

from __future__ import annotations

import errno
import math
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exchange_sets import IDS, METRICS, database, spoiled

import omendb
import omendb_kernels as ok
from omendb import DB
from omendb.exchange import contents
from omendb_kernels.contract import CodeRows
from omendb_kernels.graph.hnsw import level_shares

DTYPES = ["float32", "float16", "bfloat16", "int8", "uint8"]


def kept(db: DB) -> np.ndarray:
    """The live rows as a foreign file has them: float32, of length one under cosine."""
    rows = db._now.compacted(threads=1).points.vectors.float32().astype(np.float64)
    if db.metric == "cosine":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def rows_of(db: DB) -> np.ndarray:
    return db._now.points.vectors.float32()


# --- the hierarchy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("n", "copies"), [(1, 0), (2, 0), (17, 9), (1500, 0), (6000, 900)])
def test_layers_are_sound(rng, metric, n, copies):
    rows = rng.standard_normal((n, 9)).astype(np.float32) + 3
    rows[n - copies :] = rows[rng.integers(0, max(1, n // 300), copies)]
    graph, points, _ = ok.build_graph(rows, metric)
    points = points.extend(rng.standard_normal((n // 9, 9)).astype(np.float32) + 3, refit=False)
    hnsw = ok.layer_graph(graph, points)
    assert len(hnsw) == len(points)
    assert (hnsw.levels[hnsw.entry], hnsw.m) == (len(hnsw.layers) - 1, 16)
    for level, layer in enumerate(hnsw.layers):
        assert np.array_equal(layer.rows, np.flatnonzero(hnsw.levels >= level))
        assert layer.lists.shape == (len(layer.rows), 16 if level else 32)
        there = layer.lists >= 0
        assert (np.diff(there.astype(np.int8), axis=1) <= 0).all(), "a gap in a list"
        assert np.isin(layer.lists[there], layer.rows).all(), "a list leads out of its layer"
        assert (layer.lists != layer.rows[:, None]).all(), "a row leads to itself"
        ordered = np.sort(layer.lists, axis=1)
        assert not ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(), "a row twice in a list"
    assert reached(hnsw.layers[0].lists, hnsw.entry).all()


def reached(lists: np.ndarray, start: int) -> np.ndarray:
    seen = np.zeros(len(lists), np.bool_)
    seen[start], todo = True, np.array([start])
    while len(todo):
        found = np.unique(lists[todo])
        todo = found[(found >= 0) & ~seen[found]]
        seen[todo] = True
    return seen


def test_levels_are_geometric(rng):
    """Sixteen times fewer rows a layer, by five standard errors, and a twentieth more where some would not be near one; the
    shares are FAISS's own for M = 16 and sum to one."""
    n = 60_000
    points = ok.PointSet.encode(rng.integers(0, 255, (n, 8), dtype=np.uint8))
    settings = ok.build_graph(rng.standard_normal((10, 8)))[0].settings
    lists = rng.integers(0, n, (n, settings.degree + 1), dtype=np.int32)
    anyhow = ok.Graph(settings, lists, lists[0, :1], None, 20, math.nan)
    levels = ok.layer_graph(anyhow, points).levels
    for level in (1, 2, 3):
        share = 16.0**-level
        error = 5 * math.sqrt(share / n)
        assert share - error < (levels >= level).mean() < 1.05 * share + error
    shares = level_shares(16)
    assert len(shares) == 8
    assert sum(shares) == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("clusters", [1, 20, 100])
def test_each_row_is_near_one_of_the_layer_above(rng, clusters):
    """Two links away at most, however small the clusters are."""
    centres = rng.integers(0, 200, (clusters, 16))
    graph, points, _ = ok.build_graph(centres[rng.integers(0, clusters, 4000)] + rng.integers(0, 20, (4000, 16)))
    hnsw = ok.layer_graph(graph, points)
    assert len(hnsw.layers) > 2
    for level, layer in enumerate(hnsw.layers[1:]):
        lists = graph.neighbours if level == 0 else hnsw.layers[level].lists
        above = np.zeros(len(points) + 1, np.bool_)  # the last: none
        above[layer.rows] = True
        one_step = above.copy()
        one_step[hnsw.layers[level].rows] |= above[lists].any(axis=1)
        assert (one_step[hnsw.layers[level].rows] | one_step[lists].any(axis=1)).all()


def test_the_hierarchy_is_the_same_everywhere(rng):
    rows = np.concatenate([rng.standard_normal((2500, 12)), np.ones((40, 12))]).astype(np.float32)
    told = set()
    for name in [name for name, unusable in ok.list_backends().items() if unusable is None and name in ("numpy", "numba")]:
        for threads in (1, 3):
            with ok.use_backend(name):
                graph, points, _ = ok.build_graph(rows, "ip")
                hnsw = ok.layer_graph(graph, points, threads=threads)
            told.add((hnsw.entry, *(layer.rows.tobytes() + layer.lists.tobytes() for layer in hnsw.layers)))
    assert len(told) == 1


def test_rows_that_left_are_refused(rng):
    graph, points, _ = ok.build_graph(rng.standard_normal((400, 5)))
    live = np.arange(400) % 3 > 0
    mended = ok.consolidate_graph(graph, points, live)
    with pytest.raises(omendb.InvalidParameter, match="134 rows that have left"):
        ok.layer_graph(mended, points)
    rows = np.flatnonzero(live)
    assert len(ok.layer_graph(mended.take(rows), points.take(rows))) == 266


def test_twins_of_a_full_list_lose_nothing():
    """By hand: a node whose list is full and who has five twins, and two others that have one and none."""
    from omendb_kernels.graph.graph import Twins
    from omendb_kernels.graph.hnsw import _with_twins

    lists = np.full((12, 6), -1, np.int32)
    lists[0], lists[1, :2], lists[2, :1] = [1, 2, 3, 4, 5, 11], [0, 2], [1]
    heads, rows = np.array([0, 0, 0, 0, 0, 1], np.int32), np.array([6, 7, 8, 9, 10, 11], np.int32)
    made = _with_twins(lists, Twins(heads, rows))
    assert made[0].tolist() == [6, 7, 1, 2, 3, 4]
    assert made[6].tolist() == [0, 8, 9, 11, 5, 4]  # its node, its children, the node's list from the far end
    assert made[7].tolist() == [0, 10, 11, 5, 4, 3]
    assert made[8].tolist() == [6, 11, 5, 4, 3, 2]
    assert made[1].tolist() == [11, 0, 2, -1, -1, -1]
    assert made[11].tolist() == [1, 2, 0, -1, -1, -1]
    assert made[2].tolist() == [1, -1, -1, -1, -1, -1]


# --- what is written ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_hnswlib_layout(rng, tmp_path, metric):
    """Read by struct, field by field, as hnswalg.h does."""
    db = database(rng, metric, "int")
    db.to_hnswlib(tmp_path / "a")
    data, n, d, ids, rows = (tmp_path / "a").read_bytes(), len(db), db.dim, db.ids, kept(db)
    first, most, count, record, label, vector, top, entry, max_m, max_m0, m, mult, ef = struct.unpack_from("<6QiI3QdQ", data)
    assert (first, most, count, max_m, max_m0, m, ef) == (0, n, n, 16, 32, 16, 200)
    assert (vector, label, record, mult) == (132, 132 + 4 * d, 140 + 4 * d, pytest.approx(1 / math.log(16)))
    lists, place = [], 96
    for i in range(n):
        links, flags = struct.unpack_from("<HB", data, place)
        lists.append(struct.unpack_from(f"<{links}I", data, place + 4))
        assert flags == 0
        assert all(link < n and link != i for link in lists[-1])
        assert struct.unpack_from("<Q", data, place + label)[0] == ids[i]
        assert np.array_equal(np.frombuffer(data, "<f4", d, place + vector), rows[i])
        place += record
    levels = []
    for _ in range(n):
        (size,) = struct.unpack_from("<I", data, place)
        levels.append(size // 68)
        for level in range(size // 68):
            links, *ids = struct.unpack_from("<17I", data, place + 4 + 68 * level)
            assert links <= 16
            assert all(link < n for link in ids[:links])
        place += 4 + size
    assert place == len(data)
    assert (max(levels), levels[entry]) == (top, top)
    padded = np.array([links + (-1,) * (32 - len(links)) for links in lists])
    assert reached(padded, entry).all()


@pytest.mark.parametrize("ids", ["int", "row"])
def test_faiss_layout(rng, tmp_path, ids):
    """Read by struct, as index_read.cpp does; the id map only where ids are not row numbers."""
    db = DB.build_from_numpy(rng.standard_normal((700, 6)), ids=np.arange(700) * 2 if ids == "int" else None, build_threshold=1)
    db.to_faiss(tmp_path / "a")
    data, place, header = (tmp_path / "a").read_bytes(), 0, struct.pack("<iqqqBi", 6, 700, 1 << 20, 1 << 20, 1, 1)

    def take(form: str) -> tuple[Any, ...]:
        nonlocal place
        found = struct.unpack_from("<" + form, data, place)
        place += struct.calcsize("<" + form)
        return found

    def array(code: str) -> tuple[Any, ...]:
        return take(f"{take('Q')[0]}{code}")

    for kind in ("IxM2", "IHNf") if ids == "int" else ("IHNf",):
        assert take("4s33s") == (kind.encode(), header)
    shares, places, levels, offsets, links = array("d"), array("i"), array("i"), array("Q"), array("i")
    assert (len(shares), places) == (8, (0, 32, 48, 64, 80, 96, 112, 128, 144))
    assert np.diff(offsets).tolist() == [places[level] for level in levels]
    assert offsets[-1] == len(links)
    entry, top, _, search, one = take("5i")
    assert (levels[entry], max(levels), one) == (top + 1, top + 1, 1)
    assert search == db.stats().graph["beam"]
    assert take("4s33s") == (b"IxF2", header)
    assert np.array_equal(np.reshape(array("f"), (700, 6)), rows_of(db))
    if ids == "int":
        assert array("q") == tuple(range(0, 1400, 2))
    assert place == len(data)
    assert reached(np.array([links[start : start + 32] for start in offsets[:-1]]), entry).all()


@pytest.mark.parametrize("way", ["hnswlib", "faiss"])
def test_the_same_rows_give_the_same_bytes(rng, tmp_path, way):
    db = database(rng, "cosine", "int")
    db.save(tmp_path / "saved")
    told = set()
    for one in (db, DB.load(tmp_path / "saved", threads=1), DB.load(tmp_path / "saved", threads=3)):
        getattr(one, f"to_{way}")(tmp_path / "a", overwrite=True)
        told.add((tmp_path / "a").read_bytes())
    assert len(told) == 1


# --- there and back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["hnswlib", "faiss"])
@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("metric", METRICS)
def test_there_and_back(rng, tmp_path, way, ids, metric):
    db = database(rng, metric, ids)
    getattr(db, f"to_{way}")(tmp_path / "a")
    back = getattr(DB, f"from_{way}")(tmp_path / "a", metric=metric, build_threshold=100)
    assert (back.metric, back.dtype, back.stats().index) == (metric, "float32", "graph")
    assert np.array_equal(back.ids, db.ids)
    assert np.array_equal(rows_of(back), kept(db))
    queries = rng.standard_normal((20, db.dim))
    assert np.array_equal(back.search(queries, 5, exact=True).ids, db.search(queries, 5, exact=True).ids)


@pytest.mark.parametrize("way", ["hnswlib", "faiss"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 40])
def test_small_databases_of_every_dtype(rng, tmp_path, way, dtype, n):
    db = DB(dtype=dtype)
    db.add_batch(rng.integers(1, 100, (n, 3), dtype=np.uint8).astype(np.int8 if dtype == "int8" else np.uint8))
    before = db.stats()
    getattr(db, f"to_{way}")(tmp_path / "a")
    assert db.stats() == before
    back = getattr(DB, f"from_{way}")(tmp_path / "a", metric="l2")
    assert np.array_equal(rows_of(back), rows_of(db))
    back.add_batch(np.ones((1, 3)))  # as rows that nobody named
    assert back.ids.tolist() == list(range(n + 1))


def test_labels_in_another_order_number_the_rows(rng, tmp_path):
    """hnswlib inserts by threads: its rows stand in any order, under labels 0..n-1."""
    rows = rng.standard_normal((30, 4)).astype(np.float32)
    order = rng.permutation(30)
    DB.build_from_numpy(rows[order], ids=order).to_hnswlib(tmp_path / "a")
    db = DB.from_hnswlib(tmp_path / "a", metric="l2", dim=4)
    assert db.stats().ids == "row"
    assert np.array_equal(rows_of(db), rows)


def test_rows_marked_as_deleted_stay_out(rng, tmp_path):
    db = database(rng, "l2", "int")
    db.to_hnswlib(tmp_path / "a")
    data = bytearray((tmp_path / "a").read_bytes())
    record, gone = 140 + 4 * db.dim, rng.permutation(len(db))[:40]
    for row in gone.tolist():
        data[96 + record * row + 2] |= 1
    (tmp_path / "a").write_bytes(data)
    assert np.array_equal(DB.from_hnswlib(tmp_path / "a", metric="l2").ids, np.delete(db.ids, gone))


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["hnswlib", "faiss"])
def test_what_cannot_be_written(rng, tmp_path, way):
    def write(db: DB, path: Path, **options: Any) -> None:
        getattr(db, f"to_{way}")(path, **options)

    db, path = DB.build_from_numpy(rng.standard_normal((9, 3))), tmp_path / "a"
    with pytest.raises(omendb.InvalidIds, match="strings"):
        write(DB.build_from_numpy(np.ones((2, 2)), ids=["a", "b"]), path)
    with pytest.raises(omendb.InvalidInput, match="without rows"):
        write(DB(dim=3), path)
    with pytest.raises(omendb.NotFound):
        write(db, tmp_path / "none" / "a")
    with pytest.raises(omendb.InvalidParameter, match="path"):
        write(db, "")
    assert not list(tmp_path.iterdir())
    path.write_bytes(b"mine")
    with pytest.raises(omendb.AlreadyExists):
        write(db, path)
    assert path.read_bytes() == b"mine"
    write(db, path, overwrite=True)
    assert len(getattr(DB, f"from_{way}")(path, metric="l2")) == 9
    db.close()
    with pytest.raises(omendb.Closed):
        write(db, path, overwrite=True)


@pytest.mark.parametrize("way", ["hnswlib", "faiss"])
def test_a_full_disk_leaves_what_was_there(rng, tmp_path, monkeypatch, way):
    db, path = DB.build_from_numpy(rng.standard_normal((50, 3))), tmp_path / "a"
    path.write_bytes(b"mine")

    def full(self: contents.Contents) -> Any:
        yield slice(0, 10), np.zeros((10, 3), np.float32)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(contents.Contents, "blocks", full)
    with pytest.raises(omendb.StorageFull):
        getattr(db, f"to_{way}")(path, overwrite=True)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a", b"mine")]


def test_arguments_of_imports(rng, tmp_path):
    db, path = DB.build_from_numpy(rng.standard_normal((9, 3))), tmp_path / "a"
    db.to_hnswlib(path)
    for dim in (4, 2, 0, "3"):
        with pytest.raises(omendb.InvalidParameter, match="dim"):
            DB.from_hnswlib(path, metric="l2", dim=dim)
    with pytest.raises(TypeError):
        DB.from_hnswlib(path)  # the file does not tell its metric
    db.to_faiss(path, overwrite=True)
    for load in (DB.from_hnswlib, DB.from_faiss):
        with pytest.raises(omendb.NotFound):
            load(tmp_path / "none", metric="l2")
        with pytest.raises(omendb.CorruptFile, match="not a file"):
            load(tmp_path, metric="l2")
        with pytest.raises(omendb.InvalidParameter, match="path"):
            load(3, metric="l2")
    with pytest.raises(omendb.UnknownMetric):
        DB.from_faiss(path, metric="hamming")
    assert (DB.from_faiss(path).metric, DB.from_faiss(path, metric="cosine").metric) == ("l2", "cosine")


@pytest.mark.parametrize(("case", "error", "words"), [(name, error, words) for name, (_, error, words) in spoiled().items()])
def test_spoiled_files(tmp_path, case, error, words):
    make, _, _ = spoiled()[case]
    (tmp_path / "a").write_bytes(make())
    with pytest.raises(error, match=words):
        DB.from_hnswlib(tmp_path / "a", metric="l2") if case.startswith("hnswlib") else DB.from_faiss(tmp_path / "a")


def test_code_rows_are_what_layers_read(rng):
    """Nothing but codes decides: the same codes under other vectors give the same layers."""
    graph, points, _ = ok.build_graph(rng.integers(0, 9, (2000, 6), dtype=np.uint8))
    codes = CodeRows(points.codes.copy(), points.code_norms.copy())
    from omendb_kernels.dispatch import backend
    from omendb_kernels.graph import layered

    one, two = ok.layer_graph(graph, points), layered(graph, codes, backend(), 1)
    assert all(np.array_equal(a.lists, b.lists) for a, b in zip(one.layers, two.layers, strict=True))
