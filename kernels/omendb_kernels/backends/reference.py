"""The oracle: every op of contract.py in plain NumPy, written from the contract's text alone. Never fast, never shared.

Tests and benches compare with it. It keeps no heap, cuts no tiles and proves nothing: it computes every distance and sorts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Rows
from ..contract import CODE_ALIGN, INT32_MAX, LANES, NO_KEY, CodeRows, Float32s, Float64s, Int8s, Int32s, Int64s

NAME = "reference"
L2, COSINE, IP = 0, 1, 2


def _wide(rows: Rows) -> Float64s:
    if rows.kind == "bfloat16":
        return (rows.data.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return rows.data.astype(np.float64)


def _lane_sum(terms: Float64s) -> Float64s:
    """float64 (n,) of terms (n, d): lane j mod 8 takes term j, in order; then lanes 4, 2 and 1 apart are added."""
    lanes = [np.zeros(len(terms)) for _ in range(LANES)]
    for j in range(terms.shape[1]):
        lanes[j % LANES] = lanes[j % LANES] + terms[:, j]
    fours = [lanes[lane] + lanes[lane + 4] for lane in range(4)]
    return (fours[0] + fours[2]) + (fours[1] + fours[3])


def lengths(rows: Rows, *, threads: int = 1) -> Float64s:
    """See contract.py."""
    wide = _wide(rows)
    return np.sqrt(_lane_sum(wide * wide))


def _rotate(row: Float64s, signs: Int8s) -> Float64s:
    """One row through the butterflies, one pair at a time."""
    out = [float(value) for value in row]
    dim, size = len(out), 1
    while size * 4 <= dim:
        size *= 4
    from_first = [start for start in range(dim) if start % size == 0 and start + size <= dim]
    shift = dim % size if dim % size else size // 2
    to_last = [start for start in range(dim) if start % size == shift and start + size <= dim]
    for sign, starts in zip(signs, (from_first, to_last), strict=True):
        out = [value * float(flip) for value, flip in zip(out, sign, strict=True)]
        for start in starts:
            step = 1
            while step < size:
                for low in range(start, start + size):
                    if not (low - start) & step:
                        a, b = out[low], out[low + step]
                        out[low], out[low + step] = a + b, a - b
                step *= 2
            for place in range(start, start + size):
                out[place] /= size**0.5
    return np.array(out)


def encode(
    rows: Rows, lengths: Float64s | None, offset: Float32s, signs: Int8s | None, scales: Float64s, *, threads: int = 1
) -> tuple[Int8s, Int32s, Float64s]:
    """See contract.py."""
    wide = _wide(rows)
    n, dim = wide.shape
    codes = np.zeros((n, (dim + CODE_ALIGN - 1) // CODE_ALIGN * CODE_ALIGN), np.int8)
    errors = np.empty((n, dim))
    for i in range(n):
        y = wide[i] / lengths[i] if lengths is not None else wide[i]
        y = y - offset.astype(np.float64)
        if signs is not None:
            y = _rotate(y, signs)
        scale = scales[i] if len(scales) > 1 else scales[0]
        code = np.minimum(np.maximum(np.rint(y / scale), -128.0), 127.0)
        codes[i, :dim] = code.astype(np.int8)
        errors[i] = y - scale * code
    norms = (codes.astype(np.int64) ** 2).sum(axis=1)
    return codes, norms.astype(np.int32), _lane_sum(errors * errors)


def _code_distance(a: CodeRows, i: int, b: CodeRows, j: int) -> int:
    """D of row i of a and row j of b, in Python integers."""
    dot = int(np.dot(a.codes[i].astype(np.int64), b.codes[j].astype(np.int64)))
    if a.wide is not None and b.wide is not None:
        dot += int(a.wide[i]) * int(b.wide[j])
    return int(a.norms[i]) + int(b.norms[j]) - 2 * dot


def nearest(queries: CodeRows, points: CodeRows, k: int, mask: NDArray[np.bool_] | None, *, threads: int = 1) -> Int64s:
    """See contract.py."""
    out = np.full((len(queries.codes), k), NO_KEY, np.int64)
    for q in range(len(queries.codes)):
        allowed = [i for i in range(len(points.codes)) if mask is None or mask[i]]
        scored = [(_code_distance(queries, q, points, i), i) for i in allowed]
        for place, (score, i) in enumerate(sorted(scored)[:k]):
            assert abs(score) <= INT32_MAX
            out[q, place] = score * 2**32 + i
    return out


def _distances(query: Float64s, points: Float64s, metric: int) -> Float32s:
    """float32 (n,): the final distances of one query."""
    if metric == L2:
        gaps = query - points
        return _lane_sum(gaps * gaps).astype(np.float32)
    dots = _lane_sum(query * points)
    if metric == IP:
        return (0.0 - dots).astype(np.float32) + np.float32(0)  # a dot that rounds to 0 gives +0.0, equal to any other
    query_length = np.sqrt(_lane_sum((query * query)[None]))
    point_lengths = np.sqrt(_lane_sum(points * points))
    found: Float32s = np.maximum(0.0, 1.0 - dots / (query_length * point_lengths)).astype(np.float32)
    return found


def rerank(
    queries: Rows,
    points: Rows,
    candidates: Int32s,
    k: int,
    metric: int,
    *,
    lengths: Float64s | None = None,
    lower: Float64s | None = None,
    threads: int = 1,
) -> tuple[Float32s, Int64s]:
    """See contract.py."""
    distances = np.full((len(queries), k), np.inf, np.float32)
    ids = np.full((len(queries), k), -1, np.int64)
    for q, query in enumerate(_wide(queries)):
        rows = [int(row) for row in candidates[q] if row >= 0]
        found = _distances(query, _wide(points[np.array(rows, np.int64)]), metric)
        for place, (distance, row) in enumerate(sorted(zip(found.tolist(), rows, strict=True))[:k]):
            distances[q, place], ids[q, place] = distance, row
    return distances, ids


def pairwise(queries: Rows, points: Rows, metric: int, precision: str, *, threads: int = 1) -> NDArray[Any]:
    """See contract.py."""
    wide = _wide(points)
    out = np.empty((len(queries), len(points)), np.float32)
    for q, query in enumerate(_wide(queries)):
        out[q] = _distances(query, wide, metric)
    return out


def knn(queries: Rows, points: Rows, k: int, metric: int, mask: NDArray[np.bool_] | None = None) -> tuple[Float32s, Int64s]:
    """What certified search must return: every distance, sorted by (distance, id), padded with (inf, -1)."""
    allowed = np.arange(len(points)) if mask is None else np.flatnonzero(mask)
    candidates = np.broadcast_to(allowed.astype(np.int32), (len(queries), len(allowed)))
    return rerank(queries, points, candidates, k, metric)


# ---- the graph ---------------------------------------------------------------------------------------------------------


def _lines(lines: list[list[int]], width: int) -> Int64s:
    """Keys of each line, the smallest `width` different ones, padded with NO_KEY."""
    out = np.full((len(lines), width), NO_KEY, np.int64)
    for i, line in enumerate(lines):
        chosen = sorted(set(line))[:width]
        out[i, : len(chosen)] = chosen
    return out


def _edges(keys: Int64s) -> list[tuple[int, int]]:
    """(distance, id) of a line of keys."""
    return [(int(key) >> 32, int(key) & 0xFFFFFFFF) for key in keys if key != NO_KEY]


def assign(
    points: CodeRows, members: Int32s, offsets: Int64s, leaders: Int32s, starts: Int64s, fanout: int, *, threads: int = 1
) -> Int32s:
    """See contract.py."""
    out = np.full((len(members), fanout), -1, np.int32)
    for item in range(len(offsets) - 1):
        own = leaders[int(starts[item]) : int(starts[item + 1])].tolist()
        for place in range(int(offsets[item]), int(offsets[item + 1])):
            near = sorted((_code_distance(points, int(members[place]), points, leader), leader) for leader in own)[:fanout]
            out[place, : len(near)] = [own.index(leader) for _, leader in near]
    return out


def pick(points: CodeRows, members: Int32s, offsets: Int64s, k: int, width: int, *, threads: int = 1) -> Int64s:
    """See contract.py."""
    proposed: list[list[int]] = [[] for _ in range(len(points.codes))]
    for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        leaf = [int(row) for row in members[start:stop]]
        for row in leaf:
            others = sorted((_code_distance(points, row, points, other), other) for other in leaf if other != row)
            for distance, other in others[:k]:
                proposed[row].append(distance * 2**32 + other)
                proposed[other].append(distance * 2**32 + row)
    return _lines(proposed, width)


def prune(points: CodeRows, candidates: Int64s, degree: int, alpha: tuple[int, int], *, threads: int = 1) -> Int64s:
    """See contract.py."""
    out: list[list[int]] = []
    for line in candidates:
        kept: list[tuple[int, int]] = []
        for distance, row in _edges(line):
            close = any(alpha[0] * _code_distance(points, y, points, row) <= alpha[1] * distance for _, y in kept)
            if len(kept) < degree and not close:
                kept.append((distance, row))
        out.append([distance * 2**32 + row for distance, row in kept])
    return _lines(out, degree)


def link(targets: Int32s, own: Int64s, sources: Int32s, kept: Int64s, width: int, *, threads: int = 1) -> Int64s:
    """See contract.py."""
    candidates: dict[int, list[int]] = {}
    for target, line in zip(targets.tolist(), own, strict=True):
        candidates[target] = [distance * 2**32 + row for distance, row in _edges(line)]
    for source, line in zip(sources.tolist(), kept, strict=True):
        for distance, target in _edges(line):
            if target in candidates:
                candidates[target].append(distance * 2**32 + source)
    return _lines([candidates[int(target)] for target in targets], width)


def score(points: CodeRows, rows: Int32s, ids: Int32s, width: int, *, threads: int = 1) -> Int64s:
    """See contract.py."""
    lines = []
    for row, line in zip(rows.tolist(), ids.tolist(), strict=True):
        others = [other for other in line if other >= 0 and other != row]
        lines.append([_code_distance(points, row, points, other) * 2**32 + other for other in others])
    return _lines(lines, width)


def adopt(
    points: CodeRows, rows: Int32s, lists: Int32s, sources: Int32s, kept: Int64s, width: int, alpha: tuple[int, int], *,
    threads: int = 1,
) -> Int32s:  # fmt: skip
    """See contract.py."""
    own = score(points, rows, lists, max(1, lists.shape[1]))
    candidates = link(rows, own, sources, kept, width)
    out = np.full(lists.shape, -1, np.int32)
    for i, line in enumerate(candidates):
        old = {row for _, row in _edges(own[i])}
        chosen: list[int] = []
        for distance, row in _edges(line):
            strikers = [y for y in chosen if not (y in old and row in old)]
            close = any(alpha[0] * _code_distance(points, y, points, row) <= alpha[1] * distance for y in strikers)
            if len(chosen) < lists.shape[1] and not close:
                chosen.append(row)
        out[i, : len(chosen)] = chosen
    return out


def beam(
    queries: CodeRows, points: CodeRows, neighbours: Int32s, entries: Int32s, beam: int, width: int, *, threads: int = 1
) -> Int64s:
    """See contract.py."""
    pools = []
    for q in range(len(queries.codes)):
        scored: dict[int, int] = {}
        pool: list[tuple[int, int]] = []
        expanded: set[int] = set()
        fresh = [int(node) for node in entries[q]]
        while True:
            for node in fresh:
                if node >= 0 and node not in scored:
                    scored[node] = _code_distance(queries, q, points, node)
                    pool.append((scored[node], node))
            pool = sorted(pool)[:beam]
            chosen = [node for _, node in pool if node not in expanded][:width]
            if not chosen:
                break
            expanded.update(chosen)
            fresh = [int(other) for node in chosen for other in neighbours[node]]
        pools.append([distance * 2**32 + node for distance, node in pool])
    return _lines(pools, beam)


def reach(neighbours: Int32s, start: Int32s, reached: NDArray[np.bool_], *, threads: int = 1) -> NDArray[np.bool_]:
    """See contract.py."""
    found = set(np.flatnonzero(reached).tolist())
    waiting = start.tolist()
    found.update(waiting)
    while waiting:
        near = {int(other) for other in neighbours[waiting.pop()] if other >= 0} - found
        found |= near
        waiting.extend(near)
    return np.isin(np.arange(len(reached)), list(found))
