"""Handle: the generation in force, the writers' turns, and the folder behind it, where there is one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omendb_kernels import as_count, as_threads, use_device

from .changes import Change
from .errors import Closed, ReadOnly, StorageError
from .generation import Generation
from .snapshot import Snapshot
from .store import Follower, Writer

log = logging.getLogger("omendb")


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

    def _commit(self, now: Generation, change: Change) -> None:
        """Journal a change where there is a folder, then publish the generation that it makes."""
        after = now.applied(change, threads=self._workers)
        if self._store is None or after is now:
            self._publish(after)
        elif change.nbytes > self._store.room:
            self._keep(after)
        else:
            try:
                self._store.append(change, after)
            finally:
                self._settled(self._store)
            if self._store.due:
                self._keep_soon()

    def _keep(self, now: Generation) -> None:
        """Put `now` into a snapshot where there is a folder, then publish it."""
        if self._store is None:
            self._publish(now)
            return
        try:
            self._store.keep(now, threads=self._workers)
        finally:
            self._settled(self._store)

    def _keep_soon(self) -> None:
        """The journal has become long. What is in it is safe, so that a failure here is no failure of the write."""
        assert self._store is not None
        try:
            self._keep(self._now)
        except StorageError as error:
            log.warning("no new snapshot, the journal grows on: %s", error)
            self._store.postpone()

    def _settled(self, store: Writer) -> Generation:
        """What is in force in the folder, published: also where a write was interrupted by Ctrl-C or an error."""
        store.settle()
        self._publish(store.read.generation)
        return store.read.generation

    def _publish(self, generation: Generation) -> None:
        if self._generation is None:
            raise Closed("this database was closed meanwhile")
        self._generation = generation
