"""Data sets as folders of .npy files: base.npy, queries.npy, info.json; and the vectors shipped in the package."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class DataSet:
    """name, the metric it is meant for, base (n, d) and queries (m, d)."""

    name: str
    metric: str
    base: NDArray[Any]
    queries: NDArray[Any]


def shipped() -> DataSet:
    """The word vectors of the demo, every tenth row a query."""
    from omendb.words import Words

    vectors = Words.shipped().vectors
    asked = np.arange(len(vectors)) % 10 == 0
    return DataSet("shipped words", "cosine", vectors[~asked], vectors[asked][:1000])


def load(folder: Path) -> list[DataSet]:
    """Every data set below `folder`, by name."""
    sets = []
    for place in sorted(path.parent for path in folder.glob("*/base.npy")):
        info = json.loads((place / "info.json").read_text())
        sets.append(DataSet(place.name, info["metric"], np.load(place / "base.npy"), np.load(place / "queries.npy")))
    return sets
