"""Every refusal: the error's type, the words it uses, and that nothing has changed after it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import omendb
from omendb import DB

DIM = 4
ROWS = 6
IDS = {"row": None, "int": [10, 3, 0, 7, 8, 2**62], "str": ["a", "b", "c", "ä", "\N{SNOWMAN}", "f g"]}


def rows_of(n: int) -> np.ndarray:
    return np.arange(n * DIM, dtype=np.float32).reshape(n, DIM) + 1


def fresh(ids: str = "row", metric: str = "l2") -> DB:
    return DB.build_from_numpy(rows_of(ROWS), ids=IDS[ids], metadata=[{"n": i} for i in range(ROWS)], metric=metric)


def state_of(db: DB) -> tuple[Any, ...]:
    found = db.search(np.ones(DIM), k=ROWS + 5, with_metadata=True)
    return repr(db), db.stats(), db.ids.tolist(), found.ids.tolist(), found.distances.tobytes(), found.metadata


def refuse(db: DB, call: Callable[[], Any], error: type[Exception], words: str) -> None:
    """`call` raises exactly this error with these words, and the database is as it was."""
    before = state_of(db)
    with pytest.raises(omendb.OmenError, match=words) as caught:
        call()
    assert type(caught.value) is error
    assert state_of(db) == before


def with_value(value: float, row: int = 1) -> np.ndarray:
    rows = rows_of(3)
    rows[row, 2] = value
    return rows


BAD_VECTORS = {
    "dimension": (rows_of(3)[:, :3], omendb.WrongShape, r"vectors: got 3 dimensions .*wanted 4"),
    "one axis": (np.ones(DIM), omendb.WrongShape, r"vectors: got .*shape \(4,\); wanted two axes"),
    "three axes": (np.ones((2, 2, DIM)), omendb.WrongShape, r"\(2, 2, 4\)"),
    "no axis": (3.0, omendb.WrongShape, "vectors"),
    "no column": (np.ones((3, 0)), omendb.WrongShape, "0 dimensions"),
    "ragged": ([[1, 2, 3, 4], [1, 2]], omendb.WrongShape, "unequal length"),
    "nan": (with_value(np.nan), omendb.NotFinite, "row 1"),
    "inf": (with_value(-np.inf, 2), omendb.NotFinite, "row 2"),
    "squares overflow": (with_value(2e19), omendb.ValueTooLarge, "row 1"),
    "beyond float32": (with_value(1).astype(np.float64) * 1e40, omendb.ValueTooLarge, "row 0"),
    "complex": (rows_of(3) * 1j, omendb.WrongDtype, "complex"),
    "object": (rows_of(3).astype(object), omendb.WrongDtype, "object"),
    "none": (None, omendb.WrongDtype, "object"),
    "bool": (rows_of(3) > 2, omendb.WrongDtype, "bool"),
    "text": ([["a", "b", "c", "d"]], omendb.WrongDtype, "vectors"),
    "huge integers": (np.full((3, DIM), 2**30), omendb.WrongDtype, r"2\^24"),
}


@pytest.mark.parametrize(
    ("call", "case"),
    [
        (call, case)
        for call in ("add_batch", "insert_batch", "build_from_numpy", "build")
        for case in BAD_VECTORS
        if (call, case) != ("build_from_numpy", "dimension")  # which a new database takes as its own
    ],
)
def test_bad_vectors(call, case):
    vectors, error, words = BAD_VECTORS[case]
    db = DB(DIM) if call == "build" else fresh()
    calls = {
        "add_batch": lambda: db.add_batch(vectors),
        "insert_batch": lambda: db.insert_batch(vectors, min_batch=1),
        "build_from_numpy": lambda: DB.build_from_numpy(vectors),
        "build": lambda: db.build(vectors),
    }
    refuse(db, calls[call], error, words)


BAD_QUERIES = {
    name: (x, error, words.replace("vectors", "queries"))
    for name, (x, error, words) in BAD_VECTORS.items()
    if name != "one axis"
} | {
    "one query": (np.ones(3), omendb.WrongShape, "3 dimensions"),
    "no query of another dimension": (np.ones((2, 0)), omendb.WrongShape, "0 dimensions"),
}


@pytest.mark.parametrize("case", BAD_QUERIES)
def test_bad_queries(case):
    queries, error, words = BAD_QUERIES[case]
    db = fresh()
    refuse(db, lambda: db.search(queries), error, words)
    if case not in ("dimension", "one query", "no axis"):
        unfixed = DB()
        refuse_empty(unfixed, lambda: unfixed.search(queries), error)


def refuse_empty(db: DB, call: Callable[[], Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        call()
    assert (len(db), db.dim) == (0, None)


def test_cosine_refuses_zero_rows_and_queries():
    db = fresh(metric="cosine")
    zero = np.zeros((3, DIM), np.float32)
    zero[:2] = 1
    refuse(db, lambda: db.add_batch(zero), omendb.ZeroVector, "row 2")
    refuse(db, lambda: db.search(zero), omendb.ZeroVector, "row 2")
    refuse(db, lambda: db.search(np.full(DIM, 1e-60)), omendb.ZeroVector, "row 0")


def test_rows_of_another_kind():
    db = DB.build_from_numpy(np.arange(12, dtype=np.uint8).reshape(3, DIM))
    refuse(db, lambda: db.add_batch(rows_of(2)), omendb.WrongDtype, "got an array of float32; wanted uint8")
    refuse(db, lambda: db.add_batch(np.ones((2, DIM), np.int8)), omendb.WrongDtype, "int8")
    half = DB.build_from_numpy(rows_of(3).astype(np.float16))
    refuse(half, lambda: half.add_batch(rows_of(2)), omendb.WrongDtype, "float16")
    wide = fresh()
    wide.add_batch(rows_of(2).astype(np.float16))
    wide.add_batch(np.ones((2, DIM), np.uint8))
    assert (len(wide), wide.dtype) == (ROWS + 4, "float32")


def test_no_rows_where_rows_are_needed():
    none = np.empty((0, DIM), np.float32)
    db = DB(DIM)
    refuse(db, lambda: db.build(none), omendb.WrongShape, "no rows")
    refuse(db, lambda: DB.build_from_numpy(none), omendb.WrongShape, "no rows")
    full = fresh()
    refuse(full, lambda: full.insert_batch(none), omendb.BatchTooSmall, "0 rows")
    assert full.add_batch(none).tolist() == []


def test_small_batches_are_sent_to_add_batch():
    db = fresh()
    refuse(db, lambda: db.insert_batch(rows_of(99)), omendb.BatchTooSmall, "99 rows; wanted at least 100; add_batch")
    assert len(db.insert_batch(rows_of(100))) == 100
    assert len(db.insert_batch(rows_of(2), min_batch=2)) == 2


def test_build_wants_an_empty_database():
    db = fresh()
    refuse(db, lambda: db.build(rows_of(2)), omendb.InvalidInput, "add_batch adds rows")


BAD_IDS = {
    "too few": ("row/int/str", lambda k: IDS[k][:1], omendb.InvalidIds, "1 ids; wanted 2"),
    "mixed": ("int/str", lambda k: [IDS[k][0], "x", 5][:3], omendb.InvalidIds, r"ids\["),
    "mixed at first": ("none", lambda _: ["x", 5], omendb.InvalidIds, r"ids\[1\]: got 5 \(int\); wanted a non-empty str"),
    "negative": ("int", lambda _: [4, -1], omendb.InvalidIds, r"ids\[1\]: got -1 "),
    "negative array": ("int", lambda _: np.array([4, -1]), omendb.InvalidIds, r"ids\[1\]: got -1 "),
    "too large": ("int", lambda _: np.array([4, 2**63], np.uint64), omendb.InvalidIds, r"ids\[1\]: got 9223372036854775808"),
    "bool": ("int", lambda _: [4, True], omendb.InvalidIds, r"ids\[1\]: got True \(bool\)"),
    "bool array": ("int", lambda _: np.array([True, False]), omendb.InvalidIds, r"ids\[0\]: got True"),
    "float": ("int", lambda _: [4, 1.0], omendb.InvalidIds, r"ids\[1\]: got 1.0 \(float\)"),
    "float array": ("int", lambda _: np.array([1.0, 2.0]), omendb.InvalidIds, r"ids\[0\]"),
    "none inside": ("int/str", lambda k: [IDS[k][0], None], omendb.InvalidIds, r"ids\["),
    "empty string": ("str", lambda _: ["x", ""], omendb.InvalidIds, r"ids\[1\]: got '' \(str\)"),
    "surrogate": ("str", lambda _: ["x", "\ud800"], omendb.InvalidIds, r"ids\[1\]"),
    "bytes": ("str", lambda _: ["x", b"y"], omendb.InvalidIds, r"ids\[1\]: got b'y' \(bytes\)"),
    "twice": ("int", lambda _: [5, 5], omendb.DuplicateId, r"ids\[1\]: got 5, which is ids\[0\] too"),
    "twice, str": ("str", lambda _: np.array(["x", "x"]), omendb.DuplicateId, r"ids\[1\]: got 'x'"),
    "there already": ("int", lambda _: [5, 3], omendb.DuplicateId, r"ids\[1\]: got 3, which is in the index"),
    "there already, str": ("str", lambda _: ["x", "\N{SNOWMAN}"], omendb.DuplicateId, r"ids\[1\].*in the index"),
    "other kind": ("int", lambda _: ["x", "y"], omendb.InvalidIds, r"ids\[0\]: got 'x' \(str\); wanted an integer"),
    "other kind, str": ("str", lambda _: [1, 2], omendb.InvalidIds, r"ids\[0\]: got 1 \(int\); wanted a non-empty str"),
    "any for row numbers": ("row", lambda _: [100, 101], omendb.InvalidIds, "numbers its rows"),
    "none for int": ("int", lambda _: None, omendb.InvalidIds, "no ids; wanted one int"),
    "none for str": ("str", lambda _: None, omendb.InvalidIds, "no ids; wanted one str"),
    "a string": ("str", lambda _: "ab", omendb.InvalidIds, "a str; wanted a list"),
    "a number": ("int", lambda _: 5, omendb.InvalidIds, "an? int"),
    "a set": ("int", lambda _: {5, 6}, omendb.InvalidIds, "a set"),
    "two axes": ("int", lambda _: np.array([[5, 6]]), omendb.InvalidIds, r"\(1, 2\)"),
}  # fmt: skip


@pytest.mark.parametrize(("case", "kind"), [(case, kind) for case, (kinds, *_) in BAD_IDS.items() for kind in kinds.split("/")])
def test_bad_ids(case, kind):
    _, make, error, words = BAD_IDS[case]
    if case == "too few" and kind == "row":
        make, kind = (lambda _: [1]), "none"
    db = DB(DIM) if kind == "none" else fresh(kind)
    vectors = rows_of(3) if case == "mixed" else rows_of(2)
    refuse(db, lambda: db.add_batch(vectors, ids=make(kind)), error, words)


BAD_METADATA = {
    "too few": ([{}], r"metadata: got 1 entries; wanted 2"),
    "one dict": ({"a": 1}, "a dict; wanted a list"),
    "text": ("ab", "a str"),
    "no list": (5, "an? int"),
    "a list for a row": ([{}, [1]], r"metadata\[1\]: got a list"),
    "nan": ([{"a": float("nan")}, None], r"metadata\[0\]: got nan; wanted finite"),
    "inf inside": ([None, {"a": [1, {"b": float("inf")}]}], r"metadata\[1\]: got inf"),
    "integer name": ([{}, {1: 2}], r"metadata\[1\]: got the name 1 \(int\)"),
    "none as a name": ([{"a": {None: 2}}, {}], r"metadata\[0\]: got the name None"),
    "a set": ([{"a": {1}}, {}], r"metadata\[0\]: got \{1\} \(set\)"),
    "an array": ([{"a": np.ones(2)}, {}], r"metadata\[0\].*\(ndarray\)"),
    "a numpy integer": ([{"a": np.int64(1)}, {}], r"metadata\[0\].*\(int64\)"),
    "bytes": ([{"a": b"x"}, {}], r"metadata\[0\].*\(bytes\)"),
    "surrogate": ([{"a": "\ud800"}, {}], r"metadata\[0\]"),
}


def inside_itself() -> dict[str, Any]:
    knot: dict[str, Any] = {}
    knot["knot"] = [knot]
    return knot


@pytest.mark.parametrize("case", [*BAD_METADATA, "inside itself", "a huge integer"])
def test_bad_metadata(case):
    extra = {"inside itself": ([{}, inside_itself()], "64 levels"), "a huge integer": ([{"a": 10**6000}, {}], r"metadata\[0\]")}
    metadata, words = (BAD_METADATA | extra)[case]
    db = fresh("int")
    refuse(db, lambda: db.add_batch(rows_of(2), ids=[90, 91], metadata=metadata), omendb.InvalidMetadata, words)


BAD_SEARCHES = {
    "k of zero": ({"k": 0}, omendb.InvalidParameter, "k: got 0"),
    "k below": ({"k": -3}, omendb.InvalidParameter, "k: got -3"),
    "k a float": ({"k": 2.0}, omendb.InvalidParameter, "k: got 2.0"),
    "k a bool": ({"k": True}, omendb.InvalidParameter, "k: got True"),
    "k none": ({"k": None}, omendb.InvalidParameter, "k: got None"),
    "mask too short": ({"mask": np.ones(ROWS - 1, bool)}, omendb.WrongShape, r"mask: got shape \(5,\); wanted shape \(6,\)"),
    "mask of two axes": ({"mask": np.ones((ROWS, 1), bool)}, omendb.WrongShape, "mask"),
    "mask of floats": ({"mask": np.ones(ROWS)}, omendb.InvalidIds, r"mask\[0\]: got 1.0 \(float\); wanted an integer"),
    "mask of unknown ids": ({"mask": [0, 77]}, omendb.UnknownId, "77"),
    "beam of zero": ({"beam": 0}, omendb.InvalidParameter, "beam: got 0"),
    "beam too large": ({"beam": 2**20}, omendb.InvalidParameter, "beam: got 1048576"),
    "no threads": ({"threads": 0}, omendb.InvalidParameter, "threads: got 0"),
    "threads a float": ({"threads": 1.5}, omendb.InvalidParameter, "threads: got 1.5"),
}


@pytest.mark.parametrize("case", BAD_SEARCHES)
def test_bad_searches(case):
    arguments, error, words = BAD_SEARCHES[case]
    for db in (fresh(), DB(DIM)):
        refuse(db, lambda db=db: db.search(np.ones(DIM), **arguments), error, words if len(db) else ".")


def test_a_mask_of_ids_of_another_kind():
    db = fresh()
    refuse(db, lambda: db.search(np.ones(DIM), mask=["a"]), omendb.InvalidIds, r"mask\[0\]: got 'a'")


BAD_UPSERTS = {
    "numbered rows": ("row", [0], "numbers its rows|none to replace by"),
    "no ids": ("int", None, "ids: got"),
    "twice": ("int", [3, 3], r"ids\[1\]: got 3, which is ids\[0\] too"),
    "too few": ("str", ["a"], "1 ids; wanted 2"),
    "other kind": ("str", [1, 2], r"ids\[0\]"),
}


@pytest.mark.parametrize("case", BAD_UPSERTS)
def test_bad_upserts(case):
    kind, ids, words = BAD_UPSERTS[case]
    db = fresh(kind)
    with pytest.raises(omendb.InvalidIds, match=words):
        db.upsert(rows_of(2), ids=ids)
    refuse(db, lambda: db.upsert(with_value(np.nan), ids=["x", "y", "z"]), omendb.NotFinite, "row 1")
    assert len(db) == ROWS


@pytest.mark.parametrize("recall", [0, 1, -0.5, 2, True, None, "0.9", float("nan")], ids=repr)
def test_bad_recalls(recall):
    db = fresh()
    refuse(db, lambda: db.build_index(recall=recall), omendb.InvalidParameter, "recall: got .*; wanted a number")
    with pytest.raises(omendb.InvalidParameter, match="recall"):
        DB.build_from_numpy(rows_of(3), recall=recall)


BAD_SETTINGS = {
    "unknown metric": ({"metric": "euclid"}, omendb.UnknownMetric, "'euclid'; wanted one of 'l2', 'cosine', 'ip'"),
    "no metric": ({"metric": None}, omendb.UnknownMetric, "None"),
    "unhashable metric": ({"metric": ["l2"]}, omendb.UnknownMetric, "l2"),
    "no dimension": ({"dim": 0}, omendb.InvalidParameter, "dim: got 0"),
    "too many dimensions": ({"dim": 16_385}, omendb.InvalidParameter, "16385"),
    "dim a float": ({"dim": 3.0}, omendb.InvalidParameter, "dim: got 3.0"),
    "dtype": ({"dtype": "float64"}, omendb.InvalidParameter, "dtype: got 'float64'; wanted one of float32"),
    "no threads": ({"threads": 0}, omendb.InvalidParameter, "threads: got 0"),
    "no threshold": ({"build_threshold": 0}, omendb.InvalidParameter, "build_threshold: got 0"),
}


@pytest.mark.parametrize("case", BAD_SETTINGS)
def test_bad_settings(case):
    arguments, error, words = BAD_SETTINGS[case]
    with pytest.raises(error, match=words):
        DB(**arguments)


def test_too_many_dimensions():
    with pytest.raises(omendb.WrongShape, match="16385 dimensions"):
        DB.build_from_numpy(np.ones((1, 16_385), np.int8))
    assert DB.build_from_numpy(np.ones((1, 16_384), np.int8)).dim == 16_384


@pytest.mark.parametrize("kind", ["row", "int", "str"])
def test_unknown_ids(kind):
    db = fresh(kind)
    known = db.ids.tolist()
    unknown: Any = "zz" if kind == "str" else 99
    refuse(db, lambda: db.get(unknown), omendb.UnknownId, repr(unknown))
    refuse(db, lambda: db.delete(unknown), omendb.UnknownId, repr(unknown))
    refuse(db, lambda: db.delete([*known, unknown]), omendb.UnknownId, repr(unknown))
    with pytest.raises(KeyError) as caught:
        db.get(unknown)
    assert str(caught.value) == f"no row has the id {unknown!r}"
    foreign: Any = 3 if kind == "str" else "a"
    for wrong in (foreign, True, -1, 1.0, None, "", b"a"):
        assert wrong not in db
        refuse(db, lambda wrong=wrong: db.get(wrong), omendb.InvalidIds, "id: got")
        refuse(db, lambda wrong=wrong: db.delete([wrong]), omendb.InvalidIds, r"ids\[0\]: got")
    assert unknown not in db
    assert all(key in db for key in known)


BAD_PATHS = [None, 5, b"bytes", "", "nul\0byte", 1.5]


@pytest.mark.parametrize("path", BAD_PATHS, ids=repr)
def test_bad_paths(path):
    db = fresh()
    refuse(db, lambda: db.save(path), omendb.InvalidParameter, "path: got")
    with pytest.raises(omendb.InvalidParameter):
        DB.load(path)


def test_files_that_are_in_the_way_or_missing(tmp_path):
    db = fresh()
    path = tmp_path / "a.omen"
    path.write_bytes(b"precious")
    refuse(db, lambda: db.save(path), omendb.AlreadyExists, "overwrite=True")
    assert path.read_bytes() == b"precious"
    refuse(db, lambda: db.save(tmp_path / "no" / "a.omen"), omendb.NotFound, "no folder")
    refuse(db, lambda: db.save(path / "a.omen"), omendb.NotFound, "no folder")
    refuse(db, lambda: db.save(tmp_path, overwrite=True), omendb.AlreadyExists, "folder")
    refuse(db, lambda: db.save(tmp_path / ("x" * 300)), omendb.StorageError, "cannot write")
    with pytest.raises(FileNotFoundError, match="no file"):
        DB.load(tmp_path / "b.omen")
    with pytest.raises(omendb.NotAnIndex):
        DB.load(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.omen"]


def test_errors_are_one_tree():
    classes = [value for value in vars(omendb).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert all(issubclass(error, omendb.OmenError) for error in classes)
    assert issubclass(omendb.InvalidIds, ValueError)
    assert issubclass(omendb.UnknownId, KeyError)
    assert issubclass(omendb.NotFound, FileNotFoundError)
    assert issubclass(omendb.AlreadyExists, FileExistsError)
    error = pickle.loads(pickle.dumps(omendb.DuplicateId("ids[3]", "7", "every id once")))
    assert (error.argument, error.got, error.wanted) == ("ids[3]", "7", "every id once")
