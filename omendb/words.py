"""The English words shipped with the package and their vectors; data/README.md says where they come from."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Words:
    """Words, the most frequent first, and their vectors, float32 (n, d)."""

    names: list[str]
    vectors: Floats

    @classmethod
    def shipped(cls) -> Words:
        """The 19,000 words of the package, 300-d."""
        codes = np.load(DATA / "vectors.npy", allow_pickle=False)
        scales = np.load(DATA / "scales.npy", allow_pickle=False)
        return cls((DATA / "words.txt").read_text(encoding="utf-8").split(), codes * scales[:, None])

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.names)}

    @cached_property
    def _spellings(self) -> dict[str, str]:
        """Each word in lower case, and its most frequent spelling."""
        return {name.casefold(): name for name in reversed(self.names)}

    def __getitem__(self, name: str) -> Floats:
        """The vector (d,) of one word. Raises KeyError."""
        vector: Floats = self.vectors[self._rows[name]]
        return vector

    def row(self, name: str) -> int:
        """The row of one word. Raises KeyError."""
        return self._rows[name]

    def find(self, text: str) -> str | None:
        """The word itself, else its most frequent spelling in other letter case, else None."""
        return text if text in self._rows else self._spellings.get(text.casefold())

    def near_spellings(self, text: str) -> list[str]:
        """At most five words spelled much like `text`, nearest first. About 40 ms."""
        near = difflib.get_close_matches(text.casefold(), self._spellings, n=5, cutoff=0.7)
        return [self._spellings[spelling] for spelling in near]

    def drawn(self, count: int, seed: int) -> NDArray[np.int64]:
        """Rows drawn by `seed`, (count,)."""
        # random_raw is the one stream that NumPy promises to keep
        return (np.random.Philox(seed).random_raw(count) % len(self.names)).astype(np.int64)

    def between(self, rows: NDArray[np.int64], others: NDArray[np.int64]) -> Floats:
        """Vectors that are no word's: the mean direction of two words each, (m, d)."""
        pairs = self.vectors[np.stack([rows, others])]
        mean: Floats = (pairs / np.linalg.norm(pairs, axis=2, keepdims=True)).mean(axis=0)
        return mean
