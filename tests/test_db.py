"""What the database answers: search, ids, metadata, deletes, masks, kinds of vectors, threads, and recall that can fail."""

from __future__ import annotations

import contextlib
import inspect
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import omendb
from omendb import DB, generation
from omendb_kernels import Rows

METRICS = ["l2", "cosine", "ip"]
KINDS = ["float32", "float16", "bfloat16", "int8", "uint8"]


def distances(queries: Any, rows: Any, metric: str) -> np.ndarray:
    """The definitions, in float64."""
    q, x = np.asarray(queries, np.float64), np.asarray(rows, np.float64)
    if metric == "l2":
        return ((q[:, None, :] - x[None, :, :]) ** 2).sum(axis=2)
    if metric == "ip":
        return -(q @ x.T)
    return np.maximum(0, 1 - (q @ x.T) / (np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(x, axis=1)))


def small_integers(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Rows full of ties, never zero, whose distances are exact in any order of summation."""
    rows = rng.integers(0, 4, (n, d))
    rows[:, 0] += 1
    return rows


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n", [1, 7, 300, 3000])
def test_search_is_exact(rng, metric, n):
    rows, queries = small_integers(rng, n, 8), small_integers(rng, 5, 8)
    db = DB.build_from_numpy(rows, metric=metric)
    truth = distances(queries, rows, metric).astype(np.float32)
    for k in (1, 10, n, n + 5):
        found = db.search(queries, k=k)
        order = np.argsort(truth, axis=1, kind="stable")[:, :k]
        assert found.ids.dtype == np.int64
        assert found.distances.dtype == np.float32
        np.testing.assert_allclose(found.distances, np.take_along_axis(truth, order, axis=1), atol=1e-6)
        if metric != "cosine":  # whose float64 rounding depends on the order
            np.testing.assert_array_equal(found.ids, order)
    assert db.recall() == 1.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
def test_vectors_are_kept_as_they_came(rng, tmp_path, kind, metric):
    dtype = ml_dtypes.bfloat16 if kind == "bfloat16" else np.dtype(kind)
    rows = small_integers(rng, 50, 6).astype(dtype)
    db = DB.build_from_numpy(rows, metric=metric)
    assert db.dtype == kind
    db.add_batch(rows[:1])
    db.save(tmp_path / "a.omen")
    for one in (db, DB.load(tmp_path / "a.omen")):
        vector = one.get(7).vector
        assert vector.dtype == dtype
        np.testing.assert_array_equal(vector, rows[7])
        assert one.search(rows[7], k=51).ids.tolist() == db.search(np.asarray(rows[7], np.float32), k=51).ids.tolist()


def test_shapes_and_iteration(rng):
    rows = rng.normal(size=(20, 3)).astype(np.float32)
    db = DB.build_from_numpy(rows, ids=[f"row {i}" for i in range(20)], metadata=[{"i": i} for i in range(20)])
    one = db.search(rows[3], k=4)
    assert (one.ids.shape, one.distances.shape, len(one), one.metadata, one.proof) == ((4,), (4,), 4, None, None)
    assert next(iter(one)) == ("row 3", 0.0)
    assert [type(value) for value in one[0]] == [str, float]
    many = db.search(rows[:2], k=30, with_metadata=True, explain=True)
    assert many.ids.shape == many.distances.shape == (2, 20)
    assert many.proof is not None
    assert many.proof.queries == 2
    first, second = many
    assert next(iter(second)) == ("row 1", 0.0, {"i": 1})
    assert [item["i"] for item in first.metadata] == [int(key.split()[1]) for key in first.ids]
    for none in (np.empty((0, 3)), np.empty((0, 0)), np.empty((0, 3), np.uint8)):
        assert db.search(none, k=5).ids.shape == (0, 5)


@pytest.mark.parametrize("dim", [None, 3])
def test_an_empty_database(tmp_path, dim):
    db = DB(dim)
    db.save(tmp_path / "a.omen")
    for one in (db, DB.load(tmp_path / "a.omen"), DB(dim, "cosine")):
        assert (len(one), one.dim, one.dtype, one.ids.tolist(), one.recall()) == (0, dim, None, [], 1.0)
        assert one.search(np.ones(3)).ids.shape == (0,)
        assert one.search(np.ones((2, 3)), with_metadata=True).metadata == [[], []]
        assert one.search(np.ones((0, 3)), k=4).distances.shape == (0, 0)
        assert one.search(np.ones(3), mask=np.zeros(0, bool)).distances.shape == (0,)
        assert 0 not in one
        assert one.delete([]) == 0
        assert one.stats().codec is None
        with pytest.raises(omendb.UnknownId):
            one.get(0)
        assert one.add_batch([[1, 2, 3]]).tolist() == [0]
        assert one.search([1, 2, 3]).ids.tolist() == [0]


def test_row_numbers_are_never_used_again(tmp_path):
    db = DB.build_from_numpy(np.eye(4))
    assert db.delete([3, 1]) == 2
    assert db.add_batch(np.ones((1, 4))).tolist() == [4]
    db.delete(4)
    db.save(tmp_path / "a.omen")
    db = DB.load(tmp_path / "a.omen")
    assert db.ids.tolist() == [0, 2]
    assert db.add_batch(np.ones((2, 4))).tolist() == [5, 6]
    db.delete(db.ids)
    assert db.search(np.ones(4)).ids.shape == (0,)
    db.save(tmp_path / "b.omen")
    db = DB.load(tmp_path / "b.omen")
    assert (len(db), db.dim, db.dtype) == (0, 4, "float32")
    assert db.build(np.eye(4)).rows == 4
    assert db.ids.tolist() == [7, 8, 9, 10]
    assert [key in db for key in (0, 6, 7, 10, 11)] == [False, False, True, True, False]


@pytest.mark.parametrize("ids", [[7, 2**62, 0], ["x", "ü" * 500, "\N{SNOWMAN}"]], ids=["int", "str"])
def test_ids_live_through_delete_and_return(tmp_path, ids):
    db = DB.build_from_numpy(np.eye(3), ids=ids, metadata=[{"was": "old"}] * 3)
    assert db.ids.tolist() == ids
    assert db.delete(np.array([ids[1], ids[1]])) == 1
    assert ids[1] not in db
    assert db.add_batch([[5, 5, 5]], ids=[ids[1]], metadata=[{"was": "new"}]).tolist() == [ids[1]]
    assert (ids[1] in db, len(db), db.stats().deleted) == (True, 3, 1)
    db.save(tmp_path / "a.omen")
    for one in (db, DB.load(tmp_path / "a.omen")):
        assert one.get(ids[1]).vector.tolist() == [5, 5, 5]
        assert one.get(ids[1]).metadata == {"was": "new"}
        assert one.ids.tolist() == [ids[0], ids[2], ids[1]]
    assert DB.load(tmp_path / "a.omen").stats().deleted == 0


def test_ids_in_every_form():
    rows = np.eye(3)
    forms: list[Any] = [np.array([1, 2, 3], np.uint8), (1, 2, 3), range(1, 4), np.array([1, 2, 3], object), [np.int16(1), 2, 3]]
    assert all(DB.build_from_numpy(rows, ids=form).ids.tolist() == [1, 2, 3] for form in forms)
    texts: list[Any] = [["a", "b", "c"], np.array(["a", "b", "c"]), ("a", np.str_("b"), "c")]
    for form in texts:
        keys = DB.build_from_numpy(rows, ids=form).ids
        assert (keys.dtype, {type(key) for key in keys}) == (object, {str})


def test_metadata_comes_back_as_it_was(tmp_path):
    values = [None, {}, {"a": [1, 2.5, None, True, {"ß": "\N{SNOWMAN}\0"}]}, {"big": 2**80, "order": 1, "a": -0.0}]
    db = DB.build_from_numpy(np.eye(4), metadata=values)
    db.add_batch(np.ones((2, 4)))
    plain = DB.build_from_numpy(np.eye(4))
    plain.add_batch(np.ones((1, 4)), metadata=[{"late": 1}])
    plain.add_batch(np.ones((1, 4)), metadata=[None])
    for which, expected in ((db, [*values, None, None]), (plain, [None] * 4 + [{"late": 1}, None])):
        which.save(tmp_path / "a.omen", overwrite=True)
        for one in (which, DB.load(tmp_path / "a.omen")):
            assert [one.get(i).metadata for i in range(6)] == expected
            found = one.search(np.ones(4), k=6, with_metadata=True)
            assert [expected[i] for i in found.ids] == found.metadata
    assert DB.build_from_numpy(np.eye(4), metadata=[None] * 4).get(0).metadata is None


def test_masks_follow_the_order_of_ids(rng):
    rows = small_integers(rng, 40, 5).astype(np.float32)
    db = DB.build_from_numpy(rows, ids=[f"{i}" for i in range(40)])
    db.delete([f"{i}" for i in range(0, 40, 3)])
    for share in (0.0, 0.1, 0.5, 1.0):
        mask = rng.random(len(db)) < share
        allowed = set(db.ids[mask])
        found = db.search(rows[:3], k=20, mask=mask)
        assert found.ids.shape == (3, min(20, len(allowed)))
        assert all(set(line) <= allowed for line in found.ids)
        order = [key for key, _ in db.search(rows[0], k=40) if key in allowed]
        assert found.ids[0].tolist() == order[:20]


def test_what_goes_in_and_comes_out_is_a_copy(frozen):
    rows, ids = np.eye(3, dtype=np.float32), np.arange(3)
    db = DB.build_from_numpy(rows, ids=ids)
    kept = db.search(np.ones(3), k=3).distances.tobytes()
    rows[:], ids[:] = 9, 9
    db.ids[:] = 9
    db.get(0).vector[:] = 9
    added = db.add_batch(np.full((1, 3), 50.0), ids=[70])
    added[:] = 9
    db.search(np.ones(3)).ids[:] = 9
    assert db.ids.tolist() == [0, 1, 2, 70]
    assert db.search(np.ones(3), k=3).distances.tobytes() == kept
    one = DB.build_from_numpy(frozen(np.eye(3)), ids=frozen([4, 5, 6]))
    one.add_batch(frozen(np.eye(3, dtype=np.float32)), ids=frozen([1, 2, 3]))
    assert one.search(frozen(np.ones(3)), mask=frozen(np.ones(6, bool))).ids.tolist() == [4, 5, 6, 1, 2, 3]


def test_slices_lists_and_float64(rng):
    rows = rng.normal(size=(30, 16))
    expected = DB.build_from_numpy(rows.astype(np.float32)).search(rows[0].astype(np.float32), k=30)
    big = np.zeros((60, 32))
    big[::2, ::2] = rows
    for form in (rows, rows.tolist(), np.asfortranarray(rows), big[::2, ::2]):
        found = DB.build_from_numpy(form).search(rows[0].tolist(), k=30)
        assert found.ids.tolist() == expected.ids.tolist()
        assert found.distances.tobytes() == expected.distances.tobytes()


def test_build_reports_and_shows_progress(rng):
    seen: list[tuple[str, int, int]] = []
    db = DB(metric="cosine", dtype="float32", build_threshold=50_000)
    report = db.build(rng.normal(size=(40_000, 4)), progress=lambda *step: seen.append(step))
    assert (report.rows, report.index, report.rows_per_second > 0) == (40_000, "flat", True)
    assert seen == sorted(seen)
    assert seen[-1] == ("encode", 40_000, 40_000)


def test_stats_tell_what_is_there(rng, tmp_path):
    db = DB.build_from_numpy(rng.integers(0, 255, (2000, 8), dtype=np.uint8), ids=range(2000))
    db.delete([5])
    db.save(tmp_path / "a.omen")
    stats = db.stats()
    assert (stats.rows, stats.deleted, stats.dim, stats.metric, stats.dtype, stats.ids) == (1999, 1, 8, "l2", "uint8", "int")
    assert stats.codec is not None
    assert stats.codec["lossless"] is True
    assert stats.nbytes >= 2000 * 16
    loaded = DB.load(tmp_path / "a.omen").stats()
    assert (loaded.rows, loaded.deleted, loaded.path) == (1999, 0, str(tmp_path / "a.omen"))
    assert loaded.file_bytes == (tmp_path / "a.omen").stat().st_size
    assert repr(db) == "DB(rows=1999, dim=8, metric='l2', dtype='uint8', ids='int')"


def test_recall_notices_a_wrong_search(rng, monkeypatch):
    rows = rng.normal(size=(500, 8))
    db = DB.build_from_numpy(rows)
    db.delete(range(100))
    assert db.recall() == db.recall(rows[:7], k=50) == db.recall(rows[0]) == db.recall(np.empty((0, 8))) == 1.0
    honest = generation.knn_certified

    def repeats(*arguments: Any, **options: Any) -> Any:
        distances, rows, proof = honest(*arguments, **options)
        rows[:, 0] = rows[:, -1]
        return distances, rows, proof

    monkeypatch.setattr(generation, "knn_certified", repeats)
    assert db.recall(k=10) == pytest.approx(0.9)
    monkeypatch.setattr(generation, "knn_certified", lambda q, p, k, **options: honest(Rows(-q.data, q.kind), p, k, **options))
    assert db.recall(k=10) < 0.5


def test_a_failure_in_the_middle_changes_nothing(rng, monkeypatch):
    db = DB.build_from_numpy(rng.normal(size=(50, 4)), ids=[f"{i}" for i in range(50)], metadata=[{}] * 50)
    before = db.search(np.ones(4), k=60, with_metadata=True)

    def fail(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr(DB, "_publish", fail)
        with pytest.raises(MemoryError):
            db.add_batch(np.zeros((9, 4)), ids=[f"new {i}" for i in range(9)])
        with pytest.raises(MemoryError):
            db.delete("3")
    assert "new 3" not in db
    assert db.add_batch(np.ones((2, 4)), ids=["new 5", "x"]).tolist() == ["new 5", "x"]
    assert db.get("new 5").vector.tolist() == [1, 1, 1, 1]
    assert "new 3" not in db
    assert db.delete(["new 5", "x"]) == 2
    assert db.search(np.ones(4), k=60, with_metadata=True).metadata == before.metadata


def test_searches_beside_a_writer_see_whole_batches(rng):
    batch, d, rounds = 50, 6, 40
    db = DB(d, threads=1)
    db.add_batch(np.zeros((batch, d)), ids=range(batch))
    done = threading.Event()

    def read() -> int:
        seen = 0
        while not done.is_set() or not seen:
            found = db.search(np.zeros((1, d)), k=10_000)
            assert found.ids.shape[1] % batch == 0
            batches = np.unique(found.ids[0] // batch, return_counts=True)
            assert set(batches[1]) == {batch}
            np.testing.assert_array_equal(found.distances[0], d * (found.ids[0] // batch).astype(np.float32) ** 2)
            last = int(found.ids[0, -1])
            with contextlib.suppress(omendb.UnknownId):  # deleted meanwhile
                assert db.get(last).vector[0] == last // batch
            seen += 1
        return seen

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        try:
            for number in range(1, rounds):
                db.add_batch(np.full((batch, d), number), ids=range(number * batch, (number + 1) * batch))
                if number % 3 == 0:
                    db.delete(range((number - 1) * batch, number * batch))
        finally:
            done.set()
        assert all(reader.result() > 0 for reader in readers)


def test_writers_wait_for_each_other(rng):
    db = DB(3, threads=1)
    with ThreadPoolExecutor(4) as pool:
        given = list(pool.map(lambda i: db.add_batch(np.full((5, 3), i)).tolist(), range(40)))
    assert sorted(key for keys in given for key in keys) == list(range(200)) == db.ids.tolist()
    for i, keys in enumerate(given):
        assert [db.get(key).vector[0] for key in keys] == [i] * 5


def test_the_answer_is_the_same_for_any_number_of_threads(rng):
    rows = rng.normal(size=(5000, 24)).astype(np.float32)
    answers = []
    for threads in (1, 2, 3):
        db = DB.build_from_numpy(rows, metric="cosine", threads=threads)
        found = db.search(rows[:20], k=10, threads=threads)
        answers.append((found.ids.tobytes(), found.distances.tobytes()))
    assert len(set(answers)) == 1


def test_no_noise(capfd, caplog):
    with caplog.at_level(logging.WARNING):
        DB.build_from_numpy(np.eye(3)).search(np.ones(3))
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_use_after_close(tmp_path):
    db, x = DB.build_from_numpy(np.eye(4, 3)), np.eye(2, 3)
    with db as same:
        assert same is db
    db.close()
    assert repr(db) == "DB(closed)"
    uses: dict[str, Callable[[], Any]] = {
        "add_batch": lambda: db.add_batch(x),
        "build": lambda: db.build(x),
        "build_index": lambda: db.build_index(),
        "compact": lambda: db.compact(),
        "copy": lambda: db.copy(tmp_path / "b"),
        "delete": lambda: db.delete(0),
        "dim": lambda: db.dim,
        "dtype": lambda: db.dtype,
        "get": lambda: db.get(0),
        "ids": lambda: db.ids,
        "insert_batch": lambda: db.insert_batch(x, min_batch=1),
        "metric": lambda: db.metric,
        "recall": lambda: db.recall(),
        "refresh": lambda: db.refresh(),
        "save": lambda: db.save(tmp_path / "a.omen"),
        "search": lambda: db.search(x),
        "stats": lambda: db.stats(),
        "to_faiss": lambda: db.to_faiss(tmp_path / "a.faiss"),
        "to_hnswlib": lambda: db.to_hnswlib(tmp_path / "a.hnsw"),
        "upsert": lambda: db.upsert(x, ids=[1, 2]),
        "verify": lambda: db.verify(),
    }
    public = {name for name in dir(DB) if not name.startswith("_")}
    makers = {name for name in public if isinstance(inspect.getattr_static(DB, name), classmethod)}
    assert set(uses) == public - makers - {"close"}
    for use in (*uses.values(), lambda: len(db), lambda: 1 in db, db.__enter__):
        with pytest.raises(omendb.Closed):
            use()
    assert list(tmp_path.iterdir()) == []
