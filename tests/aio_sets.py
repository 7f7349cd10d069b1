"""What the tests of AsyncDB share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from omendb import AsyncDB

LEAST = 700  # rows from which these databases make graphs


async def until(condition: Callable[[], bool]) -> None:
    """Wait for it, for some time."""
    for _ in range(20_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it does not happen")


async def held_up(db: AsyncDB, first: Coroutine[Any, Any, Any], *others: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    """Tasks of these writes: the first in the writer's hands, the others behind it. The caller holds the database's lock."""
    tasks = [asyncio.ensure_future(first)]
    await asyncio.sleep(0)  # it waits now, or is in hand already
    await until(lambda: db._busy and not db._queue)
    tasks += [asyncio.ensure_future(call) for call in others]
    await until(lambda: len(db._queue) == len(others))
    return tasks


async def settled(*calls: Coroutine[Any, Any, Any]) -> list[Any]:
    """Answers and errors of calls that are made at once, in this order."""
    return await asyncio.gather(*calls, return_exceptions=True)
