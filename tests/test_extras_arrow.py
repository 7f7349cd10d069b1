"""Arrow arrays as vectors, ids and queries; answers as tables and frames; scikit-learn's and pandas' use of them."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import numpy as np
import pytest

from omendb import DB, MissingLibrary, WrongDtype, WrongShape
from omendb_kernels import as_vectors, knn

pa = pytest.importorskip("pyarrow")
pd = pytest.importorskip("pandas")


def lists_of(rows: np.ndarray) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])


class Capsule:
    """What another Arrow library's array looks like: nothing but the C interface."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __arrow_c_array__(self, requested_schema: Any = None) -> Any:
        return self.array.__arrow_c_array__(requested_schema)


class Streams:
    def __init__(self, array: Any) -> None:
        self.array = array

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.array.__arrow_c_stream__(requested_schema)


def judged(x: Any) -> np.ndarray:
    return as_vectors(x, metric="l2").data


@pytest.mark.parametrize("kind", ["float32", "float16", "int8", "uint8"])
def test_one_chunk_is_the_same_memory(rng, kind):
    rows = rng.integers(1, 100, (100, 8)).astype(kind)
    lists = lists_of(rows)
    memory = lists.values.to_numpy()
    ways = (lists, Capsule(lists), pa.chunked_array([lists]), pa.table({"v": lists})["v"], Streams(pa.table({"v": lists})))
    for array in (*ways, pa.record_batch({"v": lists, "n": pa.array(range(100))})):
        found = as_vectors(array, metric="l2")
        assert found.kind == kind
        assert np.shares_memory(found.data, memory)
        assert (found.data == rows).all()
    part = judged(lists[30:50])
    assert np.shares_memory(part, memory)
    assert (part == rows[30:50]).all()


def test_other_layouts_are_copied(rng):
    rows = rng.standard_normal((100, 8)).astype(np.float32)
    lists = lists_of(rows)
    tensors = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), [8]), lists)
    chunked = pa.chunked_array([lists[:30], lists[30:30], lists[30:]])
    for array in (
        chunked,
        Streams(chunked),
        pa.table({"n": range(100), "v": chunked}),
        pa.array(rows.tolist()),
        pa.array(rows.tolist(), pa.large_list(pa.float64())),
        pa.array([None, *rows.tolist()])[1:],
        tensors,
        pa.chunked_array([tensors[:3], tensors[3:]]),
        pd.Series(lists.to_pylist(), dtype=pd.ArrowDtype(lists.type)),
        pd.DataFrame(rows),
        pa.table({"v": lists}).to_reader(max_chunksize=7),
    ):
        assert (judged(array) == rows).all()
    assert judged(lists[:0]).shape == (0, 8)
    assert judged(pa.chunked_array([], lists.type)).shape == (0, 8)


@pytest.mark.parametrize(
    ("array", "kind", "said"),
    [
        (lambda: pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)), WrongDtype, "1 nulls"),
        (lambda: pa.array([[1.0, None]], pa.list_(pa.float32(), 2)), WrongDtype, "1 nulls in its lists"),
        (lambda: pa.array([[1.0, 2.0], [1.0]]), WrongShape, "unequal length"),
        (lambda: pa.chunked_array([[[1.0, 2.0]], [[1.0]]]), WrongShape, "unequal length"),
        (lambda: pa.table({"n": [1, 2]}), WrongDtype, "lists are: none"),
        (lambda: pa.table({"a": [[1.0]], "b": [[1.0]]}), WrongDtype, "'a', 'b'"),
        (lambda: pa.array([["a", "b"]]), WrongDtype, "real numbers"),
        (lambda: pa.array([[True, False]]), WrongDtype, "real numbers"),
        (lambda: pa.array([[dt.datetime(2020, 1, 1)]]), WrongDtype, "real numbers"),
    ],
)
def test_what_holds_no_vectors_is_refused(array, kind, said):
    with pytest.raises(kind, match=said):
        judged(array())


def test_without_pyarrow_the_extra_is_named(rng, monkeypatch):
    foreign = Capsule(lists_of(rng.standard_normal((3, 4))))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(WrongDtype, match=r"omendb-kernels\[arrow\]"):
        judged(foreign)
    answer = DB.build_from_numpy(rng.standard_normal((3, 4))).search(np.ones(4), 1)
    with pytest.raises(MissingLibrary, match=r"omendb-kernels\[arrow\]"):
        answer.to_arrow()
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(MissingLibrary, match="pandas"):
        answer.to_pandas()


def test_queries_ids_and_masks_of_arrow(rng):
    rows = rng.standard_normal((200, 8)).astype(np.float32)
    table = pa.table({"name": [f"n{i}" for i in range(200)], "v": pa.chunked_array([lists_of(rows[:90]), lists_of(rows[90:])])})
    db = DB.build_from_numpy(table["v"], ids=table["name"])
    plain = DB.build_from_numpy(rows, ids=[f"n{i}" for i in range(200)])
    for query, same in ((lists_of(rows[:7]), rows[:7]), (pa.array(rows[3]), rows[3]), (table[:5], rows[:5])):
        found, wanted = db.search(query, 4), plain.search(same, 4)
        assert (found.ids == wanted.ids).all()
        assert found.distances.tobytes() == wanted.distances.tobytes()
    allowed = db.search(rows[0], 3, mask=pa.array(["n5", "n7"]))
    assert sorted(allowed.ids) == ["n5", "n7"]
    assert db.delete(pa.array(["n5"])) == 1
    numbered = DB.build_from_numpy(lists_of(rows), ids=pa.array(range(1000, 1200)))
    assert numbered.search(lists_of(rows[:1]), 1).ids.tolist() == [[1000]]
    distances, ids = knn(lists_of(rows[:3]), lists_of(rows), 2)
    assert (type(distances), ids[:, 0].tolist()) == (np.ndarray, [0, 1, 2])


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("with_metadata", [False, True])
def test_answers_as_lists_tables_and_frames(rng, named, with_metadata):
    rows = rng.standard_normal((50, 4))
    facts = [{"i": i, "tags": ["ü", None]} if i % 2 else None for i in range(50)]
    db = DB.build_from_numpy(rows, ids=[f"n{i}" for i in range(50)] if named else None, metadata=facts)
    one, many = (db.search(query, 3, with_metadata=with_metadata) for query in (rows[1], rows[:4]))
    for found, lists in ((one, [one.to_list()]), (many, many.to_list())):
        flat = [{"query": i, **row} for i, line in enumerate(lists) for row in line]
        if found is one:
            flat = [{key: value for key, value in row.items() if key != "query"} for row in flat]
        assert [row["id"] for row in flat] == found.ids.ravel().tolist()
        assert [row["distance"] for row in flat] == found.distances.ravel().tolist()
        assert all(("metadata" in row) == with_metadata for row in flat)
        json.dumps(flat)
        table = found.to_arrow()
        assert table.column_names == list(flat[0])
        assert table.schema.field("id").type == (pa.string() if named else pa.int64())
        assert table.schema.field("distance").type == pa.float32()
        read = table.to_pylist()
        for row in read if with_metadata else []:
            row["metadata"] = None if row["metadata"] is None else json.loads(row["metadata"])
        assert read == flat
        frame = found.to_pandas()
        assert list(frame.columns) == list(flat[0])
        assert frame["distance"].dtype == np.float32
        assert frame.to_dict("records") == flat
    assert one.to_list()[0]["id"] == ("n1" if named else 1)


def test_empty_answers_keep_their_columns():
    for query, columns in ((np.ones(3), ["id", "distance"]), (np.ones((2, 3)), ["query", "id", "distance"])):
        found = DB(3).search(query)
        assert found.to_list() == ([] if query.ndim == 1 else [[], []])
        assert (found.to_arrow().column_names, found.to_arrow().num_rows) == (columns, 0)
        assert (list(found.to_pandas().columns), len(found.to_pandas())) == (columns, 0)
