"""AsyncDB: searches and writes beside builds; what is cancelled, closed, or left alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from aio_sets import LEAST, held_up, settled
from graph_sets import clustered
from store_sets import rows

import omendb
from omendb import DB, AsyncDB

# ---- searches and builds ------------------------------------------------------------------------------------------------


def held(phase: str) -> tuple[Callable[..., None], threading.Event, threading.Event]:
    """A progress callback that keeps a build in this phase; told when it is there, and when to go on."""
    inside, go_on = threading.Event(), threading.Event()

    def progress(now: str, *_: int) -> None:
        if now == phase:
            inside.set()
            assert go_on.wait(60)

    return progress, inside, go_on


async def happened(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 60)


@pytest.mark.parametrize("asked", [True, False])
def test_searches_and_writes_go_on_during_a_build(rng, tmp_path, asked):
    x = clustered(rng, 1_500, 8)
    progress, inside, go_on = held("prune")
    options: dict[str, Any] = {"build_threshold": LEAST}
    if not asked:
        options |= {"build_after": 1_000, "quiet_seconds": 0, "progress": progress}

    async def main() -> None:
        async with await AsyncDB.open(tmp_path / "db", **options) as db:
            await db.add_batch(x)
            build = asyncio.ensure_future(db.build_index(recall=0.9, progress=progress)) if asked else None
            await happened(inside)
            found = await db.search(x[:20] + 0.1, 10)
            new = await asyncio.gather(*(db.insert(row) for row in x[:30]))
            assert new == list(range(1_500, 1_530))
            assert await db.delete(0) == 1
            assert (await db.search(x[0], 1)).ids.tolist() == [1_500]
            assert db.db.stats().graph is None  # all that came before its end
            go_on.set()
            if build is not None:
                assert (await build).index == "graph"
            while db.db.stats().graph is None:
                await asyncio.sleep(0.002)
            truth = DB.build_from_numpy(x, build_threshold=10_000).search(x[:20] + 0.1, 10)
            assert found.ids.tolist() == truth.ids.tolist()
            assert found.distances.tobytes() == truth.distances.tobytes()
            assert (await db.search(x[0], 1)).ids.tolist() == [1_500]
            assert db.db.ids.tolist() == list(range(1, 1_530))
            assert db.db.verify(full=True).ok

    asyncio.run(main())


def test_searches_do_not_wait_for_a_writer(rng, tmp_path):
    async def main() -> None:
        async with await AsyncDB.open(tmp_path / "db") as db:
            await db.insert([1, 2])
            with db.db._lock:
                writing = asyncio.ensure_future(db.insert([3, 4]))
                assert (await db.search([3, 4])).ids.tolist() == [0]
                assert not writing.done()
            assert await writing == 1

    asyncio.run(main())


def test_a_build_that_another_overtook_is_done_again(rng, tmp_path):
    async def main() -> None:
        async with AsyncDB(DB(build_threshold=LEAST), background=False) as db:
            await db.add_batch(clustered(rng, 900, 8))
            done: list[int] = []

            def progress(phase: str, *_: int) -> None:
                if phase == "prune" and not done:
                    done.append(1)
                    db.db.build_index(recall=0.5)

            assert (await db.build_index(recall=0.9, progress=progress)).rows == 900

    asyncio.run(main())


# ---- cancelled ----------------------------------------------------------------------------------------------------------


def test_cancelled_at_random_points(rng, tmp_path):
    """A hundred times: what was answered is there, what was not is there or not, whole; nothing else is."""
    x = rows(rng, 100 * 12)

    async def main() -> set[str]:
        surely: set[str] = set()
        for turn in range(100):
            async with await AsyncDB.open(tmp_path / "db", queue_rows=int(rng.choice([1, 4, 100]))) as db:
                names = [f"{turn} {i}" for i in range(12)]
                tasks = [asyncio.ensure_future(db.insert(x[12 * turn + i], ids=name)) for i, name in enumerate(names)]
                for place in rng.permutation(12)[: int(rng.integers(1, 9))]:
                    if rng.random() < 0.5:
                        await asyncio.sleep(rng.exponential(0.0005))
                    tasks[place].cancel()
                answers = await settled(*tasks)
                there = set(db.db.ids.tolist())
                for name, answer in zip(names, answers, strict=True):
                    assert answer == name or isinstance(answer, asyncio.CancelledError)
                    if answer == name:
                        surely.add(name)
                assert surely <= there
                if turn % 10 == 0:
                    assert db.db.verify(full=True).ok
        return surely

    surely = asyncio.run(main())
    with DB.open(tmp_path / "db") as db:
        assert db.verify(full=True).ok
        there = set(db.ids.tolist())
        assert surely <= there
        assert 0 < len(surely) < 1_200
        for name in there:
            turn, i = map(int, name.split())
            assert db.get(name).vector.tolist() == x[12 * turn + i].tolist()


def test_cancelled_before_its_turn_it_is_not_done(tmp_path):
    """And in its turn it is done: the await ends only then."""

    async def main() -> None:
        async with await AsyncDB.open(tmp_path / "db") as db:
            with db.db._lock:
                calls = [db.insert([i, 1], ids=name) for i, name in enumerate(("taken", "waiting", "after"))]
                taken, waiting, after = await held_up(db, *calls)
                taken.cancel()
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                taken.cancel()
                await asyncio.sleep(0.01)
                assert not taken.done()
            with pytest.raises(asyncio.CancelledError):
                await taken
            assert await after == "after"
            assert db.db.ids.tolist() == ["taken", "after"]

    asyncio.run(main())


def test_a_cancelled_build_changes_nothing(rng, tmp_path):
    async def main() -> None:
        async with await AsyncDB.open(tmp_path / "db", build_threshold=LEAST) as db:
            await db.add_batch(clustered(rng, 900, 8))
            before = db.db._now
            progress, inside, go_on = held("pick")
            build = asyncio.ensure_future(db.build_index(progress=progress))
            await happened(inside)
            build.cancel()
            await asyncio.sleep(0)
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await build
            assert db.db._now is before
            assert (await db.build_index()).rows == 900

    asyncio.run(main())


def test_close_does_what_came_before_and_gives_up_builds(rng, tmp_path):
    x = clustered(rng, 900, 8)

    async def main() -> None:
        db = await AsyncDB.open(tmp_path / "db", build_threshold=LEAST)
        await db.add_batch(x)
        progress, inside, go_on = held("pick")
        build = asyncio.ensure_future(db.build_index(progress=progress))
        await happened(inside)
        writes = [asyncio.ensure_future(db.insert(row)) for row in x[:50]]
        await asyncio.sleep(0)
        closing = [asyncio.ensure_future(db.close()) for _ in range(2)]
        closing[0].cancel()
        assert await asyncio.gather(*writes) == list(range(900, 950))
        go_on.set()
        with pytest.raises(omendb.Closed):
            await build
        stopped, closed = await settled(*closing)
        assert isinstance(stopped, asyncio.CancelledError)
        assert closed is None

    asyncio.run(main())
    with DB.open(tmp_path / "db") as db:
        assert len(db) == 950
        assert db.stats().graph is None
        assert db.verify(full=True).ok


def test_a_loop_that_ends_at_once(rng, tmp_path):
    """asyncio.run cancels what is left: no row is torn, and the folder is free as soon as the database is closed."""
    x = rows(rng, 300)
    opened: list[AsyncDB] = []

    async def main() -> None:
        opened.append(await AsyncDB.open(tmp_path / "db"))
        for row in x:
            asyncio.ensure_future(opened[0].insert(row))  # noqa: RUF006
        await asyncio.sleep(0.002)

    asyncio.run(main())
    asyncio.run(opened[0].close())
    with DB.open(tmp_path / "db") as db:
        assert db.verify(full=True).ok
        for key in db.ids.tolist():
            assert db.get(key).vector.tolist() in x.tolist()
