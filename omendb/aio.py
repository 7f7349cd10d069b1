"""AsyncDB: the database for asyncio. Writes gather and are committed in groups; searches and builds have threads of their own.

    tasks --> queue --> the writer's thread: takes what has gathered, one transaction (group.py), answers in order
    tasks --> the readers' threads, which wait for nobody
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from omendb_kernels import as_count

from . import group
from .background import BUILD_AFTER, QUIET, Schedule
from .db import DB, RECALL
from .errors import Closed
from .generation import Progress
from .group import Write
from .ids import Key
from .results import BuildReport, Record, SearchResults

T = TypeVar("T")

QUEUE_ROWS = 10_000


class AsyncDB:
    """A `DB` whose calls are awaited. What a write returns from is durable, where the database has a folder.

    Writes that come while another is under way are joined into one transaction, and are acknowledged in the order in which
    they came; each fails alone. A write that is cancelled before its turn is not done; later the await ends when it is done,
    and then raises CancelledError all the same. Searches wait for no write and no build. From `build_after` rows outside the
    graph on it is made anew in the background, see `DB.open`. For one event loop at a time.

        async with await AsyncDB.open("folder") as db:
            await asyncio.gather(*(db.insert(vector, ids=word) for word, vector in words))
            found = await db.search(query, k=5)
    """

    def __init__(
        self,
        db: DB,
        *,
        queue_rows: int = QUEUE_ROWS,
        background: bool = True,
        build_after: int = BUILD_AFTER,
        quiet_seconds: float = QUIET,
        progress: Progress | None = None,
    ) -> None:
        """`db` is closed by this object from here on; `self.db` gives what is not awaited: stats, ids, save.

        queue_rows: that the writer takes at a time; whoever brings more waits for the next turn, and nothing is copied before
        it. background, build_after, quiet_seconds, progress: as for `DB.open`. Raises InvalidParameter, Closed.
        """
        self._most = as_count(queue_rows, "queue_rows")
        when = Schedule(build_after, quiet_seconds)
        self._db, _ = db, db.metric  # raises when closed
        self._builder = db._build_beside_writes(RECALL, when if background else Schedule(None), progress)
        self._guard = threading.Lock()  # of the queue, whether the writer is busy, and closing
        self._queue: deque[tuple[Write, asyncio.Future[Any]]] = deque()
        self._busy = False
        self._closing: Future[None] | None = None
        self._writer = ThreadPoolExecutor(1, "omendb-writer")
        self._building = ThreadPoolExecutor(1, "omendb-building")
        self._readers = ThreadPoolExecutor(max(2, os.cpu_count() or 1), "omendb-reader")

    @classmethod
    async def open(
        cls,
        path: str | os.PathLike[str],
        mode: str = "rw",
        *,
        queue_rows: int = QUEUE_ROWS,
        background: bool = True,
        build_after: int = BUILD_AFTER,
        quiet_seconds: float = QUIET,
        progress: Progress | None = None,
        **options: Any,
    ) -> AsyncDB:
        """`DB.open` with its other options, then as above. Raises what both raise."""
        as_count(queue_rows, "queue_rows")  # before there is a folder
        Schedule(build_after, quiet_seconds)
        opened = asyncio.get_running_loop().run_in_executor(None, partial(DB.open, path, mode, **options))
        try:
            db = await _ended(opened)
        except asyncio.CancelledError:
            if opened.exception() is None:
                opened.result().close()
            raise
        settings: dict[str, Any] = {"build_after": build_after, "quiet_seconds": quiet_seconds, "progress": progress}
        return cls(db, queue_rows=queue_rows, background=background, **settings)

    @property
    def db(self) -> DB:
        """The database itself. Its own methods block the event loop, and may be called from any thread."""
        return self._db

    # --- writing -------------------------------------------------------------------------------------------------

    async def insert(self, vectors: Any, *, ids: Any = None, metadata: Any = None) -> Any:
        """Add one row (d,), with one id and one dict, and give its id; or a few (n, d), and give their ids, (n,).

        They must stay as they are until then. Raises what `DB.add_batch` raises, with nothing changed.
        """
        return await self._put_rows(group.add, vectors, ids, metadata)

    async def add_batch(self, vectors: Any, *, ids: Any = None, metadata: Any = None) -> NDArray[Any]:
        """`DB.add_batch`: (n, d) vectors, all or none."""
        return np.asarray(await self._put(group.add(vectors, ids, metadata, _length(vectors))))

    async def upsert(self, vectors: Any, *, ids: Any, metadata: Any = None) -> Any:
        """`DB.upsert`; one row (d,) or (n, d), as for `insert`."""
        return await self._put_rows(group.upsert, vectors, ids, metadata)

    async def delete(self, ids: Any = None, *, mask: Any = None) -> int:
        """`DB.delete`, in its turn among the writes."""
        return int(await self._put(Write(act=partial(self._db.delete, ids, mask=mask))))

    async def compact(self, *, secure: bool = False) -> None:
        """`DB.compact`, in its turn among the writes, which wait for it."""
        await self._put(Write(act=partial(self._db.compact, secure=secure)))

    async def _put_rows(self, make: Callable[..., Write], vectors: Any, ids: Any, metadata: Any) -> Any:
        if not _is_one(vectors):
            return await self._put(make(vectors, ids, metadata, _length(vectors)))
        row = [vectors] if isinstance(vectors, (list, tuple)) else vectors[None]
        key = None if ids is None else [ids]
        return (await self._put(make(row, key, None if metadata is None else [metadata], 1))).tolist()[0]

    async def _put(self, write: Write) -> Any:
        """Wait until it is done. Cancelled before its turn it is taken back."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        item = (write, answer)
        with self._guard:
            self._refuse_closed()
            self._queue.append(item)
            if not self._busy:
                self._busy = True
                self._writer.submit(self._drain)

        def take_back() -> None:
            with self._guard:
                if item in self._queue:
                    self._queue.remove(item)
                    answer.cancel()

        return await _ended(answer, take_back)

    def _drain(self) -> None:
        """In the writer's thread: until nothing waits."""
        while batch := self._take():
            answers = dict(batch)
            group.commit(self._db, answers, lambda write, answers=answers: _answer(write, answers[write]))  # type: ignore[misc]

    def _take(self) -> list[tuple[Write, asyncio.Future[Any]]]:
        """What has gathered, up to `queue_rows`; more where one write alone brings more."""
        batch: list[tuple[Write, asyncio.Future[Any]]] = []
        rows = 0
        with self._guard:
            while self._queue and (not batch or rows + self._queue[0][0].rows <= self._most):
                rows += self._queue[0][0].rows
                batch.append(self._queue.popleft())
            self._busy = bool(batch)
        return batch

    async def build_index(self, *, recall: float = RECALL, progress: Progress | None = None) -> BuildReport:
        """`DB.build_index` beside the writes, which wait only while the result is put in force; what came meanwhile is in it.

        progress is called in the thread of the build. Cancelled, it is given up at the end of its phase, with nothing changed.
        Raises InvalidParameter; Closed where the database is closed meanwhile.
        """
        self._refuse_closed()
        cancelled = threading.Event()
        act = partial(self._build, recall, progress, cancelled)
        return await _ended(asyncio.get_running_loop().run_in_executor(self._building, act), cancelled.set)

    def _build(self, recall: float, progress: Progress | None, cancelled: threading.Event) -> BuildReport:
        report = self._builder.build(recall, progress, cancelled.is_set)
        return report or self._db.build_index(recall=recall, progress=progress)  # somebody built between: now in their turn

    # --- reading -------------------------------------------------------------------------------------------------

    async def search(self, q: Any, k: int = 10, **options: Any) -> SearchResults:
        """`DB.search` with its options. It sees every write that was acknowledged before."""
        return await self._read(partial(self._db.search, q, k, **options))

    async def get(self, id: Key) -> Record:  # noqa: A002  the word users look for
        """`DB.get`."""
        return await self._read(partial(self._db.get, id))

    async def _read(self, act: Callable[[], T]) -> T:
        self._refuse_closed()
        context = contextvars.copy_context()  # which holds `use_backend` and the like
        return await asyncio.get_running_loop().run_in_executor(self._readers, context.run, act)

    # --- the end -------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Do the writes that came before, give up builds, close the database. Later calls raise Closed; twice is no error."""
        with self._guard:
            if self._closing is None:
                self._closing = self._writer.submit(self._db.close)
            closing = self._closing
        await _ended(asyncio.wrap_future(closing))
        for threads in (self._writer, self._building, self._readers):
            threads.shutdown(wait=False)

    def _refuse_closed(self) -> None:
        if self._closing is not None:
            raise Closed("this database was closed")

    async def __aenter__(self) -> AsyncDB:
        self._refuse_closed()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


async def _ended(answer: asyncio.Future[T], cancel: Callable[[], None] = lambda: None) -> T:
    """The result, waited for even when the task is cancelled (`cancel` is told), so that its fate is known when this ends."""
    stopped = None
    while not answer.done():
        try:
            await asyncio.wait([answer])
        except asyncio.CancelledError as error:  # noqa: PERF203  perhaps more than once
            stopped = error
            cancel()
    if stopped is not None:
        if not answer.cancelled():
            answer.exception()  # seen: nobody else will ask
        raise stopped
    return answer.result()


def _answer(write: Write, answer: asyncio.Future[Any]) -> None:
    """From the writer's thread into the loop of whoever waits, if it still runs."""

    def settle() -> None:
        if answer.done():
            return
        if write.error is None:
            answer.set_result(write.answer)
        else:
            answer.set_exception(write.error)

    try:
        answer.get_loop().call_soon_threadsafe(settle)
    except RuntimeError:
        return  # the loop was closed: the write is done, and nobody waits


def _is_one(vectors: Any) -> bool:
    """Whether one row came, and not several."""
    if isinstance(vectors, (list, tuple)):
        return not vectors or np.isscalar(vectors[0])
    return getattr(vectors, "ndim", None) == 1


def _length(vectors: Any) -> int:
    """Rows, for the queue; they are judged later."""
    try:
        return len(vectors)
    except TypeError:
        return 1
