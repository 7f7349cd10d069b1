"""Data sets: folders of base.npy, queries.npy, info.json; a file of ann-benchmarks; the vectors shipped in the package."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class DataSet:
    """name, the metric it is meant for, base (n, d), queries (m, d), and queries of another kind where it has some."""

    name: str
    metric: str
    base: NDArray[Any]
    queries: NDArray[Any]
    queries_ood: NDArray[Any] | None = None

    @property
    def asked(self) -> dict[str, NDArray[Any]]:
        """Each kind of queries by name."""
        return {"queries": self.queries} | ({} if self.queries_ood is None else {"ood": self.queries_ood})

    @property
    def raw_bytes(self) -> int:
        """What the rows take as float32: the unit that memory is told in."""
        return self.base.size * 4


def shipped() -> DataSet:
    """The word vectors of the demo, every tenth row a query."""
    from omendb.words import Words

    vectors = Words.shipped().vectors
    asked = np.arange(len(vectors)) % 10 == 0
    return DataSet("shipped words", "cosine", vectors[~asked], vectors[asked][:1000])


def load(folder: Path) -> list[DataSet]:
    """Every data set below `folder`, by name; the one of an HDF5 file."""
    if folder.is_file():
        return [load_hdf5(folder)]
    sets = []
    for place in sorted(path.parent for path in folder.glob("*/base.npy")):
        info = json.loads((place / "info.json").read_text())
        base, queries, *ood = (np.load(path) for name in PARTS if (path := place / name).exists())
        sets.append(DataSet(place.name, info["metric"], base, queries, *ood))
    return sets


def load_hdf5(path: Path) -> DataSet:
    """The set of a file of ann-benchmarks, dtypes as they are. Its neighbours are not read: ours are proved. Ends the process
    where it is no such file, or h5py is missing."""
    try:
        import h5py
    except ImportError:
        sys.exit(f"{path}: reading HDF5 needs h5py: pip install 'omendb-kernels[hdf5]'")
    try:
        with h5py.File(path, "r") as file:
            distance = file.attrs.get("distance")
            name = distance.decode() if isinstance(distance, bytes) else distance
            if name not in DISTANCES:
                sys.exit(f"{path}: its distance is {name!r}, wanted one of {', '.join(DISTANCES)}")
            return DataSet(path.stem, DISTANCES[name], file["train"][:], file["test"][:])
    except (OSError, KeyError) as error:
        sys.exit(f"{path}: not an HDF5 file of ann-benchmarks with train and test: {' '.join(str(error).split())}")


DISTANCES = {"euclidean": "l2", "angular": "cosine"}
PARTS = ("base.npy", "queries.npy", "queries_ood.npy")


def chosen(folder: Path | None, names: str = "") -> list[DataSet]:
    """The sets of a comma list, or all; the shipped words without a folder. Ends the process on an unknown name."""
    sets = load(folder) if folder else [shipped()]
    if not sets:
        sys.exit(f"no data set in {folder}: each is a folder with {', '.join(PARTS[:2])} and info.json; or name one .hdf5 file")
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    there = {data.name: data for data in sets}
    for name in wanted:
        if name not in there:
            sys.exit(f"unknown set {name!r}: there are {', '.join(there)}")
    return [there[name] for name in wanted] if wanted else sets


def largest(sets: list[DataSet], dtype: str | None = None) -> DataSet:
    """The set with the most rows of those under l2, and of this dtype. Ends the process where there is none."""
    fit = [data for data in sets if data.metric == "l2" and dtype in (None, data.base.dtype.name)]
    if not fit:
        sys.exit(f"no set under l2{f' of {dtype} rows' if dtype else ''}: name a folder that has one with --data")
    return max(fit, key=lambda data: len(data.base))
