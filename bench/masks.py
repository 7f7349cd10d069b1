"""Searches that may find some rows only: speed and recall by the share of rows that a random mask allows."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import numpy as np

import omendb_kernels as ok

from .curves import SETTLE, K
from .index import Ours
from .sets import DataSet
from .timing import in_turn

SEED = 11


def shares(words: str) -> list[float]:
    """Per cents of a comma list. Ends the process where it is none."""
    try:
        found = [float(word) for word in words.split(",") if word.strip()]
    except ValueError:
        found = [-1.0]
    if not all(0 < share <= 100 for share in found):
        sys.exit(f"--masks {words!r}: give per cents above 0, up to 100, separated by commas")
    return found


def masked(data: DataSet, ours: Ours, allowed: list[float], threads: int, rounds: int) -> dict[str, Any]:
    """By share: rows allowed, queries a second of a search at its tuned beam and of a certified exact one, recall of the first.

    Recall is of the neighbours that there are: a mask may allow fewer than K rows.
    """
    random, found = np.random.default_rng(SEED), {}
    for share in allowed:
        mask = np.zeros(len(data.base), np.bool_)
        mask[random.choice(len(mask), max(1, round(len(mask) * share / 100)), replace=False)] = True
        truth, _ = ok.knn(data.queries, data.base, K, data.metric, mask=mask, threads=threads)
        ask = partial(ours.db.search, data.queries, K, mask=mask, threads=threads)
        answer = ask()
        there = np.isfinite(truth)
        near = np.isfinite(answer.distances) & (answer.distances <= truth.max(axis=1, where=there, initial=-np.inf)[:, None])
        assert mask[answer.ids[there[:, : answer.ids.shape[1]]]].all(), "a row was found that the mask refuses"
        seconds = in_turn({"tuned": ask, "exact": partial(ask, exact=True)}, rounds, SETTLE)
        told = {name: {"qps": len(data.queries) / float(np.median(taken))} for name, taken in seconds.items()}
        told["tuned"]["recall"] = float(near.sum() / there.sum())
        found[f"{share:g}%"] = {"rows": int(mask.sum()), **told}
    return found
