"""What people write in PyTorch: a matrix of distances, then topk. float32, on the CPU; not exact in its last bits."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

BLOCK_VALUES = 1 << 26  # distances that stand at a time


def installed() -> bool:
    """Whether there is a torch."""
    return importlib.util.find_spec("torch") is not None


class Cdist:
    """torch.cdist and topk for l2; a product of normalised rows, or of rows as they are, for cosine and ip."""

    def __init__(self, base: np.ndarray[Any, Any], metric: str) -> None:
        import torch

        self._torch, self._metric = torch, metric
        self._base = self._rows(base)

    def _rows(self, rows: np.ndarray[Any, Any]) -> Any:
        found = self._torch.from_numpy(np.ascontiguousarray(rows, np.float32))
        return self._torch.nn.functional.normalize(found) if self._metric == "cosine" else found

    def search(self, queries: np.ndarray[Any, Any], k: int, threads: int = 1) -> np.ndarray[Any, Any]:
        """int64 (m, k) rows, nearest first."""
        before = self._torch.get_num_threads()
        self._torch.set_num_threads(threads)
        try:
            step, found = max(1, BLOCK_VALUES // len(self._base)), []
            for block in self._rows(queries).split(step):
                if self._metric == "l2":
                    found.append(self._torch.cdist(block, self._base).topk(k, largest=False).indices)
                else:
                    found.append((block @ self._base.T).topk(k).indices)
            return self._torch.cat(found).numpy()  # type: ignore[no-any-return]
        finally:
            self._torch.set_num_threads(before)
