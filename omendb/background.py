"""Graphs that are made beside the writes, and the thread that decides when.

The build works on the rows of one moment. What is written meanwhile is kept as changes, which are applied to its result: first
while writes go on, the last few in the writer's turn. It is the code that replays a journal, so that the outcome is what the
same writes after the build would have made.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from omendb_kernels import as_count, use_device

from .changes import Change
from .errors import Closed, InvalidParameter
from .generation import Generation, Progress
from .results import BuildReport

if TYPE_CHECKING:
    from .handle import Handle

log = logging.getLogger("omendb")

BUILD_AFTER = 10_000  # rows outside the graph that are worth a build
QUIET = 1.0  # seconds without a write that a build waits for,
EAGER = 10  # unless so many times the rows have come
ROUNDS, FEW = 8, 1_000  # of catching up beside the writers; rows left for their turn
GLANCE = 0.5  # seconds after which a waiting thread looks whether the program has ended


class Trail:
    """The changes since a generation. Whatever came into force untold, by another build or torn by Ctrl-C, ends it for good."""

    def __init__(self, start: Generation) -> None:
        self._changes: list[Change] = []
        self._at = (start, 0)  # where it leads, and after how many changes: one assignment, which Ctrl-C cannot tear

    def note(self, before: Generation, told: Sequence[Change], after: Generation) -> None:
        """`after` follows `before` by these changes; to be called before it comes into force. Twice is no error."""
        head, count = self._at
        if head is before and after is not before:
            self._changes[count:] = told
            self._at = (after, count + len(told))

    def leads_to(self, now: Generation) -> bool:
        """Whether the changes are all that came between the start and `now`."""
        return self._at[0] is now

    def after(self, done: int) -> list[Change]:
        """The changes behind the first `done`."""
        return self._changes[done : self._at[1]]


def build_beside(db: Handle, recall: float, *, threads: int, progress: Progress) -> BuildReport | None:
    """`build_index` without the writer's turn but for its end. None, with nothing changed, where another build came between."""
    started = time.perf_counter()
    with db._writing() as start:
        trail = db._trail = Trail(start)
    try:
        with use_device(db._device):
            fresh = start.refitted(threads=threads)
            if fresh.ids is not None:  # vectors and columns tell a second writer from the first; the map of ids does not
                fresh = replace(fresh, ids=fresh.ids.apart())
            built, facts = fresh.indexed(db._build_threshold, recall, threads=threads, progress=progress)
            done = 0
            for _ in range(ROUNDS):
                changes = trail.after(done)
                if sum(map(len, changes)) <= FEW:
                    break
                for at, change in enumerate(changes):
                    progress("catch up", at, len(changes))
                    built = built.applied(change, threads=threads)
                done += len(changes)
        with db._writing() as now:
            if not trail.leads_to(now):
                return None
            for change in trail.after(done):
                built = built.applied(change, threads=threads)
            db._keep(built)
        report = built.report(facts, time.perf_counter() - started)
        log.info("built: %s", report)
        return report
    finally:
        db._trail = None


@dataclass(frozen=True)
class Schedule:
    """When a build is due: build_after rows outside the graph (None: never), and quiet_seconds. Raises InvalidParameter."""

    build_after: int | None = BUILD_AFTER
    quiet_seconds: float = QUIET

    def __post_init__(self) -> None:
        if self.build_after is not None:
            as_count(self.build_after, "build_after")
        quiet = self.quiet_seconds
        if isinstance(quiet, bool) or not isinstance(quiet, (int, float)) or not 0 <= quiet < math.inf:
            raise InvalidParameter("quiet_seconds", repr(quiet), "seconds, 0 or more")


class Stopped(Exception):
    """A build was given up, as it was asked to."""


class Builder:
    """Makes the graph of a database beside its writes: when it is asked to, and in a thread of its own when rows wait.

    The thread lives only while enough rows wait or are built, and ends with the program. Builds take turns.
    """

    def __init__(self, db: Handle, recall: float, when: Schedule, progress: Progress | None) -> None:
        """recall, progress: of the builds that nobody asks for."""
        self._db, self._recall, self._progress = db, recall, progress
        self._least = when.build_after or math.inf
        self._quiet = when.quiet_seconds
        self._turn = threading.RLock()  # a callback of a build may close the database
        self._state = threading.Condition()
        self._process = os.getpid()  # a forked child has neither the thread nor a use for the locks
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._last = 0.0  # when somebody wrote
        self._spared = 0  # rows that a failed build has left outside

    @property
    def threads(self) -> int:
        """Half of what a call may use: searches want to go on."""
        return max(1, self._db._workers // 2)

    def build(
        self, recall: float, progress: Progress | None, cancelled: Callable[[], bool] = lambda: False
    ) -> BuildReport | None:
        """See `build_beside`. Raises what `build_index` raises, Stopped once `cancelled` says so, Closed by `stop`."""

        def go_on() -> None:
            if self._halted:
                raise Closed("this database was closed, the build given up")
            if cancelled():
                raise Stopped

        def told(phase: str, done: int, total: int) -> None:
            go_on()
            if progress is not None:
                progress(phase, done, total)

        with self._turn:
            go_on()
            return build_beside(self._db, recall, threads=self.threads, progress=told)

    def wrote(self) -> None:
        """Somebody has written: perhaps enough rows wait now."""
        if self._process != os.getpid():
            return
        with self._state:
            self._last = time.monotonic()
            if self._stopping or not self._due():
                return
            if self._thread is not None and self._thread.is_alive():
                self._state.notify()
                return
            self._thread = threading.Thread(target=self._run, name="omendb-build")
            try:
                self._thread.start()
            except RuntimeError as error:  # the write is done, whatever the system says to one more thread
                self._thread = None
                log.warning("no build in the background: %s", error)

    def stop(self) -> None:
        """Give up the build under way, at the end of its phase, and wait for that."""
        if self._process != os.getpid():
            return
        with self._state:
            self._stopping = True
            self._state.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        with self._turn:
            return

    @property
    def _halted(self) -> bool:
        return self._stopping or not threading.main_thread().is_alive()

    @property
    def _waiting(self) -> int:
        """Rows outside the graph, but for those that a failed build has left there."""
        now = self._db._generation
        inside = 0 if now is None or now.graph is None else now.graph.rows
        return 0 if now is None else now.total - inside - self._spared

    def _due(self) -> bool:
        now = self._db._generation
        return now is not None and self._waiting >= self._least and len(now) >= self._db._build_threshold

    def _run(self) -> None:
        while self._is_time():
            built = False
            try:
                with self._turn:
                    built = not self._due() or self.build(self._recall, self._progress) is not None
            except Closed:
                continue
            except Exception as error:  # noqa: BLE001  a callback's too: the thread goes on with the next rows
                log.warning("no graph was built in the background: %r", error)
            self._spared = 0 if built else self._spared + self._waiting

    def _is_time(self) -> bool:
        """Wait until a build is due and writers are quiet, or many rows wait; False: none is, and the thread ends."""
        with self._state:
            while self._due() and not self._halted:
                left = self._last + self._quiet - time.monotonic()
                if left <= 0 or self._waiting >= EAGER * self._least:
                    return True
                self._state.wait(min(left, GLANCE))
            self._thread = None
            return False
