"""BaseANN, with the signatures and defaults of theirs."""

from __future__ import annotations

import time
from typing import Any


class BaseANN:
    def done(self) -> None:
        pass

    def get_memory_usage(self) -> float | None:
        return time.process_time()  # theirs: kilobytes of the process

    def fit(self, X) -> None:
        pass

    def query(self, q, n):
        return []

    def batch_query(self, X, n) -> None:
        self.res = [self.query(q, n) for q in X]

    def get_batch_results(self):
        return self.res

    def get_additional(self) -> dict[str, Any]:
        return {}

    def __str__(self) -> str:
        return self.name
