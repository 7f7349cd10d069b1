"""AsyncDB: awaited calls do what the same calls do one after the other, in fewer transactions; searches wait for nobody."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from aio_sets import held_up, settled
from store_sets import DIM, bytes_of, rows

import omendb
from omendb import DB, AsyncDB, group
from omendb.journal import Journal


@pytest.fixture
def transactions(monkeypatch) -> list[int]:
    """The bytes of each change that was put into a journal."""
    sizes: list[int] = []
    append = Journal.append

    def counted(journal: Journal, after: Any, content: memoryview) -> None:
        append(journal, after, content)
        sizes.append(len(content))

    monkeypatch.setattr(Journal, "append", counted)
    return sizes


# ---- what it does -------------------------------------------------------------------------------------------------------


def test_life(tmp_path):
    async def main() -> None:
        async with await AsyncDB.open(tmp_path / "db", dim=2, metric="cosine") as db:
            assert await db.insert([3, 4], ids="a", metadata={"x": 1}) == "a"
            assert (await db.insert([[5, 6], [1, 1]], ids=["b", "c"])).tolist() == ["b", "c"]
            assert (await db.add_batch(np.ones((1, 2)), ids=["d"])).tolist() == ["d"]
            assert await db.upsert([1, 0], ids="a") == "a"
            assert (await db.upsert(np.eye(2), ids=["a", "e"])).tolist() == ["a", "e"]
            assert await db.delete("b") == 1
            assert await db.delete(mask=[True, False, False, False]) == 1
            found = await db.search([1, 0], k=1, with_metadata=True)
            assert found[0] == ("a", 0.0, None)
            assert (await db.get("d")).vector.tolist() == [1, 1]
            with pytest.raises(omendb.UnknownId):
                await db.get("c")
            await db.compact()
            assert (await db.build_index()).rows == 3
            assert db.db.ids.tolist() == ["d", "a", "e"]
        for call in (lambda: db.insert([1, 2], ids="f"), lambda: db.search([1, 2]), lambda: db.build_index(), db.__aenter__):
            with pytest.raises(omendb.Closed):
                await call()
        await db.close()

    asyncio.run(main())
    with DB.open(tmp_path / "db") as db:
        assert db.ids.tolist() == ["d", "a", "e"]


def test_one_row_in_every_form():
    async def main() -> None:
        async with AsyncDB(DB()) as db:
            forms = [(1, 2), [1.0, 2.0], np.ones(2, np.float32), np.ones(2), [np.float32(1), np.float32(2)]]
            assert [await db.insert(form) for form in forms] == [0, 1, 2, 3, 4]
            assert (await db.insert([[1, 2]])).tolist() == [5]
            assert (await db.insert(np.empty((0, 2)))).tolist() == []
            for wrong in ([], 5, "word", [[1], [1, 2]], [1, "x"], np.float32(1), None, [float("nan"), 1]):
                with pytest.raises(omendb.InvalidInput, match="vectors"):
                    await db.insert(wrong)
            assert len(db.db) == 6

    asyncio.run(main())


def test_opening(tmp_path):
    async def main() -> None:
        with pytest.raises(omendb.NotFound):
            await AsyncDB.open(tmp_path / "db", "r")
        for wrong in ({"queue_rows": 0}, {"build_after": 0}, {"quiet_seconds": -1}, {"durability": "none"}):
            with pytest.raises(omendb.InvalidParameter, match=next(iter(wrong))):
                await AsyncDB.open(tmp_path / "db", **wrong)
        async with await AsyncDB.open(tmp_path / "db", dim=2) as db:  # nothing was left locked
            await db.insert([1, 2])
            async with await AsyncDB.open(tmp_path / "db", "r") as reader:
                assert len(await reader.search([1, 2])) == 1
                with pytest.raises(omendb.ReadOnly):
                    await reader.insert([1, 2])
        closed = DB()
        closed.close()
        with pytest.raises(omendb.Closed):
            AsyncDB(closed)

    asyncio.run(main())


def test_import_does_not_load_asyncio():
    code = "import sys, omendb; assert 'asyncio' not in sys.modules; omendb.AsyncDB; assert 'asyncio' in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="AsyncPG"):
        omendb.AsyncPG  # noqa: B018


# ---- groups -------------------------------------------------------------------------------------------------------------


def random_write(rng: np.random.Generator, kind: str) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """A call by name, good or bad."""
    known = int(rng.integers(60))
    key = {"row": None, "int": known, "str": f"n{known}"}[kind]
    some = {"row": None, "int": [known, known + 1], "str": [f"n{known}", f"n{known + 1}"]}[kind]
    one, two = rows(rng, 1)[0], rows(rng, 2)
    metadata = {"n": int(rng.integers(9))} if rng.random() < 0.5 else None
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        ("insert", (one,), {"ids": key, "metadata": metadata}),
        ("insert", (two,), {"ids": some, "metadata": None if metadata is None else [metadata, None]}),
        ("upsert", (one,), {"ids": key, "metadata": metadata}),
        ("upsert", (two,), {"ids": some}),
        ("delete", (known if key is None else key,), {}),
        ("insert", (one[:-1],), {"ids": key}),
        ("insert", (one,), {"ids": [1.5]}),
        ("insert", (one,), {"ids": key, "metadata": {"x": object()}}),
        ("insert", (two[:0],), {"ids": None if key is None else []}),
    ]
    return calls[int(rng.choice(len(calls), p=[0.35, 0.15, 0.2, 0.05, 0.09, 0.04, 0.04, 0.04, 0.04]))]


def one_by_one(db: DB, name: str, given: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """The same call of the database itself."""
    if name == "delete":
        return db.delete(*given)
    single = given[0].ndim == 1
    if single:
        given = (given[0][None],)
        options = {key: None if value is None else [value] for key, value in options.items()}
    ids = (db.add_batch if name == "insert" else db.upsert)(*given, **options)
    return ids.tolist()[0] if single else ids


def told(answer: Any) -> Any:
    """An answer or an error, to be compared."""
    if isinstance(answer, Exception):
        return type(answer), str(answer)
    return answer.tolist() if isinstance(answer, np.ndarray) else answer


def test_the_fault_that_is_told_is_that_of_one_by_one(rng):
    """Both ids are taken, the first by the group itself: the first is named, as it would be without a group."""
    db, ended = DB(), []
    db.add_batch(rows(rng, 1), ids=["b"])
    writes = [group.add(rows(rng, 1), ["a"], None, 1), group.add(rows(rng, 2), ["a", "b"], None, 2)]
    group.commit(db, writes, ended.append)
    assert ended == writes
    assert writes[0].error is None
    assert str(writes[1].error).startswith("ids[0]: got 'a', which is in the index")


@pytest.mark.parametrize("queue_rows", [1, 5, 10_000])
@pytest.mark.parametrize("kind", ["row", "int", "str"])
def test_many_at_once_are_one_after_the_other(rng, tmp_path, transactions, kind, queue_rows):
    calls = [random_write(rng, kind) for _ in range(250)]
    order: list[int] = []

    async def main() -> list[Any]:
        async def one(at: int, name: str, given: tuple[Any, ...], options: dict[str, Any]) -> Any:
            try:
                return await getattr(db, name)(*given, **options)
            finally:
                order.append(at)

        async with await AsyncDB.open(tmp_path / "db", queue_rows=queue_rows) as db:
            return await settled(*(one(at, *call) for at, call in enumerate(calls)))

    answers = asyncio.run(main())
    grouped = len(transactions)
    with DB.open(tmp_path / "other") as other:
        for answer, call in zip(answers, calls, strict=True):
            try:
                wanted = one_by_one(other, *call)
            except omendb.OmenError as error:
                wanted = error
            assert told(answer) == told(wanted), call
        assert order == list(range(len(calls)))
        assert grouped <= len(transactions) - grouped
        with DB.open(tmp_path / "db") as db:
            assert bytes_of(db, tmp_path) == bytes_of(other, tmp_path)
            assert db.verify(full=True).ok


def test_a_group_is_one_transaction(rng, tmp_path, transactions):
    x = rows(rng, 1_001)

    async def main() -> None:
        async with await AsyncDB.open(tmp_path / "db") as db:
            await db.insert(x[0])
            assert len(transactions) == 1
            with db.db._lock:  # the writer takes the first and waits; the others gather
                tasks = await held_up(db, *(db.insert(row) for row in x[1:]))
                assert not any(task.done() for task in tasks)
                assert len(await db.search(x[0], 5)) == 1  # nobody sees what is not acknowledged
            assert await asyncio.gather(*tasks) == list(range(1, 1_001))
            assert len(transactions) == 3
            assert (await db.search(x[1_000], 1, exact=True)).distances[0] == 0

    asyncio.run(main())


def test_a_bad_write_fails_alone(rng, tmp_path, transactions):
    x = rows(rng, 6)

    async def main() -> list[Any]:
        async with await AsyncDB.open(tmp_path / "db") as db:
            await db.insert(x[0], ids="a")
            with db.db._lock:
                calls = [
                    db.insert(x[1], ids="b"),
                    db.insert(x[2], ids="c"),
                    db.insert(x[2][:3], ids="short"),
                    db.insert(x[3], ids="a"),
                    db.insert(x[4], ids="d", metadata={"x": {1}}),
                    db.insert(x[5], ids="e"),
                ]
                tasks = await held_up(db, *calls)
            answers = await settled(*tasks)
            assert db.db.ids.tolist() == ["a", "b", "c", "e"]
            return answers

    answers = asyncio.run(main())
    assert answers[:2] == ["b", "c"]
    assert [type(error) for error in answers[2:5]] == [omendb.WrongShape, omendb.DuplicateId, omendb.InvalidMetadata]
    assert answers[5] == "e"
    assert len(transactions) == 3


def test_the_first_rows_decide_for_those_behind_them(tmp_path):
    async def main() -> list[Any]:
        async with await AsyncDB.open(tmp_path / "db") as db:
            with db.db._lock:
                calls = [
                    db.insert([1, 2], ids="a"),
                    db.insert([1, 2, 3], ids="b"),
                    db.insert([1, 2], ids=5),
                    db.insert([3, 4], ids="c"),
                ]
                tasks = await held_up(db, db.delete([]), *calls)
            return await settled(*tasks)

    nothing, first, shape, kind, last = asyncio.run(main())
    assert (nothing, first, type(shape), type(kind), last) == (0, "a", omendb.WrongShape, omendb.InvalidIds, "c")


def test_where_the_transaction_fails_all_of_it_do(rng, tmp_path, monkeypatch):
    x = rows(rng, 21)

    def full(*_: Any) -> None:
        raise omendb.StorageFull("no room")

    async def main() -> None:
        async with await AsyncDB.open(tmp_path / "db") as db:
            await db.insert(x[0])
            with monkeypatch.context() as patch:
                patch.setattr(Journal, "append", full)
                answers = await settled(*(db.insert(row) for row in x[1:]))
                assert {type(answer) for answer in answers} == {omendb.StorageFull}
            assert len(db.db) == 1
            assert await db.insert(x[1]) == 1

    asyncio.run(main())


def test_a_full_queue_makes_wait(rng, tmp_path, transactions):
    """queue_rows at a time: what comes more waits its turn; a larger batch goes alone."""
    x = rows(rng, 60)

    async def main() -> None:
        async with await AsyncDB.open(tmp_path / "db", queue_rows=10) as db:
            await db.insert(x[0])
            with db.db._lock:
                twos = [db.insert(x[at : at + 2]) for at in range(1, 41, 2)]
                tasks = await held_up(db, *twos, db.add_batch(x[41:56]), *(db.insert(row) for row in x[56:]))
            await asyncio.gather(*tasks)
        # the first; 2 rows; 19 writes of 2 rows by fives; 15 rows; 4 rows
        assert len(transactions) == 1 + 1 + 4 + 1 + 1
        assert max(transactions) < 2 * min(size for size in transactions if size > 15 * DIM * 4)

    asyncio.run(main())
