"""Files with a graph: the same bytes whatever made them, opened and changed again, and made by an enemy."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_damage import BACKENDS, use
from test_graph_db import DIM, METRICS, clustered
from test_hostile import MARK, RAW, at, compact, facts_of, places, rewritten, use_cheaply, with_facts
from test_snapshot import GOLDEN, saved

import omendb
from omendb import DB
from omendb.snapshot import Snapshot
from omendb_kernels import use_backend

each_metric = pytest.mark.parametrize("metric", METRICS)
N = 5000


def with_twins(rng: np.random.Generator, n: int) -> np.ndarray:
    rows = rng.normal(size=(n, DIM)).astype(np.float32)
    rows[rng.integers(0, n, n // 10)] = rows[0]
    return rows


def grown(rows: np.ndarray, metric: str, threads: int = 2, cuts: tuple[int, ...] = ()) -> DB:
    """A graph of 4,500 rows, the others entering it or behind it."""
    db = DB(metric=metric, build_threshold=1000, threads=threads)
    db.build(rows[:4500])
    for piece in np.split(rows, [4500, *cuts])[1:]:
        db.add_batch(piece)
    return db


# --- the same bytes ---------------------------------------------------------------------------------------------------


@each_metric
@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_threads_and_backends_change_no_byte(rng, tmp_path, metric, kind):
    rows = with_twins(rng, N) if kind == "float32" else (40 * with_twins(rng, N) + 128).clip(1, 255).astype(np.uint8)
    gone = rng.permutation(N)[: N // 4]
    files = {}
    for backend in BACKENDS:
        for threads in (1, 2, 3) if backend == BACKENDS[0] else (2,):
            with use_backend(backend):
                db = grown(rows, metric, threads)
                first = saved(db, tmp_path / "a.omen")
                db.delete(gone)
                files[backend, threads] = first, saved(db, tmp_path / "a.omen")
    assert len(set(files.values())) == 1
    assert {db.stats().index, DB.load(tmp_path / "a.omen").stats().index} == {"graph"}


@each_metric
def test_calls_change_no_byte(rng, tmp_path, metric):
    rows = with_twins(rng, N)
    whole = saved(grown(rows, metric), tmp_path / "a.omen")
    graph = DB.load(tmp_path / "a.omen").stats().graph
    assert graph is not None
    assert 4500 < graph["rows"] < N
    cut = graph["rows"]
    for cuts in ((cut,), (cut - 1, cut + 1), (4501, 4502, N - 1), tuple(np.unique(rng.integers(4500, N, 30)).tolist())):
        assert saved(grown(rows, metric, cuts=cuts), tmp_path / "b.omen") == whole
    again = DB(metric=metric, build_threshold=1000)
    again.add_batch(rows[:3000])
    again.add_batch(rows[3000:4500], rebuild_index=True)
    again.add_batch(rows[4500:])
    assert saved(again, tmp_path / "b.omen") == whole
    assert saved(DB.load(tmp_path / "a.omen"), tmp_path / "b.omen") == whole


# --- opened and changed again -----------------------------------------------------------------------------------------


@each_metric
@pytest.mark.parametrize("ids", ["row", "str"])
def test_a_loaded_graph_goes_on(rng, tmp_path, metric, ids):
    rows, queries = with_twins(rng, N), clustered(rng, 50)
    names = [f"{i}" for i in range(N)] if ids == "str" else None
    db = DB(metric=metric, build_threshold=1000)
    db.build(rows[:4000], ids=names and names[:4000])
    db.add_batch(rows[4000:4100], ids=names and names[4000:4100])
    db.save(tmp_path / "a.omen")
    loaded = DB.load(tmp_path / "a.omen")
    graph = loaded._now.graph
    assert graph is not None
    assert graph.heads is not None
    for array in (graph.neighbours, graph.router, graph.heads):
        assert not array.flags.writeable
        assert not array.flags.owndata
    assert loaded.stats().graph == db.stats().graph
    stats = loaded.stats().graph
    assert stats is not None
    assert stats["rows"] + stats["tail"] == 4100
    assert {"beam", "recall", "settings"} <= set(stats)
    gone = rng.permutation(4000)[:900]
    for one in (db, loaded):
        assert one.add_batch(rows[4100:], ids=names and names[4100:]).tolist() == (names or list(range(N)))[4100:]
        one.delete([names[i] for i in gone] if names else gone)
        if names:
            one.upsert(rows[:300] + 1, ids=[names[i] for i in gone[:300]])
        assert one.stats().index == "graph"
    mine, theirs = (one.search(queries, k=20) for one in (db, loaded))
    assert mine.ids.tolist() == theirs.ids.tolist()
    assert mine.distances.tobytes() == theirs.distances.tobytes()
    assert saved(db, tmp_path / "b.omen") == saved(loaded, tmp_path / "c.omen")
    assert (tmp_path / "a.omen").read_bytes() != (tmp_path / "b.omen").read_bytes()
    assert DB.load(tmp_path / "a.omen").ids.tolist() == (names or list(range(N)))[:4100]  # the old file is as it was


@each_metric
def test_the_arrays_are_what_the_format_says(rng, tmp_path, metric):
    rows = with_twins(rng, N)
    rows[4600:4700] = rows[:100]  # twins of nodes, from the tail
    db = grown(rows, metric)
    before = db._now.graph
    assert before is not None
    assert before.heads is not None
    assert (before.heads[4600:4700] < 4500).mean() > 0.9
    db.delete(rng.permutation(N)[: N // 3])
    db.save(tmp_path / "a.omen")
    file = Snapshot.open(tmp_path / "a.omen")
    neighbours, router, heads = (file.arrays[f"graph.{name}"] for name in ("neighbours", "router", "heads"))
    codes = file.arrays["points.codes"].astype(np.int64)
    wide = file.arrays["points.wide"].astype(np.int64) if metric == "ip" else np.zeros(len(codes), np.int64)
    g = len(neighbours)
    nodes = np.flatnonzero(heads == np.arange(g))
    assert g <= file.facts["rows"]
    assert len(nodes) < g
    assert neighbours.shape == (g, file.facts["graph"]["settings"]["degree"] + 1)
    assert (heads <= np.arange(g)).all()
    assert (heads[heads] == heads).all()
    assert (codes[heads] == codes[:g]).all()
    assert (wide[heads] == wide[:g]).all()
    assert (np.diff(router) > 0).all()
    assert np.isin(router, nodes).all()
    assert (neighbours[heads != np.arange(g)] == -1).all()
    assert np.isin(neighbours[neighbours >= 0], nodes).all()
    for node in nodes[::20]:
        near = neighbours[node, :-1]
        near = near[: int((near >= 0).sum())]
        assert (neighbours[node, len(near) : -1] == -1).all()
        apart = ((codes[near] - codes[node]) ** 2).sum(axis=1) + (wide[near] - wide[node]) ** 2
        assert (np.diff(apart) >= 0).all()
    reached = np.zeros(g, bool)
    front = router
    while len(front):
        reached[front] = True
        near = neighbours[front]
        front = np.unique(near[near >= 0])
        front = front[~reached[front]]
    assert (np.flatnonzero(reached) == nodes).all()


def test_a_file_of_the_time_before_graphs_opens():
    db = DB.load(GOLDEN)
    assert (db.stats().index, db.stats().graph) == ("flat", None)
    assert db.search(np.ones(db.dim or 1), k=3).method == "exact"


def test_unknown_facts_of_a_graph_are_passed_over(rng, tmp_path):
    path = tmp_path / "a.omen"
    DB.build_from_numpy(clustered(rng, 400), build_threshold=300).save(path)

    def add(facts: Any, arrays: Any) -> None:
        facts["graph"]["later"] = [1]
        arrays["graph.later"] = np.ones(3, np.int32)

    rewritten(path, path.read_bytes(), add)
    assert DB.load(path).stats().index == "graph"


# --- made by an enemy -------------------------------------------------------------------------------------------------

ROWS = 400


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graph") / "a.omen"


@pytest.fixture(scope="module")
def honest(path: Path) -> bytes:
    """400 rows, half of them twins, and 20 more in the tail."""
    rows = clustered(np.random.default_rng(1), ROWS + 20)
    rows[100:300] = rows[:200:1][np.arange(200) % 7]
    db = DB.build_from_numpy(rows[:ROWS], ids=range(ROWS), build_threshold=300)
    db.add_batch(rows[ROWS:], ids=range(ROWS, ROWS + 20))
    db.save(path, overwrite=True)
    return path.read_bytes()


def use_graph(path: Path, backend: str = BACKENDS[-1]) -> None:
    """Everything that reads or changes a graph; OmenError is fine, and so are wrong rows, but no row that is not there."""
    use(path, verify=True, backend=backend)
    try:
        db = DB.load(path, threads=1)
    except omendb.CorruptFile:
        return
    rows = clustered(np.random.default_rng(2), 900)
    uses: list[Callable[[], Any]] = [
        lambda: [db.search(rows[:3], k=k, beam=beam) for k in (1, 10, 500) for beam in (None, 1, 5000)],
        lambda: db.search(rows[:3], mask=np.arange(len(db)) % 3 > 0),
        lambda: db.add_batch(rows, ids=range(5000, 5900)),  # they enter the graph
        lambda: db.search(rows[:5], k=20),
        lambda: db.delete(db.ids[::2]),
        lambda: db.search(rows[:5], k=20),
        lambda: db.save(path.with_name("b.omen"), overwrite=True),
        lambda: DB.load(path.with_name("b.omen")).search(rows[:5]),
        lambda: db.upsert(rows[:50], ids=range(50)),
    ]
    with use_backend(backend):
        for act in uses:
            with suppress(omendb.OmenError):
                act()
    assert len(set(db.ids.tolist())) == len(db)
    assert db.build_index().rows == len(db)
    assert checked_exact(db, rows[:3])


def checked_exact(db: DB, queries: np.ndarray) -> bool:
    found = db.search(queries, k=5)
    return bool(found.method == "exact" and np.isin(found.ids, db.ids).all())


def test_the_honest_file(path, honest):
    path.write_bytes(honest)
    db = DB.load(path)
    graph = db.stats().graph
    assert graph is not None
    assert (graph["rows"], graph["tail"]) == (ROWS, 20)
    use_graph(path)


def graph_lie(name: str, change: Callable[[np.ndarray], np.ndarray | None]) -> Callable[[Any, Any], None]:
    def lie(_: Any, arrays: Any) -> None:
        array = arrays[f"graph.{name}"]
        changed = change(array)
        arrays[f"graph.{name}"] = array if changed is None else changed

    return lie


REFUSED = {
    "a neighbour out of range": graph_lie("neighbours", lambda a: a.__setitem__((5, 3), ROWS)),
    "a neighbour far out of range": graph_lie("neighbours", lambda a: a.__setitem__((5, 31), 2**31 - 1)),
    "a neighbour below none": graph_lie("neighbours", lambda a: a.__setitem__((0, 0), -2)),
    "a list too narrow": graph_lie("neighbours", lambda a: a[:, 1:].copy()),
    "lists of more rows than there are": graph_lie("neighbours", lambda a: np.tile(a, (2, 1))),
    "lists of no row": graph_lie("neighbours", lambda a: a[:0]),
    "lists of another dtype": graph_lie("neighbours", lambda a: a.view(np.uint32)),
    "lists of one axis": graph_lie("neighbours", lambda a: a.reshape(-1)),
    "a router that is empty": graph_lie("router", lambda a: a[:0]),
    "a router of none": graph_lie("router", lambda a: a.__setitem__(0, -1)),
    "a router out of range": graph_lie("router", lambda a: a.__setitem__(-1, ROWS)),
    "a router of more nodes than there are": graph_lie("router", lambda a: np.zeros(ROWS + 1, np.int32)),
    "a router of two axes": graph_lie("router", lambda a: a[None]),
    "a head out of range": graph_lie("heads", lambda a: a.__setitem__(9, ROWS)),
    "a head below none": graph_lie("heads", lambda a: a.__setitem__(9, -2)),
    "fewer heads": graph_lie("heads", lambda a: a[1:]),
    "no router": lambda _, arrays: arrays.pop("graph.router"),
    "no lists": lambda _, arrays: arrays.pop("graph.neighbours"),
    "no beam": lambda facts, _: facts["graph"].pop("beam"),
    "a beam of 0": lambda facts, _: facts["graph"].update(beam=0),
    "a beam beyond all": lambda facts, _: facts["graph"].update(beam=2**16 + 1),
    "a beam that is true": lambda facts, _: facts["graph"].update(beam=True),
    "a recall that is text": lambda facts, _: facts["graph"].update(recall="0.9"),
    "a recall above 1": lambda facts, _: facts["graph"].update(recall=1.1),
    "no codes": lambda facts, _: facts["points"].pop("codec"),
    "a graph of nothing": lambda facts, _: facts.update(graph=None),
    "settings of nothing": lambda facts, _: facts["graph"].update(settings={}),
    "a setting more": lambda facts, _: facts["graph"]["settings"].update(depth=1),
    "a degree that the lists deny": lambda facts, _: facts["graph"]["settings"].update(degree=30),
}


@pytest.mark.parametrize("lie", REFUSED)
def test_graphs_that_cannot_be(path, honest, lie):
    rewritten(path, honest, REFUSED[lie])
    with pytest.raises(omendb.CorruptFile):
        DB.load(path)


LIES = {
    "lists of none": graph_lie("neighbours", lambda a: a.fill(-1)),
    "lists of one row": graph_lie("neighbours", lambda a: a.fill(7)),
    "lists of the row itself": graph_lie("neighbours", lambda a: np.tile(np.arange(ROWS, dtype=np.int32)[:, None], (1, 32))),
    "lists by chance": graph_lie("neighbours", lambda a: np.random.default_rng(0).integers(-1, ROWS, a.shape).astype(np.int32)),
    "a router of one row many times": graph_lie("router", lambda a: a.fill(150)),
    "a router of rows that are no nodes": graph_lie("router", lambda a: np.arange(100, 300, dtype=np.int32)),
    "heads of none": graph_lie("heads", lambda a: a.fill(-1)),
    "heads that left": graph_lie("heads", lambda a: a.__setitem__(slice(0, 399), -1)),
    "heads in a circle": graph_lie("heads", lambda a: np.roll(np.arange(ROWS, dtype=np.int32), 1)),
    "heads in pairs": graph_lie("heads", lambda a: np.arange(ROWS, dtype=np.int32) ^ 1),
    "heads in a chain": graph_lie("heads", lambda a: np.maximum(np.arange(ROWS, dtype=np.int32) - 1, 0)),
    "one head for all": graph_lie("heads", lambda a: a.fill(399)),
    "no heads": lambda _, arrays: arrays.pop("graph.heads"),
    "the widest beam": lambda facts, _: facts["graph"].update(beam=2**16),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lie", LIES)
def test_graphs_that_lie(path, honest, lie, backend):
    rewritten(path, honest, LIES[lie])
    use_graph(path, backend)


NO_SETTINGS = [0, -1, 2**20, 2**62, True, 1.0, None, "x", {}, [], [1], [1, 1, 1], [1, 2**20], [[1], 1], [True, 1]]


def settings_lie(path: Path, honest: bytes, lies: dict[str, Any]) -> None:
    facts = facts_of(honest)
    facts["graph"]["settings"] |= lies
    path.write_bytes(with_facts(honest, compact(facts)))


def test_settings_that_cannot_be(path, honest):
    for name, usual in facts_of(honest)["graph"]["settings"].items():
        for value in [*NO_SETTINGS, [1, 1] if isinstance(usual, int) else 1, *([1] if name == "leaf" else [])]:
            settings_lie(path, honest, {name: value})
            with pytest.raises(omendb.CorruptFile):
                DB.load(path)


def times(factor: float, settings: dict[str, Any]) -> dict[str, Any]:
    def one(value: int) -> int:
        return max(1, int(factor * value))

    return {
        name: [one(part) for part in value] if isinstance(value, list) else one(value)
        for name, value in settings.items()
        if name != "degree"
    }


@pytest.mark.parametrize("lie", ["least", "most", "small leaves", "alpha", "insert_beam", "reservoir", "width"])
def test_no_setting_asks_for_more_than_the_file_accounts_for(path, honest, lie):
    usual = facts_of(honest)["graph"]["settings"]
    lies = times(0, usual) | {"leaf": 2} if lie in ("least", "small leaves") else times(4, usual)
    if lie == "small leaves":  # and equal rows apart, which no distance can part
        rewritten(path, honest, LIES["no heads"])
        honest = path.read_bytes()
    settings_lie(path, honest, {lie: lies[lie]} if lie in lies else lies)
    tracemalloc.start()
    try:
        use_graph(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 256 << 20
    db = DB.load(path)
    db.delete(db.ids[50:])
    assert len(db.search(np.ones(DIM), k=100)) == 50


@pytest.mark.parametrize("backend", BACKENDS)
def test_node_numbers_by_chance(rng, path, honest, backend):
    def scramble(_: Any, arrays: Any) -> None:
        for name in ("neighbours", "router", "heads"):
            array = arrays[f"graph.{name}"]
            where = rng.random(array.shape) < rng.choice([0.0, 0.05, 1.0])
            array[where] = rng.integers(0 if name == "router" else -1, ROWS, int(where.sum()))

    for _ in range(10):
        rewritten(path, honest, scramble)
        use_graph(path, backend)


def test_every_fact_of_a_graph_takes_every_value(path, honest):
    for *way, last in places(facts_of(honest)["graph"]):
        if way == ["settings"] or len(way) > 1:
            continue
        for raw in RAW:
            facts = facts_of(honest)
            at(facts["graph"], tuple(way))[last] = MARK
            use_cheaply(path, with_facts(honest, compact(facts).replace(f'"{MARK}"', raw)))
