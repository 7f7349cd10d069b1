"""Ours and other libraries in turn on a card: exact scans together, then graphs, each recall with its speed."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

import omendb_kernels as ok

from .curves import ENOUGH, LEVELS, Curve, K, at_recall, recall_of
from .gpu import Device
from .gpu_peers import EXACT, OursExact, OursGraph, Peer, why
from .sets import DataSet
from .tables import number, ratio, table
from .timing import in_turn

LEAST = 0.99  # recall of what calls itself exact
FIRST = (5000, 100)  # rows and queries of a build and a search that are not counted: compiling


class Stage:
    """A set on a card, in the forms that contestants want. truth: exact distances float32 (m, K) of its queries."""

    def __init__(self, card: Device, data: DataSet, truth: np.ndarray) -> None:
        self.card, self.data, self.worst = card, data, truth[:, -1:]
        self.placed: dict[tuple[Any, str], Any] = {}

    def there(self, kind: type[Peer], part: str) -> Any:
        """The rows ("base") or "queries" on the card; those who want the same form share them."""
        if (kind.form, part) not in self.placed:
            rows = kind.form(getattr(self.data, part), self.data.metric)
            self.placed[kind.form, part] = self.card.put(np.ascontiguousarray(rows))
            self.card.sync()  # a library may work on another stream
        return self.placed[kind.form, part]

    def recall(self, ids: Any) -> float | None:
        """Of ids (m, K), by exact distances; None where they are no ids of rows."""
        found = ok.as_numpy(ids, "ids")
        if found.shape != (len(self.data.queries), K) or found.dtype.kind not in "iu":
            return None
        found = found.astype(np.int64)
        if found.min() < -1 or found.max() >= len(self.data.base):
            return None
        return recall_of(self.data, self.data.queries, found, self.worst)


class Entrant:
    """A contestant. told: what is measured of it, with "error" or "wrong" where it is out; points: its curve."""

    def __init__(self, kind: type[Peer], stage: Stage) -> None:
        self.kind, self.stage = kind, stage
        self.told: dict[str, Any] = {}
        self.points: Curve = []
        self.index = self.guarded(self._built)

    @property
    def out(self) -> bool:
        return "error" in self.told or "wrong" in self.told

    def guarded(self, task: Callable[[], Any]) -> Any:
        """What a task gives once the card has done it; None, and the error told, where it raises."""
        try:
            given = task()
            self.stage.card.sync()
            return given
        except Exception as error:  # noqa: BLE001  a library that is not ours, or memory: the others go on
            self.told["error"] = why(error)
            return None

    def _built(self) -> Peer:
        stage, rows, queries = self.stage, self.stage.there(self.kind, "base"), self.stage.there(self.kind, "queries")
        metric, card = stage.data.metric, stage.card
        self.kind.build(rows[: FIRST[0]], metric, card).search(queries[: FIRST[1]], K, self.kind.efforts[0])
        card.sync()
        start = time.perf_counter()
        index = self.kind.build(rows, metric, card)
        card.sync()
        self.told["seconds"] = time.perf_counter() - start
        return index

    def search(self, effort: int) -> Any:
        """The ids, computed; None where that fails, or has."""
        queries = self.stage.there(self.kind, "queries")
        return None if self.out else self.guarded(lambda: self.index.search(queries, K, effort))

    def try_(self, effort: int) -> None:
        """A point of the curve, without its speed yet."""
        ids = self.search(effort)
        if self.out:
            return
        recall = self.stage.recall(ids)
        if recall is None:
            self.told["wrong"], self.points = "no ids of rows", []
        elif self.kind.efforts == EXACT and recall < LEAST:
            self.told |= {"wrong": f"recall below {LEAST} of an exact scan", "recall": recall}
        else:
            self.points.append({"effort": effort, "recall": recall})


def race(card: Device, data: DataSet, truth: np.ndarray, kinds: Sequence[type[Peer]], rounds: int) -> dict[str, Any]:
    """All of these peers beside ours on one set; prints the tables. "exact" and "graph", by label."""
    stage, found = Stage(card, data, truth), {}
    for name, ours in (("exact", OursExact), ("graph", OursGraph)):
        some = [kind for kind in kinds if (kind.efforts == EXACT) == (name == "exact")]
        for kind in some:
            if data.metric not in kind.metrics:
                print(f"  {kind.label} has no {data.metric}: it serves {', '.join(kind.metrics)}")
        told = run([ours, *(kind for kind in some if data.metric in kind.metrics)], stage, rounds)
        print((show_exact if name == "exact" else show_graphs)(told), flush=True)
        found[name] = told
    return found


def run(kinds: list[type[Peer]], stage: Stage, rounds: int) -> dict[str, dict[str, Any]]:
    """What is told of each contestant, by label; their memory is given back before and after."""
    spare(stage.card)
    entrants = [Entrant(kind, stage) for kind in kinds]
    for step in range(max(len(kind.efforts) for kind in kinds)):
        racing = [one for one in entrants if not one.out and step < len(one.kind.efforts)]
        racing = [one for one in racing if not one.points or one.points[-1]["recall"] <= ENOUGH]
        for one in racing:
            one.try_(one.kind.efforts[step])
        racing = [one for one in racing if not one.out]
        turns = {one.kind.label: partial(one.search, one.kind.efforts[step]) for one in racing}
        for one, seconds in zip(racing, in_turn(turns, rounds).values(), strict=True):
            if not one.out:
                one.points[-1]["qps"] = len(stage.data.queries) / float(np.median(seconds))
    told = {one.kind.label: _summed(one) for one in entrants}
    del entrants
    spare(stage.card)
    return told


def _summed(one: Entrant) -> dict[str, Any]:
    """Recall and speed of a scan; the curve of a graph, and the speeds read off it, as far as it came."""
    points = [point for point in one.points if "qps" in point]
    if not points or (one.kind.efforts == EXACT and one.out):
        return one.told
    if one.kind.efforts == EXACT:
        return one.told | {key: points[0][key] for key in ("recall", "qps")}
    return one.told | {"points": points, "at_recall": {str(level): at_recall(points, level) for level in LEVELS}}


def spare(card: Device) -> None:
    """Memory that nobody uses goes back to the card: each library keeps its own."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    card.spare()


def show_exact(told: dict[str, dict[str, Any]]) -> str:
    """Builds, recall, queries a second and ours / peer; what is wrong, or failed, in place of the speed."""
    lines, own = [], told["ours"].get("qps")
    for label, one in told.items():
        line = [label, number(one.get("seconds"), ".2f"), number(one.get("recall"), ".4f"), number(one.get("qps"))]
        lines.append([*line, ratio(own, one.get("qps")) if label != "ours" else ""])
    return "\n".join([table(["exact scans", "build s", "recall@10", "queries/s", "ours /"], lines), *_outs(told)])


def show_graphs(told: dict[str, dict[str, Any]]) -> str:
    """Builds, queries a second at each recall, ours / peer, and where the curve ends."""
    lines, own = [], told["ours"].get("at_recall", {})
    for label, one in told.items():
        line, at = [label, number(one.get("seconds"), ".2f")], one.get("at_recall", {})
        for level in map(str, LEVELS):
            line += [number(at.get(level)), "" if label == "ours" else ratio(own.get(level), at.get(level))]
        last = one["points"][-1] if "points" in one else None
        lines.append([*line, f"{last['recall']:.4f} at {last['effort']}" if last else "-"])
    head = [cell for level in LEVELS for cell in (f"{level:.2f}", "ours /")]
    return "\n".join([table(["graphs, queries/s", "build s", *head, "ends"], lines), *_outs(told)])


def _outs(told: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each that is wrong or failed."""
    wrong = [f"  {label} WRONG: {one['wrong']}" for label, one in told.items() if "wrong" in one]
    return [*wrong, *(f"  {label} failed: {one['error']}" for label, one in told.items() if "error" in one)]
