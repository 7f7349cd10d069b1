"""Handle: the generation in force, the writers' turns, and the folder behind it, where there is one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omendb_kernels import as_count, as_threads, use_device

from .background import Builder, Schedule, Trail
from .changes import Change
from .errors import Closed, ReadOnly, StorageError
from .generation import Generation, Progress
from .snapshot import Snapshot
from .store import Follower, Writer

log = logging.getLogger("omendb")

Told = tuple[Change, ...] | None


class Handle:
    """Whoever reads takes `_now` once and needs no lock. Whoever writes derives the next generation in `_writing` and hands it
    to `_commit` or `_keep`. Memory is never ahead of the folder, nor behind what was acknowledged, wherever Ctrl-C strikes.
    """

    def _begin(self, generation: Generation, threads: int | None, build_threshold: int, device: str | None) -> None:
        with use_device(device):  # judged
            self._device = device
        self._threads = None if threads is None else as_threads(threads)
        self._build_threshold = as_count(build_threshold, "build_threshold")
        self._generation: Generation | None = generation
        self._lock = threading.Lock()
        self._file: Snapshot | None = None  # of a database that was loaded
        self._store: Writer | None = None  # of a folder opened for writing,
        self._followed: Follower | None = None  # or for reading
        self._trail: Trail | None = None  # of a build beside the writes,
        self._builder: Builder | None = None  # which this makes

    @property
    def _now(self) -> Generation:
        generation = self._generation
        if generation is None:
            raise Closed("this database was closed")
        return generation

    @property
    def _path(self) -> Path | None:
        """The file or the folder that it came from."""
        if self._store is not None:
            return self._store.folder
        if self._followed is not None:
            return self._followed.folder
        return None if self._file is None else self._file.path

    @property
    def _workers(self) -> int:
        return as_threads(self._threads)

    @property
    def _broken(self) -> tuple[str, ...]:
        """What was found broken when the folder was opened, and cleared up by that."""
        home = self._store or self._followed
        return () if home is None else home.read.broken

    @contextmanager
    def _writing(self) -> Iterator[Generation]:
        """The writer's turn, and the generation that it finds. Raises Closed, ReadOnly, StorageFailed."""
        with self._lock, use_device(self._device):
            now = self._now
            if self._followed is not None:
                raise ReadOnly(f"{self._followed.folder} was opened with mode='r'; mode='rw' writes")
            if self._store is not None:
                self._store.check()
                now = self._settled(self._store)
            yield now
            if self._builder is not None:
                self._builder.wrote()

    def _commit(self, now: Generation, change: Change) -> None:
        """Journal a change where there is a folder, then publish the generation that it makes."""
        after = now.applied(change, threads=self._workers)
        if self._store is None or after is now:
            self._publish(after, (change,))
        elif change.nbytes > self._store.room:
            self._keep(after, (change,))
        else:
            try:
                self._store.append(change, after)
            finally:
                self._settled(self._store, (change,))
            if self._store.due:
                self._keep_soon()

    def _keep(self, now: Generation, told: Told = None) -> None:
        """Put `now` into a snapshot where there is a folder, then publish it."""
        if self._store is None:
            self._publish(now, told)
            return
        try:
            self._store.keep(now, threads=self._workers)
        finally:
            self._settled(self._store, told)

    def _keep_soon(self) -> None:
        """The journal has become long. What is in it is safe, so that a failure here is no failure of the write."""
        assert self._store is not None
        try:
            self._keep(self._now, ())
        except StorageError as error:
            log.warning("no new snapshot, the journal grows on: %s", error)
            self._store.postpone()

    def _settled(self, store: Writer, told: Told = None) -> Generation:
        """What is in force in the folder, published: also where a write was interrupted by Ctrl-C or an error."""
        store.settle()
        self._publish(store.read.generation, told)
        return store.read.generation

    def _publish(self, generation: Generation, told: Told = None) -> None:
        """told: the changes that lead here, for a build beside the writes; None: it must begin anew."""
        if self._generation is None:
            raise Closed("this database was closed meanwhile")
        if self._trail is not None and told is not None:
            self._trail.note(self._generation, told, generation)
        self._generation = generation

    def _build_beside_writes(self, recall: float, when: Schedule, progress: Progress | None) -> Builder:
        """From now on; rows that wait already count. The first call's settings stay."""
        if self._builder is None:
            self._builder = Builder(self, recall, when if self._followed is None else Schedule(None), progress)
            self._builder.wrote()
        return self._builder

    def close(self) -> None:
        """Let go of rows, file and folder. Searches under way finish; any later call raises Closed. Twice is no error.

        A build in the background is given up at the end of its phase, with nothing changed.
        """
        if self._builder is not None:
            self._builder.stop()
        with self._lock:
            home = self._store
            self._generation = self._file = self._store = self._followed = None
            if home is not None:
                home.close()
