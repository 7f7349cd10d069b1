"""Searches that may find some rows only: speed and recall by the share of rows that a random mask allows, beside the peers that
take a filter."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

import omendb_kernels as ok

from .curves import SETTLE, Curve, K, effort_for
from .index import Filtered, Index
from .sets import DataSet
from .timing import in_turn

SEED = 11
LEVEL = 0.95  # a peer is asked at its effort for this recall without a mask
QUERIES = 200  # the first of a set, the same for all
FEW, SECONDS = 20, 4.0  # a peer is asked fewer, FEW at least, where a call would take longer: it is called often


class WrongAnswer(Exception):
    """A search under a mask that is refused, whoever gave it."""


def shares(words: str) -> list[float]:
    """Per cents of a comma list. Ends the process where it is none."""
    try:
        found = [float(word) for word in words.split(",") if word.strip()]
    except ValueError:
        found = [-1.0]
    if not all(0 < share <= 100 for share in found):
        sys.exit(f"--masks {words!r}: give per cents above 0, up to 100, separated by commas")
    return found


def masked(
    data: DataSet, indexes: Mapping[str, Index], points: Mapping[str, Curve], allowed: list[float], threads: int, rounds: int
) -> dict[str, Any]:
    """By share: rows allowed, queries, speed and recall of ours at its tuned beam, speed of ours certified exact; and of each
    peer that takes a filter, at its effort for LEVEL. points: recall by effort without a mask, by index.

    Recall is of the neighbours that there are: a mask may allow fewer than K rows. Raises WrongAnswer.
    """
    random, found = np.random.default_rng(SEED), {}
    others = {name: one for name, one in indexes.items() if name != "ours" and isinstance(one, Filtered)}
    efforts = {name: int(effort_for(points[name], LEVEL)["effort"]) for name in others}
    for name, effort in efforts.items():
        indexes[name].tune(effort, threads)
    for share in allowed:
        mask = np.zeros(len(data.base), np.bool_)
        mask[random.choice(len(mask), max(1, round(len(mask) * share / 100)), replace=False)] = True
        told = {"rows": int(mask.sum()), **_one(data, mask, indexes["ours"], others, threads, rounds)}
        for name, one in told["others"].items():
            one |= {"effort": efforts[name], "filter": others[name].filter}
        found[f"{share:g}%"] = told
    return found


def _one(data: DataSet, mask: np.ndarray, ours: Any, others: Mapping[str, Any], threads: int, rounds: int) -> dict[str, Any]:
    """All under one mask, in turn."""
    queries, k = data.queries[:QUERIES], min(K, int(mask.sum()))
    truth, _ = ok.knn(queries, data.base, K, data.metric, mask=mask, threads=threads)
    ask = partial(ours.db.search, queries, K, mask=mask, threads=threads)
    contestants: dict[str, Callable[[], Any]] = {"ours": ask, "ours, exact": partial(ask, exact=True)}
    ids, asked = {name: one().ids for name, one in contestants.items()}, dict.fromkeys(contestants, len(queries))
    for name, index in others.items():
        form, filter_ = index.form(queries, data.metric), index.allow(mask)
        asked[name] = affordable(lambda few, index=index, form=form, f=filter_: index.masked(form[:few], k, f), len(queries))
        contestants[name] = partial(index.masked, form[: asked[name]], k, filter_)
        ids[name] = contestants[name]()
    recalls = {name: recall(data, one, mask, truth, name) for name, one in ids.items()}
    if recalls["ours, exact"] < 1:
        raise WrongAnswer("ours, exact, misses neighbours that a mask allows")
    seconds = in_turn(contestants, rounds, SETTLE)
    qps = {name: asked[name] / float(np.median(taken)) for name, taken in seconds.items()}
    return {
        "queries": len(queries),
        "tuned": {"qps": qps["ours"], "recall": recalls["ours"]},
        "exact": {"qps": qps["ours, exact"]},
        "others": {name: {"queries": asked[name], "qps": qps[name], "recall": recalls[name]} for name in others},
    }


def affordable(ask: Callable[[int], Any], most: int) -> int:
    """How many queries, `most` at most, one call can have that takes SECONDS at most; FEW at least. ask: with so many."""
    few = min(FEW, most)
    ask(few)  # not counted
    start = time.perf_counter()
    ask(few)
    each = (time.perf_counter() - start) / few
    return int(np.clip(SECONDS / each, few, most))


def recall(data: DataSet, ids: np.ndarray, mask: np.ndarray, truth: np.ndarray, name: str) -> float:
    """By exact distances, of the finite ones of `truth` (m, K), whose first lines are those of ids (few, <= K). Ids below 0
    count as missed. Raises WrongAnswer."""
    ids = ids.astype(np.int64)
    if ids.max(initial=-1) >= len(mask):
        raise WrongAnswer(f"{name} found a row that does not exist")
    if not mask[ids[ids >= 0]].all():
        raise WrongAnswer(f"{name} found a row that the mask refuses")
    truth = truth[: len(ids)]
    there = np.isfinite(truth)
    worst = truth.max(axis=1, where=there, initial=-np.inf)[:, None]
    distances, _ = ok.rerank(data.queries[: len(ids)], data.base, ids, K, data.metric)
    return float((np.isfinite(distances) & (distances <= worst)).sum() / there.sum())
