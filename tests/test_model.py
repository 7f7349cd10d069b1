"""The database against a model of it: a dict and brute force, whatever is called in whatever order (hypothesis draws it).

Rows are small integers, or quarters of them: sums are exact in any order, so the model's distances have the same bits. Small
numbers of rows are made to take the roads of large ones: graphs from a few rows on, batches of 64, no scan in place of a walk.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import NUMBA_BLOCKED
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from store_sets import RAM

import omendb
from omendb import DB

DIM = 8
MOST_ROWS = 900  # of the model; the searches are what is tested, not their speed
RECALL = 0.99  # of all graph searches of a run together
SEEDS = st.integers(0, 2**32 - 1)
RARELY = st.sampled_from([False] * 5 + [True])
WAYS = ("close", "kill", "copy", "repair")  # in which a folder comes back
TALLY = dict.fromkeys(("hits", "wanted", "graph", "late", "inserted", *WAYS), 0)


def distances(metric: str, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """float32 (n,): the definitions, in float64, where the sums are exact."""
    q, x = query.astype(np.float64), rows.astype(np.float64)
    if metric == "l2":
        found = ((x - q) ** 2).sum(axis=1)
    elif metric == "ip":
        found = 0 - x @ q
    else:
        found = np.maximum(0, 1 - (x @ q) / (np.sqrt(q @ q) * np.sqrt((x * x).sum(axis=1))))
    return found.astype(np.float32) + np.float32(0)  # no -0.0


class Model(RuleBasedStateMachine):
    """rows: id -> (vector, metadata), in the order of adding."""

    @initialize(
        metric=st.sampled_from(["l2", "cosine", "ip"]),
        kind=st.sampled_from(["float32", "uint8"]),
        ids=st.sampled_from(["row", "int", "str"]),
        threshold=st.sampled_from([64, 150, 300]),
        n=st.sampled_from([0, 1, 63, 64, 150, 300, 500]),
        more=st.sampled_from([0, 40, 130]),
        spread=st.sampled_from([0, 60]),
        durable=st.booleans(),
        seed=SEEDS,
    )
    def begin(
        self, metric: str, kind: str, ids: str, threshold: int, n: int, more: int, spread: int, durable: bool, seed: int
    ) -> None:
        self.metric, self.kind, self.ids, self.threshold, self.spread = metric, kind, ids, threshold, spread
        self.rows: dict[Any, tuple[np.ndarray, Any]] = {}
        self.used, self.inside, self.rng = 0, 0, np.random.default_rng(seed)
        self.db = DB(metric=metric, build_threshold=threshold, threads=2)
        self.durable, self.folders = durable, 0
        if durable:
            self.home = tempfile.TemporaryDirectory(dir=RAM)
            self.db.copy(self.folder())
            self.open()
        self.build(n, seed)
        self.graph_is_whole()
        self.add(more, False, False, seed + 1)
        for way in WAYS if durable else ():  # what hypothesis draws later may leave one out
            self.come_back(way)

    def folder(self) -> Path:
        """The folder in use; a new name after `move`."""
        return Path(self.home.name) / str(self.folders)

    def open(self) -> None:
        self.db = DB.open(self.folder(), build_threshold=self.threshold, threads=2)

    def teardown(self) -> None:
        if hasattr(self, "home"):
            self.db.close()
            self.home.cleanup()

    # --- what comes in -----------------------------------------------------------------------------------------------

    def vectors(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Half of them from a few that come again and again, half new, or in four clusters apart; none of length zero."""
        pool = np.random.default_rng(7).integers(0, 12, (20, DIM))
        rows = np.where(rng.random((n, 1)) < 0.5, pool[rng.integers(0, 20, n)], rng.integers(0, 12, (n, DIM)))
        rows += self.spread * rng.integers(0, 4, (n, 1))
        rows[:, 0] += 1
        return rows.astype(np.uint8) if self.kind == "uint8" else (rows / 4).astype(np.float32)

    def fresh(self, n: int) -> tuple[list[Any], Any]:
        """n ids never used, and what is handed to the database for them."""
        numbers = list(range(self.used, self.used + n))
        self.used += n
        if self.ids == "row":
            return numbers, None
        keys: list[Any] = [f"id {i * 7}" if self.ids == "str" else i * 7 for i in numbers]
        return keys, keys

    def metadata(self, rng: np.random.Generator, n: int) -> list[Any] | None:
        return None if rng.random() < 0.5 else [{"n": i} if i % 3 else None for i in rng.integers(0, 99, n).tolist()]

    def put(self, keys: list[Any], vectors: np.ndarray, metadata: list[Any] | None) -> None:
        for i, key in enumerate(keys):
            self.rows.pop(key, None)
            self.rows[key] = (vectors[i], metadata[i] if metadata else None)

    def some(self, rng: np.random.Generator, share: float) -> list[Any]:
        return [key for key in self.rows if rng.random() < share]

    def has_room(self) -> bool:
        return len(self.rows) < MOST_ROWS and self.db.stats().deleted < 2 * MOST_ROWS

    # --- writing -----------------------------------------------------------------------------------------------------

    @rule(n=st.sampled_from([1, 64, 200, 400]), seed=SEEDS)
    def build(self, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        vectors, metadata = self.vectors(rng, n), self.metadata(rng, n)
        if self.rows:
            given = None if self.ids == "row" else [f"new {i}" if self.ids == "str" else 10**6 + i for i in range(n)]
            with pytest.raises(omendb.InvalidInput, match="an empty one"):
                self.db.build(vectors, ids=given)
            return
        if n == 0:
            return
        keys, given = self.fresh(n)
        report = self.db.build(vectors, ids=given, metadata=metadata)
        self.put(keys, vectors, metadata)
        assert (report.rows, report.index) == (n, "graph" if n >= self.threshold else "flat")

    @precondition(has_room)
    @rule(n=st.sampled_from([0, 1, 3, 40, 130, 300]), bulk=st.booleans(), rebuild=RARELY, seed=SEEDS)
    def add(self, n: int, bulk: bool, rebuild: bool, seed: int) -> None:
        rng = np.random.default_rng(seed)
        vectors, metadata = self.vectors(rng, n), self.metadata(rng, n)
        if bulk and n < 100:
            with pytest.raises(omendb.BatchTooSmall):
                self.db.insert_batch(vectors)
            return
        keys, given = self.fresh(n)
        call = self.db.insert_batch if bulk else self.db.add_batch
        options = {} if bulk else {"rebuild_index": rebuild}
        assert call(vectors, ids=given, metadata=metadata, **options).tolist() == keys
        self.put(keys, vectors, metadata)

    @precondition(has_room)
    @rule(share=st.sampled_from([0.02, 0.3, 1.0]), more=st.sampled_from([0, 1, 50]), seed=SEEDS)
    def upsert(self, share: float, more: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        if self.ids == "row":
            if self.used:  # before, any ids are welcome
                with pytest.raises(omendb.InvalidIds, match="none to replace by"):
                    self.db.upsert(self.vectors(rng, 1), ids=[0])
            return
        keys = self.some(rng, share) + self.fresh(more)[0]
        rng.shuffle(keys)
        vectors, metadata = self.vectors(rng, len(keys)), self.metadata(rng, len(keys))
        assert self.db.upsert(vectors, ids=keys, metadata=metadata).tolist() == keys
        self.put(keys, vectors, metadata)

    @rule(share=st.sampled_from([0.01, 0.08, 0.11, 0.11, 0.3, 0.9]), seed=SEEDS)
    def delete(self, share: float, seed: int) -> None:
        gone = self.some(np.random.default_rng(seed), share)
        assert self.db.delete(gone) == len(gone)
        for key in gone:
            del self.rows[key]
        if gone:
            with pytest.raises(omendb.UnknownId):
                self.db.delete([*list(self.rows)[:3], gone[0]])

    @rule()
    def delete_all(self) -> None:
        if len(self.rows) < 100:
            assert self.db.delete(self.db.ids) == len(self.rows)
            self.rows.clear()

    @rule()
    def build_index(self) -> None:
        report = self.db.build_index(recall=0.9)
        graph = len(self.rows) >= self.threshold
        assert (report.rows, report.index) == (len(self.rows), "graph" if graph else "flat")
        stats = self.db.stats()
        assert (stats.deleted, stats.index) == (0, report.index)
        assert stats.graph is None or (stats.graph["rows"], stats.graph["tail"]) == (len(self.rows), 0)

    @rule(verify=st.booleans())
    def save_and_load(self, verify: bool) -> None:
        with tempfile.TemporaryDirectory() as folder:
            first, second = Path(folder) / "a.omen", Path(folder) / "b.omen"
            self.db.save(first)
            loaded = DB.load(first, verify=verify, threads=2)
            loaded.save(second)
            assert first.read_bytes() == second.read_bytes()
        assert loaded.stats().deleted == 0
        loaded._build_threshold = self.threshold
        if not self.durable:
            self.db = loaded

    @rule()
    def compact(self) -> None:
        self.db.compact()
        stats = self.db.stats()
        assert (stats.rows, stats.deleted) == (len(self.rows), 0)

    # --- the folder --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.durable)
    @rule(way=st.sampled_from(WAYS))
    def come_back(self, way: str) -> None:
        """Another handle on what the folder holds: the same database, to the byte."""
        before, old = self.content(self.db), self.folder()
        if way == "copy":
            self.folders += 1
            self.db.copy(self.folder())
        elif way == "kill":  # the files as a killed process leaves them
            self.folders += 1
            shutil.copytree(old, self.folder())
        self.db.close()
        if way == "repair":
            self.folders += 1
            assert DB.repair(old, self.folder()).ok
        self.open()
        assert self.content(self.db) == before
        TALLY[way] += 1

    @precondition(lambda self: self.durable)
    @rule()
    def read_beside(self) -> None:
        with DB.open(self.folder(), "r", threads=1) as reader:
            assert self.content(reader) == self.content(self.db)
            assert reader.verify(full=True).ok

    def content(self, db: DB) -> bytes:
        path = Path(self.home.name) / "content.omen"
        db.save(path, overwrite=True)
        return path.read_bytes()

    # --- reading -----------------------------------------------------------------------------------------------------

    @rule(
        k=st.sampled_from([1, 3, 10, 40, 2_000]),
        m=st.sampled_from([None, 1, 4]),
        beam=st.sampled_from([None, None, 30, 100, 3_000]),
        exact=st.sampled_from([False, False, False, True]),
        share=st.sampled_from([None, None, 0.0, 0.05, 0.5, 0.9, 1.0]),
        by_ids=st.booleans(),
        seed=SEEDS,
    )
    def search(self, k: int, m: int | None, beam: Any, exact: bool, share: Any, by_ids: bool, seed: int) -> None:
        rng = np.random.default_rng(seed)
        queries = self.vectors(rng, 1 if m is None else m)
        allowed, mask = list(self.rows), None
        if share is not None:
            flags = rng.random(len(self.rows)) < share
            allowed = [key for key, flag in zip(self.rows, flags, strict=True) if flag]
            mask = flags
            if by_ids:
                mask = [*allowed, *allowed[:2]]
                rng.shuffle(mask)
        asked = queries[0] if m is None else queries
        found = self.db.search(asked, k, beam=beam, exact=exact, mask=mask, with_metadata=True)
        assert found.method == "exact" or (not exact and self.db.stats().index == "graph")
        assert found.ids.shape == (*asked.shape[:-1], min(k, len(allowed)))
        for i, query in enumerate(queries):
            line = found if m is None else found[i]
            self.judge(query, allowed, line, found.method == "exact")

    def judge(self, query: np.ndarray, allowed: list[Any], found: Any, exact: bool) -> None:
        """The answer to one query."""
        place = {key: i for i, key in enumerate(allowed)}
        rows = np.array([self.rows[key][0] for key in allowed]).reshape(len(allowed), DIM)
        true = distances(self.metric, query, rows)
        order = np.argsort(true, kind="stable")[: len(found)]
        got = [place[key] for key in found.ids.tolist()]  # KeyError: deleted, or not allowed
        assert found.metadata == [self.rows[key][1] for key in found.ids.tolist()]
        assert found.distances.tobytes() == true[got].tobytes()
        if exact:
            assert got == order.tolist()
            return
        ranks = list(zip(true[got].tolist(), got, strict=True))
        assert ranks == sorted(set(ranks))
        late = self.late()
        missed = [i for i in order.tolist() if allowed[i] in late and i not in got and ranks and (true[i], i) < ranks[-1]]
        assert not missed, "rows behind the graph are always found"
        TALLY["graph"] += 1
        TALLY["late"] += bool(late)
        TALLY["wanted"] += len(got)
        TALLY["hits"] += int((true[got] <= true[order[-1:]].sum()).sum())

    def late(self) -> set[Any]:
        """The ids of the graph's tail."""
        now = self.db._now
        assert now.graph is not None
        assert now.ids is not None
        return set(now.ids.take_keys(now.live_rows[now.live_rows >= now.graph.rows]).tolist())

    @rule(seed=SEEDS)
    def get(self, seed: int) -> None:
        for key in self.some(np.random.default_rng(seed), 0.05):
            record, (vector, metadata) = self.db.get(key), self.rows[key]
            assert record.id == key
            assert key in self.db
            assert record.vector.tobytes() == vector.tobytes()
            assert record.metadata == metadata
        unknown = "none" if self.ids == "str" else 10**9
        assert unknown not in self.db
        with pytest.raises((omendb.UnknownId, omendb.InvalidIds)):
            self.db.get(unknown)

    @rule(beam=st.sampled_from([None, 1, 50]), k=st.sampled_from([1, 10]))
    def recall(self, beam: int | None, k: int) -> None:
        found = self.db.recall(k=k, beam=beam, sample=20)
        assert found == 1.0 if self.db.stats().index == "flat" else 0 <= found <= 1

    # --- what always holds -------------------------------------------------------------------------------------------

    @invariant()
    def tells_what_is_there(self) -> None:
        stats = self.db.stats()
        assert len(self.db) == stats.rows == len(self.rows)
        assert self.db.ids.tolist() == list(self.rows)

    @invariant()
    def finds_what_is_there(self) -> None:
        queries = self.vectors(self.rng, 2)
        found = self.db.search(queries, with_metadata=True)
        for query, line in zip(queries, found, strict=True):
            self.judge(query, list(self.rows), line, found.method == "exact")

    @invariant()
    def graph_is_whole(self) -> None:
        """Every node is reached, every live row stands behind a node of its code, and no list leads to a row that left."""
        now = self.db._now
        if now.graph is None:
            return
        graph, points = now.graph, now.points
        assert points is not None
        assert graph.rows <= now.total
        TALLY["inserted"] += graph.rows > self.inside > 0
        self.inside = graph.rows
        heads = np.arange(graph.rows) if graph.heads is None else graph.heads
        nodes = np.flatnonzero(heads == np.arange(graph.rows))
        live = now.live_rows[now.live_rows < graph.rows]
        assert (heads[live] >= 0).all()
        assert np.isin(heads[heads >= 0], nodes).all()
        assert (points.codes[live] == points.codes[heads[live]]).all()
        assert points.wide is None or (points.wide[live] == points.wide[heads[live]]).all()
        lists = graph.neighbours[nodes]
        assert np.isin(lists[lists >= 0], nodes).all()
        assert not (lists == nodes[:, None]).any()
        ordered = np.sort(lists[:, :-1], axis=1)
        assert not ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any()
        reached, front = set(graph.router.tolist()), graph.router
        while len(front):
            near = graph.neighbours[front]
            front = np.array(sorted(set(near[near >= 0].tolist()) - reached), np.int32)
            reached.update(front.tolist())
        assert reached == set(nodes.tolist())


def test_model(monkeypatch):
    modules = {name: sys.modules[f"omendb_kernels.{name}"] for name in ("exact", "graph.insert", "graph.search")}
    monkeypatch.setattr(modules["exact"], "CODED_ROWS", 50)
    monkeypatch.setattr(modules["graph.insert"], "FIRST_CUT", 64)
    monkeypatch.setattr(modules["graph.insert"], "LEAST_BATCH", 64)
    monkeypatch.setattr(modules["graph.search"], "SCAN_PER_PLACE", 1)
    TALLY.update(dict.fromkeys(TALLY, 0))
    examples = settings().max_examples // 2 if NUMBA_BLOCKED else settings().max_examples
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    limits = settings(max_examples=examples, stateful_step_count=30, suppress_health_check=checks, deadline=None)
    run_state_machine_as_test(Model, settings=limits)
    assert TALLY["graph"] > 100, "the model was to search graphs"
    assert TALLY["late"] > 3, "with rows behind them"
    assert TALLY["inserted"] > 1, "and with rows that entered them"
    assert min(TALLY[way] for way in WAYS), "and folders that came back in every way"
    assert TALLY["hits"] >= RECALL * TALLY["wanted"], TALLY
