"""Opens every crash state in worker processes and compares what is there with what was acknowledged."""

from __future__ import annotations

import multiprocessing
import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pytest

from .record import fast_folder, write_files
from .states import CrashStates, Event, Files, Moment
from .workloads import RUNS, Step

BATCH = 16  # states in one message to a worker
GO_ON = 8  # every so many states are also written to after they were opened
UNDER_WAY = 8  # batches
Found = tuple[str | None, str]  # what is there, or None and the reason why it cannot be read
Outcome = tuple[bytes, Moment, str | None, str]


@dataclass
class Violation:
    """A state that breaks the promise; `CrashStates.files_of` gives its files."""

    what: str
    digest: bytes
    moment: Moment

    def __str__(self) -> str:
        return f"{self.moment}: {self.what}"


@dataclass
class Report:
    """How many distinct states were opened, on which file the last event was, and what was wrong."""

    states: int = 0
    at: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)  # of all candidates, distinct or not
    violations: list[Violation] = field(default_factory=list)

    @property
    def in_sqlite(self) -> int:
        """States that cut between SQLite's own calls, or inside one."""
        return sum(count for path, count in self.at.items() if Path(path).name.startswith("omen.sqlite"))

    def __add__(self, other: Report) -> Report:
        violations = self.violations + other.violations
        return Report(self.states + other.states, self.at + other.at, self.kept + other.kept, violations)

    def __str__(self) -> str:
        told = f"{self.states} distinct crash states of {sum(self.kept.values())}, {self.in_sqlite} inside SQLite's writes"
        return "\n  ".join([f"{told}; {len(self.violations)} violations", *map(str, self.violations[:5])])


@pytest.fixture(name="pool", scope="module")
def pool_fixture() -> Iterator[ProcessPoolExecutor]:
    with workers() as pool:
        yield pool


@contextmanager
def workers() -> Iterator[ProcessPoolExecutor]:
    """As many as there are cores."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), context, _start) as pool:
        yield pool


def _start() -> None:
    os.environ["OMENDB_NUM_THREADS"] = "1"


def promised(workload: str, steps: list[Step], uncertain: tuple[int, Step] | None = None) -> list[set[str]]:
    """What may be there when so many acknowledged steps are.

    uncertain: a step that raised after so many that were acknowledged, and may be there or not.
    """
    expected = [{content} for content in RUNS[workload].expected(steps)]
    if uncertain is not None:
        place, step = uncertain
        longer = RUNS[workload].expected([*steps[:place], step, *steps[place:]])
        for number in range(place, len(expected)):
            expected[number].add(longer[number + 1])
    return expected


def check(
    pool: ProcessPoolExecutor,
    workload: str,
    events: list[Event],
    expected: list[set[str]],
    *,
    durable: bool = True,
    initial: Files | None = None,
    subsets: int = 3,
    seed: int = 0,
) -> Report:
    """Every state is one that is `expected` after some steps; with `durable`, after no fewer than were acknowledged by then."""
    states, report = CrashStates(events, initial or {}, subsets, seed), Report()
    for digest, moment, content, why in _outcomes(pool, workload, states):
        report.states += 1
        report.at[moment.event.path] += 1
        last = states.last[digest]
        acked = last.acked if durable else 0
        if content is None:
            report.violations.append(Violation(why, digest, moment))
        elif not any(content in contents for contents in expected[acked:]):
            of = [number for number, contents in enumerate(expected) if content in contents]
            told = f"holds {of[-1]} steps" if of else "equals no prefix of the steps"
            report.violations.append(Violation(f"{told}, {acked} are acknowledged", digest, last))
    report.kept = states.kept
    return report


def _outcomes(pool: ProcessPoolExecutor, workload: str, states: CrashStates) -> list[Outcome]:
    """All of them at the end, when it is known how much each must hold. Few batches are under way at a time."""
    source, found, number = iter(states), [], 0
    running: dict[Future[list[Found]], list[tuple[bytes, Moment]]] = {}

    def collect(futures: Iterable[Future[list[Found]]]) -> None:
        for future in futures:
            found.extend((*which, *told) for which, told in zip(running.pop(future), future.result(), strict=True))

    while batch := list(islice(source, BATCH)):
        future = pool.submit(_judge, workload, number, [state.files for state in batch])
        running[future] = [(state.digest, state.moment) for state in batch]
        number += len(batch)
        if len(running) >= UNDER_WAY:
            collect(wait(running, return_when=FIRST_COMPLETED).done)
    collect(list(running))
    return found


def _judge(workload: str, number: int, batch: list[Files]) -> list[Found]:
    """In a worker: the states opened one by one."""
    outcomes: list[Found] = []
    for position, files in enumerate(batch, number):
        with tempfile.TemporaryDirectory(dir=fast_folder()) as scratch:
            write_files(Path(scratch), files)
            if position % 2:
                _spoil_shared_memory(Path(scratch), position)
            try:
                outcomes.append((RUNS[workload].read(Path(scratch), go_on=position % GO_ON == 0), ""))
            except Exception as error:  # noqa: BLE001  whatever it is, it is the finding
                outcomes.append((None, f"{type(error).__name__}: {error}"))
    return outcomes


def _spoil_shared_memory(folder: Path, seed: int) -> None:
    """A `-shm` file may hold anything after a crash: pages of it were written out at any time, or never."""
    for log in folder.rglob("*-wal"):
        log.with_name(log.name.removesuffix("-wal") + "-shm").write_bytes(random.Random(seed).randbytes(32768))
