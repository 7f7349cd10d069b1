"""Calls of the graph's ops for the contract table: leaves, lists of candidates, edges and graphs, friendly and hostile."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
from contract_check import Call
from contract_rows import code_rows

from omendb_kernels.codec import MAX_WIDE
from omendb_kernels.contract import NO_KEY, CodeRows

Generator = np.random.Generator
ALPHAS = ((6, 5), (1, 1), (2, 1))
TILES = (3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 23, 24, 25)  # around multiples of the rows that a register tile holds
BLOCKS = (63, 64, 65, 127, 128, 129)
METRICS_OF = dict.fromkeys(("assign", "pick", "prune", "link", "score", "adopt"), ("l2", "wide")) | {
    "beam": ("l2", "ip", "wide"),
    "reach": ("l2",),
}
HEAVY = ("leaf of 512", "many nodes")  # drawn once for each metric


def node_rows(rng: Generator, case: Any, n: int) -> CodeRows:
    """Rows as a graph knows them: D is a squared length, never negative. "largest": corners, as far apart as can be."""
    rows = code_rows(rng, case, n)
    if case.name != "largest":
        return rows
    share = rng.choice([0.0, 0.5, 0.9, 1.0], (n, 1))
    rows.codes[:, : case.dim][rng.random((n, case.dim)) < share] = 127
    norms = (rows.codes.astype(np.int64) ** 2).sum(axis=1)
    wide = None if rows.wide is None else rng.choice(np.array([0, MAX_WIDE], np.int32), n)
    return CodeRows(rows.codes, (norms + (0 if wide is None else wide * wide)).astype(np.int32), wide)


def distances(a: CodeRows, b: CodeRows) -> np.ndarray:
    """int64 (m, n): D of every pair."""
    dots = a.codes.astype(np.int64) @ b.codes.astype(np.int64).T
    if a.wide is not None and b.wide is not None:
        dots += np.outer(a.wide.astype(np.int64), b.wide)
    return a.norms[:, None].astype(np.int64) + b.norms - 2 * dots


def draw(rng: Generator, n: int, size: int) -> np.ndarray:
    """int32: this many different rows of n (all, if there are fewer), ascending."""
    return np.sort(rng.permutation(n)[:size]).astype(np.int32)


def rows_for(dim: int) -> int:
    """Few rows of many dimensions: the oracle is slow."""
    return 40 if dim <= 33 else 20 if dim <= 300 else 8


# ---- assign --------------------------------------------------------------------------------------------------------


def assign_call(rng: Generator, points: CodeRows, sizes: Iterable[tuple[int, int]], fanout: int) -> Call:
    """Items of so many members and leaders; most leaders are members, as in a partition."""
    members, leaders = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
    for size, count in sizes:
        members.append(draw(rng, len(points.codes), size))
        among = members[-1] if len(members[-1]) >= count else np.arange(len(points.codes), dtype=np.int32)
        leaders.append(among[draw(rng, len(among), count)])
    ends, starts = (np.cumsum(list(map(len, lists))).astype(np.int64) for lists in (members, leaders))
    args = {"points": points, "members": np.concatenate(members), "offsets": ends}
    return Call("assign", args | {"leaders": np.concatenate(leaders), "starts": starts, "fanout": fanout})


def make_assign(rng: Generator, case: Any) -> Call:
    n = {"no rows": 0, "blocks": 140, "many leaders": 270, "many nearest": 90}.get(case.name, rows_for(case.dim))
    few, some = (1, 4), (int(rng.integers(1, n + 1)), int(rng.integers(1, n + 1))) if n else (0, 0)
    sizes: Any = {
        "no rows": [], "no items": [], "one item": [(n, max(1, n // 5))], "one leader": [(n, 1)] * 2, "all lead": [(n, n)],
        "tiny items": [tuple(rng.integers(*few, 2)) for _ in range(30)], "few leaders": [(n, 3), some, (2, 1)],
        "empty items": [(0, 0), (5, 3), (0, 2), (4, 0), some, (0, 0), (3, 2), (2, 0)], "no leaders": [(5, 0)],
        "blocks": [(int(rng.choice(BLOCKS)), int(rng.choice(BLOCKS))) for _ in range(2)], "many nearest": [(4, 80), (3, 20)],
        "many leaders": [(9, int(rng.choice([255, 256, 257])))], "tiles": [tuple(rng.choice(TILES, 2)) for _ in range(4)],
    }.get(case.name, [some, some[::-1], (3, 2)])  # fmt: skip
    usual = int(rng.choice([1, 2, 3, 8, 9, 10]))
    fanout = {"fanout one": 1, "few leaders": 5, "many nearest": int(rng.integers(33, 71))}.get(case.name, usual)
    call = assign_call(rng, node_rows(rng, case, n), sizes, fanout)
    if case.name == "in disorder":
        rng.shuffle(call.args["members"])
    return call


# ---- pick ----------------------------------------------------------------------------------------------------------


def pick_call(points: CodeRows, leaves: Iterable[np.ndarray], k: int, width: int) -> Call:
    found = [np.empty(0, np.int32), *leaves]
    offsets = np.cumsum([len(leaf) for leaf in found]).astype(np.int64)
    return Call("pick", {"points": points, "members": np.concatenate(found), "offsets": offsets, "k": k, "width": width})


def make_pick(rng: Generator, case: Any) -> Call:
    sizes = {"no rows": 0, "leaf of 512": 530, "blocks": 140, "many nearest": 160}
    n = sizes.get(case.name, rows_for(case.dim))
    leaf_sizes: Any = {
        "no rows": [], "no leaves": [], "leaf of 1": [1], "leaf of 2": [2], "empty leaves": [0, n // 2, 0, 0, 3, 0],
        "leaf of 512": [int(rng.choice([511, 512, 513]))], "blocks": [int(rng.choice(BLOCKS))], "one leaf": [n],
        "many nearest": [150],
        "tiles": [int(size) for size in rng.choice(TILES, 4)], "overlap": [n // 2] * 12,
    }.get(case.name, rng.integers(0, n + 1, 5))  # fmt: skip
    usual, many = rng.integers(1, 9), rng.integers(33, 71)
    k = {"k one": 1, "k over": n + 3, "leaf of 2": 3, "small reservoir": 9, "many nearest": many}.get(case.name, usual)
    widths = {"small reservoir": 4, "width one": 1, "width over": 3 * n + 1, "many nearest": 90}
    width = widths.get(case.name, int(rng.integers(1, 40)))
    points = node_rows(rng, case, n)
    return pick_call(points, [draw(rng, n, size) for size in leaf_sizes], int(k), width)


# ---- prune ---------------------------------------------------------------------------------------------------------


def prune_call(rng: Generator, points: CodeRows, sizes: Iterable[int], most: int, degree: int, alpha: tuple[int, int]) -> Call:
    """One line of candidates for each size; `most`: places of a line."""
    n, lines = len(points.codes), []
    for size in sizes:
        own = int(rng.integers(0, n))
        others = np.setdiff1d(draw(rng, n, size + 1), [own])[:size]
        keys = distances(points.take([own]), points.take(others))[0] * 2**32 + others
        lines.append(np.concatenate([np.sort(keys), np.full(most, NO_KEY)])[:most])
    candidates = np.array(lines, np.int64).reshape(len(lines), most)
    return Call("prune", {"points": points, "candidates": candidates, "degree": degree, "alpha": alpha})


def make_prune(rng: Generator, case: Any) -> Call:
    n = {"blocks": 140, "tiles": 40, "most kept": 90}.get(case.name, rows_for(case.dim))
    most = {"no candidates": 0, "one candidate": 1, "blocks": int(rng.choice(BLOCKS)), "tiles": int(rng.choice(TILES)),
            "largest": n - 1, "most kept": int(rng.choice([63, 64]))}.get(case.name, int(rng.integers(1, n)))  # fmt: skip
    if case.name in ("no candidates", "all NO_KEY"):
        sizes = [0] * 4
    elif case.name in ("full", "blocks", "tiles", "largest", "most kept"):
        sizes = [most] * 6
    else:
        sizes = [] if case.name == "no lines" else rng.integers(0, most + 1, 8).tolist()
    alpha = {"alpha 1": (1, 1), "alpha 2": (2, 1), "alpha 6/5": (6, 5)}.get(case.name, ALPHAS[rng.integers(0, 3)])
    if case.name == "largest":  # products past 32 bits
        alpha = ALPHAS[rng.choice([0, 2])]
    degree = {"degree one": 1, "degree over": n + 5, "largest": n, "most kept": 64}.get(case.name, int(rng.integers(1, 12)))
    if case.name.startswith("alpha"):  # equal sides of the rule are common among distances of few small coordinates
        small = np.where(rng.random((n, case.dim)) < min(0.5, 12 / case.dim), rng.integers(-1, 2, (n, case.dim)), 0)
        codes = np.zeros((n, -(-case.dim // 32) * 32), np.int8)
        codes[:, : case.dim] = small
        points = CodeRows(codes, (codes.astype(np.int32) ** 2).sum(axis=1).astype(np.int32))
    else:
        points = node_rows(rng, case, n)
    return prune_call(rng, points, sizes, most, degree, alpha)


# ---- link and score ------------------------------------------------------------------------------------------------


def key_lines(rng: Generator, lines: int, most: int, ids: int, far: int, least: int = 0) -> np.ndarray:
    """int64 (lines, most): ascending keys, none twice, NO_KEY behind; ids and distances below `ids` and `far`."""
    out = np.full((lines, most), NO_KEY, np.int64)
    for line in out:
        size = int(rng.integers(min(least, most), most + 1))
        keys = np.unique(rng.integers(0, far, size) * 2**32 + rng.integers(0, ids, size))
        line[: len(keys)] = keys
    return out


def make_link(rng: Generator, case: Any) -> Call:
    n = 30 if case.name != "hub" else 400
    far = {"ties": 2, "largest": 2**31 - 1}.get(case.name, 1000)
    t = {"no targets": 0, "one target": 1, "all targets": n, "hub": 3}.get(case.name, int(rng.integers(1, n)))
    targets = draw(rng, n, t)
    sources = rng.permutation(n).astype(np.int32)[: 0 if case.name == "no sources" else int(rng.integers(1, n + 1))]
    own = key_lines(rng, t, {"no own": 0}.get(case.name, int(rng.integers(1, 9))), n, far)
    kept = key_lines(rng, len(sources), {"no kept": 0}.get(case.name, int(rng.integers(1, 9))), n, far, least=2)
    if case.name in ("duplicates", "mutual"):  # edges that lead back: the same key from both sides
        own = key_lines(rng, t, 12, n, far)
        for target, line in zip(targets, own, strict=True):
            edges = kept != NO_KEY
            back = [key - (key & 0xFFFFFFFF) + source for source, key in zip(*pairs(sources, kept, edges), strict=True)
                    if key & 0xFFFFFFFF == target]  # fmt: skip
            keys = np.unique(np.array([*back, *line[line != NO_KEY]], np.int64))[: len(line)]
            line[:] = NO_KEY
            line[: len(keys)] = keys
    if case.name == "hub":  # nearly every edge leads to one target
        sources = rng.permutation(n).astype(np.int32)
        kept = np.sort(rng.integers(0, far, n) * 2**32 + rng.choice(targets, n, p=[0.9, 0.05, 0.05]))[rng.permutation(n), None]
    if case.name == "all NO_KEY":
        own[:], kept[:] = NO_KEY, NO_KEY
    if case.name == "largest":  # the largest row numbers, among those that nobody asked for
        kept[kept != NO_KEY] |= np.int64(2**31 - 32) * (rng.random((kept != NO_KEY).sum()) < 0.3)
        kept.sort(axis=1)
        sources = sources + np.int32(2**31 - 1 - n)
    width = {"width one": 1, "width over": 300}.get(case.name, int(rng.integers(1, 20)))
    return Call("link", {"targets": targets, "own": own, "sources": sources, "kept": kept, "width": width})


def pairs(sources: np.ndarray, kept: np.ndarray, edges: np.ndarray) -> tuple[list[int], list[int]]:
    line, place = np.nonzero(edges)
    return sources[line].tolist(), kept[line, place].tolist()


def make_score(rng: Generator, case: Any) -> Call:
    n = rows_for(case.dim)
    r, c = {"no lines": 0}.get(case.name, 6), {"no ids": 0, "one id": 1}.get(case.name, int(rng.integers(1, 25)))
    rows, ids = rng.integers(0, n, r).astype(np.int32), rng.integers(0, n, (r, c)).astype(np.int32)
    if case.name == "repeats":
        ids = ids[:, rng.integers(0, max(1, c // 3), c)]
    if case.name == "itself":
        ids[rng.random(ids.shape) < 0.5] = -2
        ids = np.where(ids == -2, rows[:, None], ids).astype(np.int32)
    if case.name in ("holes", "all holes"):
        ids[rng.random(ids.shape) < (0.5 if case.name == "holes" else 2)] = -1
    width = {"width one": 1, "width over": c + 7}.get(case.name, int(rng.integers(1, 16)))
    return Call("score", {"points": node_rows(rng, case, n), "rows": rows, "ids": ids, "width": width})


# ---- beam ----------------------------------------------------------------------------------------------------------


def beam_call(queries: CodeRows, points: CodeRows, neighbours: np.ndarray, entries: np.ndarray, beam: int, width: int) -> Call:
    args = {"queries": queries, "points": points, "neighbours": neighbours, "entries": entries, "beam": beam, "width": width}
    return Call("beam", args)


def near_lists(rng: Generator, points: CodeRows, degree: int) -> np.ndarray:
    """int32 (n, degree): half of each list the nearest nodes, half any: searches go far and pools overflow."""
    n = len(points.codes)
    lists = rng.integers(0, n, (n, degree)).astype(np.int32)
    for node in range(n):
        order = np.argsort(distances(points.take([node]), points)[0], kind="stable")
        lists[node, : degree // 2] = order[1 : 1 + degree // 2] if n > degree else 0
    return lists


def lists_for(rng: Generator, case: Any, points: CodeRows) -> np.ndarray:
    n, degree = len(points.codes), {"no neighbours": 0, "degree one": 1}.get(case.name, int(rng.integers(2, 9)))
    lists = near_lists(rng, points, degree)
    everyone = np.arange(n, dtype=np.int32)
    if case.name == "chain":
        lists[:, 0], lists[:, 1:] = np.where(everyone + 1 < n, everyone + 1, -1), -1
    if case.name == "self loops":
        lists[rng.random(lists.shape) < 0.5] = -1
        lists = np.where(lists < 0, everyone[:, None], lists).astype(np.int32)
    if case.name == "repeats":
        lists[:, 1::2] = lists[:, : lists.shape[1] // 2 * 2 : 2]
    if case.name == "holes":
        lists[rng.random(lists.shape) < 0.5] = -1
    if case.name == "empty lists":
        lists[rng.random(n) < 0.7] = -1
    if case.name == "unreachable":  # two halves that do not know each other
        lists[lists % 2 != everyone[:, None] % 2] = -1
    return lists


def make_beam(rng: Generator, case: Any) -> Call:
    sizes = {"one node": 1, "no nodes": 0, "many nodes": int(rng.integers(1100, 1400)), "blocks": int(rng.choice(BLOCKS)),
             "beam blocks": 140}  # fmt: skip
    n = sizes.get(case.name, rows_for(case.dim))
    m = {"no queries": 0, "one query": 1, "many nodes": 2, "no nodes": 2, "many queries": 37}.get(case.name, 5)
    beam = {"beam one": 1, "beam over": n + 3, "many nodes": n, "beam blocks": int(rng.choice([64, 65, 128, 129])),
            "chain": n}.get(case.name, int(rng.integers(1, 12)))  # fmt: skip
    width = int(rng.choice([1, 2, 4, 8]))
    points = node_rows(rng, case, n) if case.metric != "ip" else code_rows(rng, case, n)
    queries = node_rows(rng, case, m) if case.metric != "ip" else code_rows(rng, case, m)
    if case.metric == "ip" and case.name == "largest":
        queries.codes[:, : case.dim] = 127
    e = {"no entries": 0, "many entries": 12}.get(case.name, int(rng.integers(1, 3)))
    entries = rng.integers(0, max(1, n), (m, e)).astype(np.int32)
    if case.name == "many entries":
        entries[rng.random(entries.shape) < 0.3] = -1
    if case.name in ("entries none", "no nodes"):
        entries[:] = -1
    if case.name == "chain":
        entries[:] = 0
    lists = lists_for(rng, case, points) if n else np.empty((0, 3), np.int32)
    return beam_call(queries, points, lists, entries, beam, width)


# ---- adopt ---------------------------------------------------------------------------------------------------------


def make_adopt(rng: Generator, case: Any) -> Call:
    """Lists as `adopt` meets them, and others that no pruning made: old neighbours that would strike each other out."""
    n = rows_for(case.dim) if case.name != "many candidates" else 90
    t = {"no rows": 0, "one row": 1, "all rows": n, "many candidates": 4}.get(case.name, int(rng.integers(1, n)))
    degree = {"degree one": 1, "degree over": n + 3, "many candidates": 40}.get(case.name, int(rng.integers(1, 9)))
    points, rows = node_rows(rng, case, n), draw(rng, n, t)
    between = distances(points, points)
    lists = np.full((t, degree), -1, np.int32)
    for row, line in zip(rows, lists, strict=True):
        others = rng.permutation(np.setdiff1d(np.arange(n), [] if case.name == "itself" else [row]))[:degree]
        if case.name != "in disorder":
            others = others[np.lexsort((others, between[row, others]))]
        line[: len(others)] = others
    if case.name in ("holes", "no lists"):
        lists[rng.random(lists.shape) < (0.5 if case.name == "holes" else 2)] = -1
    s = {"no sources": 0, "every source": n, "many candidates": n}.get(case.name, int(rng.integers(1, n + 1)))
    sources = rng.permutation(n).astype(np.int32)[:s]
    kept = np.full((len(sources), degree), NO_KEY, np.int64)
    for source, line in zip(sources, kept, strict=True):
        targets = rng.permutation(np.setdiff1d(np.arange(n), [source]))[: int(rng.integers(0, degree + 1))]
        line[: len(targets)] = np.sort(between[source, targets] * 2**32 + targets)
    width = {"width one": 1, "width over": 3 * n, "many candidates": 64}.get(case.name, int(rng.integers(1, 20)))
    args = {"points": points, "rows": rows, "lists": lists, "sources": sources, "kept": kept, "width": width}
    return Call("adopt", args | {"alpha": ALPHAS[rng.integers(0, 3)]})


# ---- reach ---------------------------------------------------------------------------------------------------------


def make_reach(rng: Generator, case: Any) -> Call:
    """Few edges a node, so that a walk ends before it has seen everything."""
    n = {"one node": 1, "no nodes": 0, "many nodes": int(rng.integers(1000, 1300))}.get(case.name, rows_for(case.dim))
    degree = {"degree one": 1, "no neighbours": 0}.get(case.name, int(rng.integers(1, 5)))
    lists = rng.integers(0, max(1, n), (n, degree)).astype(np.int32)
    lists[rng.random(lists.shape) < (0.9 if case.name == "empty lists" else 0.4)] = -1
    if case.name == "chain" and degree:
        lists[:] = -1
        lists[:, -1] = np.arange(1, n + 1) % n
    start = rng.integers(0, max(1, n), {"no start": 0, "one node": 2}.get(case.name, int(rng.integers(1, 4)) if n else 0))
    reached = rng.random(n) < {"nothing reached": 0.0, "chain": 0.0, "all reached": 1.0}.get(case.name, 0.3)
    return Call("reach", {"neighbours": lists, "start": start.astype(np.int32), "reached": reached})


def shaped(rng: Generator, op: str, n: int, d: int, size: int, metric: str) -> Call:
    """A call of these sizes: size rows in a leaf, candidates in a line, ids to score, or places of a pool."""
    case = SimpleNamespace(name=str(rng.choice(["plain", "ties", "duplicates"])), metric=metric, dim=d)
    points = node_rows(rng, case, n)
    few = int(rng.integers(1, 40))
    if op == "assign":
        return assign_call(rng, points, [(size, min(few, n)), (size // 2, min(n, size)), (3, 0)], few % 12 + 1)
    if op == "pick":
        return pick_call(points, [draw(rng, n, size), draw(rng, n, size // 2)], few, int(rng.integers(1, 70)))
    if op == "prune":
        return prune_call(rng, points, [size, size // 2, 0], size, few, ALPHAS[few % 3])
    if op == "score":
        rows, ids = rng.integers(0, n, 3).astype(np.int32), rng.integers(-1, n, (3, size)).astype(np.int32)
        return Call("score", {"points": points, "rows": rows, "ids": ids, "width": few})
    entries = rng.integers(-1, n, (3, 2)).astype(np.int32)
    lists = near_lists(rng, points, 6)
    return beam_call(node_rows(rng, case, 3), points, lists, entries, max(1, size), int(rng.integers(1, 9)))


MAKERS: dict[str, Callable[[Generator, Any], Call]] = {
    "assign": make_assign,
    "pick": make_pick,
    "prune": make_prune,
    "link": make_link,
    "score": make_score,
    "adopt": make_adopt,
    "beam": make_beam,
    "reach": make_reach,
}
NAMES: dict[str, tuple[str, ...]] = {
    "assign": ("ties", "duplicates", "zeros", "largest", "no rows", "no items", "one item", "tiny items", "empty items",
               "no leaders", "one leader", "few leaders", "all lead", "many leaders", "tiles", "blocks", "in disorder",
               "fanout one", "many nearest"),
    "pick": ("ties", "duplicates", "zeros", "largest", "no rows", "no leaves", "leaf of 1", "leaf of 2", "empty leaves",
             "one leaf", "overlap", "tiles", "blocks", "leaf of 512", "k one", "k over", "small reservoir", "width one",
             "width over", "many nearest"),
    "prune": ("ties", "duplicates", "zeros", "largest", "no lines", "no candidates", "one candidate", "all NO_KEY", "full",
              "tiles", "blocks", "degree one", "degree over", "alpha 1", "alpha 2", "alpha 6/5", "most kept"),
    "link": ("ties", "duplicates", "mutual", "largest", "no targets", "one target", "all targets", "no sources", "no own",
             "no kept", "all NO_KEY", "width one", "width over", "hub"),
    "score": ("ties", "duplicates", "zeros", "largest", "no lines", "no ids", "one id", "repeats", "itself", "holes",
              "all holes", "width one", "width over"),
    "beam": ("ties", "duplicates", "zeros", "largest", "one node", "no nodes", "no queries", "one query", "no entries",
             "entries none", "many entries", "no neighbours", "degree one", "chain", "self loops", "repeats", "holes",
             "empty lists", "unreachable", "many nodes", "many queries", "blocks", "beam blocks", "beam one", "beam over"),
    "adopt": ("ties", "duplicates", "zeros", "largest", "no rows", "one row", "all rows", "no lists", "itself", "in disorder",
              "holes", "no sources", "every source", "degree one", "degree over", "width one", "width over", "many candidates"),
    "reach": ("plain", "one node", "no nodes", "many nodes", "degree one", "no neighbours", "empty lists", "chain", "no start",
              "nothing reached", "all reached"),
}  # fmt: skip
