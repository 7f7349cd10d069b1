"""Disks that fill up and fail: every call of a writer's life fails once, in each way. Typed errors, and nothing is lost.

All of them with --long; else every second one with EIO and every fifth in the other ways, beginning where the seed says.
Whatever raises has changed nothing, in memory and in the folder; what was acknowledged is there when the folder is opened
again; after a sync of the journal has failed, the handle refuses to write.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from crash import record as recording
from crash.check import Report, check, pool_fixture, promised  # noqa: F401
from crash.record import FULL, ONCE, SHORT, fast_folder
from crash.states import read_log
from crash.workloads import RUNS, Step
from crash.zygote import Told, Zygote

pytestmark = pytest.mark.skipif(bool(recording.unavailable()), reason=str(recording.unavailable()))

LIFE: list[Step] = [
    ["limits", 6_000, 20_000],
    ["open", "full"],
    ["add", 1, 0, 20],
    ["upsert", 2, 10, 20],
    ["delete", 3, 5],
    ["add", 3, 100, 50],
    ["build_index"],
    ["add", 4, 200, 12],
    ["compact"],
    ["add", 5, 300, 3],
    ["close"],
    ["open", "full"],
    ["add", 6, 400, 5],
    ["close"],
]
WRITES = {number for number, step in enumerate(LIFE) if step[0] not in ("limits", "open", "close")}
WAYS = {"EIO": (errno.EIO, ONCE), "ENOSPC": (errno.ENOSPC, ONCE), "short": (0, SHORT), "disk full": (errno.ENOSPC, FULL)}


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote(preload=True) as zygote:
        yield zygote


@pytest.fixture(scope="module")
def calls(zygote) -> int:
    """Calls in a life without faults."""
    told, content = live(zygote, fail=(-1, 0, ONCE))
    assert told.acked == list(range(len(LIFE)))
    assert content == content_of(told.acked)
    return told.calls


def live(zygote: Zygote, **task: object) -> tuple[Told, str]:
    """A life with faults, and what a new process finds after it and writes behind it."""
    with tempfile.TemporaryDirectory(dir=fast_folder()) as folder:
        told = zygote.run(steps=LIFE, folder=folder, **task)
        found = zygote.run(steps=[], folder=folder, read=True)
    assert found.problems == [], (told, found)
    return told, str(found.content)


def content_of(numbers: list[int]) -> str:
    return RUNS["folder"].expected([LIFE[number] for number in numbers])[-1]


def broken_promises(told: Told, content: str) -> list[str]:
    found = list(told.problems)
    if not told.ended:
        found.append("the process died")
    kind, path = told.failed or ("", "")
    uncertain = kind == "s" and told.failed_in in told.errors  # it may have reached the disk all the same
    if content != content_of(told.acked):
        with_it = content_of(sorted({*told.acked, told.failed_in}))
        if not (uncertain and content == with_it):
            found.append("what was acknowledged is not what is there")
    if uncertain and "omen.sqlite" in path:
        same_handle = range(told.failed_in + 1, next(n for n in count(told.failed_in) if LIFE[n][0] == "close"))
        wrote = [number for number in same_handle if number in told.acked]
        if wrote:
            found.append(f"acknowledged {wrote} after a sync had failed")
    return found


@pytest.mark.parametrize("way", WAYS)
def test_every_call_fails_once(zygote, calls, request, capsys, way):
    error, mode = WAYS[way]
    stride = 1 if request.config.option.long else 2 if way == "EIO" else 5
    found, errors, hit = {}, 0, 0
    for at in range(request.config.option.seed % stride, calls, stride):
        told, content = live(zygote, fail=(at, error, mode))
        if broken := broken_promises(told, content):
            found[at] = (told.failed, told.failed_in, told.errors, broken)
        hit += told.failed is not None
        errors += bool(told.errors)
        if mode == SHORT:
            assert told.errors == {}, told  # the rest is written by a second call
    with capsys.disabled():
        print(f"\n{way}: {hit} lives with a fault, {errors} with an error to the user, {len(found)} with a broken promise")
    assert found == {}
    assert hit >= (calls // stride - 1 if mode == ONCE else 20)
    assert errors > (0 if mode == SHORT else hit // 4) or mode == SHORT


def test_files_that_may_not_grow(zygote, rng):
    sizes = [0, 1, 100, 512, 4096, 8192, 32767, 32768, 40_000, *rng.integers(0, 60_000, 30).tolist()]
    refused = 0
    for size in sizes:
        told, content = live(zygote, file_size=size)
        assert broken_promises(told, content) == [], (size, told)
        refused += bool(told.errors)
    assert refused > len(sizes) / 2


def test_the_disk_after_a_failed_sync(zygote, calls, pool, request, capsys):
    """A sync that fails takes the data before it along: power failures on top of that."""
    total, syncs, every = Report(), 0, 1 if request.config.option.long else 12
    for at in range(calls):
        with tempfile.TemporaryDirectory(dir=fast_folder()) as scratch:
            folder, log = Path(scratch, "data"), Path(scratch, "log")
            os.mkdir(folder)
            told = zygote.run(steps=LIFE, folder=str(folder), fail=(at, errno.EIO, ONCE), log=str(log))
            if told.failed is None or told.failed[0] != "s":
                continue
            syncs += 1
            if syncs % every != request.config.option.seed % every:
                continue
            events = read_log(log)
        place = sum(number < told.failed_in for number in told.acked)
        uncertain = (place, LIFE[told.failed_in]) if told.failed_in in told.errors else None
        expected = promised("folder", [LIFE[number] for number in told.acked], uncertain)
        report = check(pool, "folder", events, expected, subsets=0)
        assert report.violations == [], (at, told.failed, LIFE[told.failed_in], told.errors, str(report))
        total += report
    with capsys.disabled():
        print(f"\nafter a failed sync ({syncs} of them, every {every}.): {total}")
    assert total.states > 1_000
