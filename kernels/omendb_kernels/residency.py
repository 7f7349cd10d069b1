"""Which points the devices hold beyond a call, and when it pays to bring them: ski rental (Karlin et al., 1988).

Bringing points costs once what calls on the host cost again and again. They are brought when the time that they would have
saved so far exceeds the time that bringing them takes: whatever comes next, that costs at most twice the best that could have
been done.
"""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary


class Residency:
    """Of points (any objects that can be weakly referred to), which live as long as they do. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._saved: WeakKeyDictionary[Any, dict[str, float]] = WeakKeyDictionary()
        self._holders: WeakKeyDictionary[Any, frozenset[str]] = WeakKeyDictionary()

    def holders(self, points: Any) -> frozenset[str]:
        """The backends whose device has these points; None has none."""
        return frozenset() if points is None else self._holders.get(points, frozenset())

    def missed(self, points: Any, backend: str, seconds: float, bringing: float) -> bool:
        """Count what a call on the host took longer than it would have with the points on the device; whether that is, with
        the calls before, more than bringing them takes."""
        with self._lock:
            saved = self._saved.setdefault(points, {})
            saved[backend] = saved.get(backend, 0.0) + max(0.0, seconds)
            return saved[backend] > bringing

    def brought(self, points: Any, backend: str) -> None:
        """The device of this backend has them now."""
        with self._lock:
            self._holders[points] = self.holders(points) | {backend}

    def forget(self, backend: str) -> None:
        """The device of this backend has nothing any more; what was saved counts from zero."""
        with self._lock:
            for points in list(self._holders):
                self._holders[points] = self.holders(points) - {backend}
            for saved in self._saved.values():
                saved.pop(backend, None)
