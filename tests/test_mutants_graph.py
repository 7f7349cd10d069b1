"""The contract table of the graph's ops is itself tested: ops that are wrong in one small way must not pass it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import contract_graph
import numpy as np
import pytest
from contract_cases import TABLE
from contract_check import Mismatch, check, mutant
from contract_graph import distances

from omendb_kernels.backends import reference
from omendb_kernels.contract import NO_KEY

Op = Callable[..., Any]
Pairs = list[tuple[int, int]]  # (distance, id)


def first_caught(backend: Any, op: str, seed: int) -> str | None:
    """What the table says of this backend; None when it finds nothing."""
    for place, case in enumerate(sorted(TABLE, key=lambda case: case.name == "plain")):
        if case.op == op and (case.dim <= 300 or case.name == "largest"):
            try:
                check(backend, case.make(np.random.default_rng([seed, place])), case, threads=(1,))
            except Mismatch as mismatch:
                return str(mismatch)
    return None


def unpacked(line: np.ndarray) -> Pairs:
    return [(int(key) >> 32, int(key) & 0xFFFFFFFF) for key in line if key != NO_KEY]


def packed(lines: list[Pairs], width: int, *, order: Any = None, once: bool = True) -> np.ndarray:
    """int64 (lines, width). order: of the pairs; once: repeats are dropped."""
    out = np.full((len(lines), width), NO_KEY, np.int64)
    for line, pairs in zip(out, lines, strict=True):
        chosen = sorted(set(pairs) if once else pairs, key=order)[:width]
        line[: len(chosen)] = [distance * 2**32 + row for distance, row in chosen]
    return out


def larger_id_first(pair: tuple[int, int]) -> tuple[int, int]:
    return pair[0], -pair[1]


# ---- assign --------------------------------------------------------------------------------------------------------


def assigning(
    *, leaders_of: int = 0, last: int | None = None, less: int = 0, as_rows: bool = False, itself: bool = True,
    wide: bool = True, by_place: bool = False, order: Any = None,
) -> Op:  # fmt: skip
    """assign; without arguments as the contract wants it. leaders_of: so many items further on."""

    def assign(points, members, offsets, leaders, starts, fanout, *, threads):
        points, out = points if wide else points._replace(wide=None), np.full((len(members), fanout), -1, np.int32)
        items = range(len(offsets) - 1)
        for item in items:
            lead = (item + leaders_of) % len(items)
            own = leaders[starts[lead] : starts[lead + 1]][:last]
            for m in range(offsets[item], offsets[item + 1]):
                far = distances(points.take([members[m]]), points.take(own))[0].tolist()
                near = [(d, place) for place, d in enumerate(far) if itself or own[place] != members[m]]
                found = [place for _, place in sorted(near, key=order)[: fanout - less]]
                found = sorted(found) if by_place else found
                out[m, : len(found)] = own[found] if as_rows else found
        return out

    return assign


# ---- pick ----------------------------------------------------------------------------------------------------------


def picking(
    *, both: bool = True, once: bool = True, itself: bool = False, leaves: slice = slice(None), less: int = 0,
    order: Any = None, cut_order: Any = None, cut_first: bool = False,
) -> Op:  # fmt: skip
    """pick; without arguments as the contract wants it."""

    def pick(points, members, offsets, k, width, *, threads):
        proposed: list[Pairs] = [[] for _ in points.codes]
        bounds = list(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True))[leaves]
        for start, stop in bounds:
            leaf = members[start:stop]
            matrix = distances(points.take(leaf), points.take(leaf)).tolist()
            for row, line in zip(leaf.tolist(), matrix, strict=True):
                near = [(d, other) for d, other in zip(line, leaf.tolist(), strict=True) if itself or other != row]
                for d, other in sorted(near, key=order)[: k - less]:
                    proposed[row].append((d, other))
                    if both:
                        proposed[other].append((d, row))
        if cut_first:  # before repeats are dropped
            proposed = [sorted(pairs)[:width] for pairs in proposed]
        return packed(proposed, width, order=cut_order, once=once)

    return pick


# ---- prune ---------------------------------------------------------------------------------------------------------


def pruning(
    *, strict: bool = False, swapped: bool = False, by_id: bool = False, cut: bool = False, bits: int = 64,
    struck_strike: bool = False, first: int = 0, wide: bool = True,
) -> Op:  # fmt: skip
    """prune; without arguments as the contract wants it."""

    def prune(points, candidates, degree, alpha, *, threads):
        low, high = alpha[::-1] if swapped else alpha
        points = points if wide else points._replace(wide=None)
        out: list[Pairs] = []
        for line in candidates:
            found = unpacked(line)
            found = sorted(found, key=lambda pair: pair[1]) if by_id else found
            found = found[:degree] if cut else found
            ids = np.array([row for _, row in found], np.int64)
            among = distances(points.take(ids), points.take(ids)).tolist()
            kept: list[int] = []
            strikers: list[int] = []
            for place, (d, _) in enumerate(found):
                sides = [(wrapped(low * among[y][place], bits), wrapped(high * d, bits)) for y in strikers[first:]]
                close = any(left < right if strict else left <= right for left, right in sides)
                if not close and len(kept) < degree:
                    kept.append(place)
                if not close or struck_strike:
                    strikers.append(place)
            out.append([found[place] for place in kept])
        return packed(out, degree)

    return prune


def wrapped(value: int, bits: int) -> int:
    return (value + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)


# ---- link and score ------------------------------------------------------------------------------------------------


def linking(
    *, back: bool = True, mine: bool = True, once: bool = True, any_target: bool = False, sources_from: slice = slice(None),
    order: Any = None, cut_first: bool = False,
) -> Op:  # fmt: skip
    """link; without arguments as the contract wants it."""

    def link(targets, own, sources, kept, width, *, threads):
        found: list[Pairs] = [unpacked(line) if mine else [] for line in own]
        places = {target: place for place, target in enumerate(targets.tolist())}
        for source, line in list(zip(sources.tolist(), kept, strict=True))[sources_from]:
            for d, target in unpacked(line):
                place = places.get(target)
                if place is None and any_target and len(targets):
                    place = int(np.searchsorted(targets, target)) % len(targets)
                if place is not None and back:
                    found[place].append((d, source))
        if cut_first:
            found = [sorted(pairs)[:width] for pairs in found]
        return packed(found, width, order=order, once=once)

    return link


def scoring(
    *, once: bool = True, itself: bool = False, columns: slice = slice(None), holes: bool = False, order: Any = None
) -> Op:
    """score; without arguments as the contract wants it."""

    def score(points, rows, ids, width, *, threads):
        lines: list[Pairs] = []
        for row, line in zip(rows.tolist(), ids[:, columns].tolist(), strict=True):
            others = [other % len(points.codes) if holes else other for other in line if other >= 0 or holes]
            others = [other for other in others if itself or other != row]
            near = distances(points.take([row]), points.take(np.array(others, np.int64)))[0].tolist()
            lines.append(list(zip(near, others, strict=True)))
        return packed(lines, width, once=once, order=order)

    return score


# ---- adopt ---------------------------------------------------------------------------------------------------------


def adopting(
    *, old_strike: bool = False, old_are_safe: bool = False, new_are_safe: bool = False, cut: bool = True, strict: bool = False,
    dear: bool = False, back: bool = True, order: Any = None,
) -> Op:  # fmt: skip
    """adopt; without arguments as the contract wants it. dear: a source that is a neighbour already counts as new."""

    def adopt(points, rows, lists, sources, kept, width, alpha, *, threads):
        among, degree = distances(points, points).tolist(), lists.shape[1]
        out = np.full(lists.shape, -1, np.int32)
        for i, (row, line) in enumerate(zip(rows.tolist(), lists.tolist(), strict=True)):
            old = {other for other in line if other >= 0 and other != row}
            new = {source for source, keys in zip(sources.tolist(), kept, strict=True) if row in (x for _, x in unpacked(keys))}
            new = new if back else set()
            old -= new if dear else set()
            found = sorted(((among[row][x], x) for x in old | new), key=order)
            chosen: list[int] = []
            for d, x in found[:width] if cut else found:
                for y in chosen:
                    left, right = alpha[0] * among[y][x], alpha[1] * d
                    free = (x in old and ((y in old and not old_strike) or old_are_safe)) or (x not in old and new_are_safe)
                    if not free and (left < right if strict else left <= right):
                        break
                else:
                    if len(chosen) < degree:
                        chosen.append(x)
            out[i, : len(chosen)] = chosen
        return out

    return adopt


# ---- beam ----------------------------------------------------------------------------------------------------------


def searching(
    *, width_of: Callable[[int], int] = lambda width: width, places_of: Callable[[int], int] = lambda beam: beam,
    columns: slice = slice(None), same: Callable[[int], int] = lambda node: node, early: bool = False, order: Any = None,
    entry: slice = slice(None), rescore: bool = False, late_cut: bool = False,
) -> Op:  # fmt: skip
    """beam; without arguments as the contract wants it. same: what the set of scored nodes takes for one node."""

    def search(near: list[int], neighbours: np.ndarray, fresh: list[int], beam: int, width: int) -> Pairs:
        scored: set[int] = set()
        expanded: set[int] = set()
        pool: Pairs = []
        while True:
            for node in fresh:
                if node >= 0 and same(node) not in scored:
                    pool.append((near[node], node))
                    if not rescore:
                        scored.add(same(node))
            pool = sorted(set(pool), key=order)
            pool = pool if late_cut else pool[:beam]
            chosen = [node for _, node in pool if node not in expanded][:width]
            if not chosen or (early and len(chosen) < width):
                return pool[:beam]
            expanded.update(chosen)
            fresh = [int(other) for node in chosen for other in neighbours[node, columns]]

    def beam_(queries, points, neighbours, entries, beam, width, *, threads):
        near = distances(queries, points).tolist()
        starts = entries[:, entry].tolist()
        pools = [search(near[q], neighbours, starts[q], places_of(beam), width_of(width)) for q in range(len(near))]
        return packed(pools, beam, order=order, once=not rescore)

    return beam_


# ---- reach ---------------------------------------------------------------------------------------------------------


def reaching(
    *, start: slice = slice(None), columns: slice = slice(None), through: bool = False, fronts: int = 10**9,
    forget: bool = False,
) -> Op:  # fmt: skip
    """reach; without arguments as the contract wants it."""

    def reach(neighbours, start_, reached, *, threads):
        out, front = reached & (not forget), set(start_[start].tolist())
        walked: set[int] = set()
        for _ in range(fronts):
            if not front:
                break
            walked |= front
            near = {other for node in front for other in neighbours[node, columns].tolist() if other >= 0} - walked
            out[list(front)] = True
            front = {other for other in near if through or not reached[other]}
        return out

    return lambda neighbours, start, reached, *, threads: reach(neighbours, start, reached, threads=threads)


MUTANTS: dict[str, tuple[str, Op]] = {
    "assign, ties to the larger id": ("assign", assigning(order=larger_id_first)),
    "assign, leaders of the next item": ("assign", assigning(leaders_of=1)),
    "assign, last leader skipped": ("assign", assigning(last=-1)),
    "assign, fanout-1": ("assign", assigning(less=1)),
    "assign, rows instead of places": ("assign", assigning(as_rows=True)),
    "assign, own row passed over": ("assign", assigning(itself=False)),
    "assign, wide ignored": ("assign", assigning(wide=False)),
    "assign, in the order of places": ("assign", assigning(by_place=True)),
    "pick, ties to the larger id": ("pick", picking(order=larger_id_first)),
    "pick, reservoir's ties to the larger id": ("pick", picking(cut_order=larger_id_first)),
    "pick, reverse edge forgotten": ("pick", picking(both=False)),
    "pick, repeats kept": ("pick", picking(once=False)),
    "pick, cut before repeats are dropped": ("pick", picking(cut_first=True)),
    "pick, own row proposed": ("pick", picking(itself=True)),
    "pick, last leaf skipped": ("pick", picking(leaves=slice(None, -1))),
    "pick, k-1 proposals": ("pick", picking(less=1)),
    "prune, < instead of <=": ("prune", pruning(strict=True)),
    "prune, alpha swapped": ("prune", pruning(swapped=True)),
    "prune, in the order of ids": ("prune", pruning(by_id=True)),
    "prune, cut before": ("prune", pruning(cut=True)),
    "prune, 32 bits": ("prune", pruning(bits=32)),
    "prune, what is struck out strikes": ("prune", pruning(struck_strike=True)),
    "prune, the first strikes nothing": ("prune", pruning(first=1)),
    "prune, wide ignored": ("prune", pruning(wide=False)),
    "link, ties to the larger id": ("link", linking(order=larger_id_first)),
    "link, reverse edge forgotten": ("link", linking(back=False)),
    "link, own forgotten": ("link", linking(mine=False)),
    "link, repeats kept": ("link", linking(once=False)),
    "link, cut before repeats are dropped": ("link", linking(cut_first=True)),
    "link, no target is another target": ("link", linking(any_target=True)),
    "link, last source skipped": ("link", linking(sources_from=slice(None, -1))),
    "score, ties to the larger id": ("score", scoring(order=larger_id_first)),
    "score, repeats kept": ("score", scoring(once=False)),
    "score, own row": ("score", scoring(itself=True)),
    "score, last column skipped": ("score", scoring(columns=slice(None, -1))),
    "score, holes as rows": ("score", scoring(holes=True)),
    "adopt, old neighbours strike each other": ("adopt", adopting(old_strike=True)),
    "adopt, old neighbours are never struck": ("adopt", adopting(old_are_safe=True)),
    "adopt, new ones are never struck": ("adopt", adopting(new_are_safe=True)),
    "adopt, not cut": ("adopt", adopting(cut=False)),
    "adopt, < instead of <=": ("adopt", adopting(strict=True)),
    "adopt, a neighbour that comes back is new": ("adopt", adopting(dear=True)),
    "adopt, edges back forgotten": ("adopt", adopting(back=False)),
    "adopt, ties to the larger id": ("adopt", adopting(order=larger_id_first)),
    "beam, ties to the larger id": ("beam", searching(order=larger_id_first)),
    "beam, first column skipped": ("beam", searching(columns=slice(1, None))),
    "beam, last column skipped": ("beam", searching(columns=slice(None, -1))),
    "beam, one step early": ("beam", searching(early=True)),
    "beam, width+1": ("beam", searching(width_of=lambda width: width + 1)),
    "beam, width-1": ("beam", searching(width_of=lambda width: max(1, width - 1))),
    "beam, one place less": ("beam", searching(places_of=lambda beam: max(1, beam - 1))),
    "beam, one place more": ("beam", searching(places_of=lambda beam: beam + 1)),
    "beam, pool cut at the end": ("beam", searching(late_cut=True)),
    "beam, 64 nodes are one": ("beam", searching(same=lambda node: node % 64)),
    "beam, two nodes are one": ("beam", searching(same=lambda node: node // 2)),
    "beam, last entry skipped": ("beam", searching(entry=slice(None, -1))),
    "reach, last start skipped": ("reach", reaching(start=slice(None, -1))),
    "reach, last column skipped": ("reach", reaching(columns=slice(None, -1))),
    "reach, through what is reached": ("reach", reaching(through=True)),
    "reach, one front": ("reach", reaching(fronts=1)),
    "reach, forgets what was reached": ("reach", reaching(forget=True)),
}
SOUND: dict[str, tuple[str, Op]] = {  # the same scaffolding with nothing wrong in it
    "assign": ("assign", assigning()),
    "pick": ("pick", picking()),
    "prune": ("prune", pruning()),
    "link": ("link", linking()),
    "score": ("score", scoring()),
    "adopt": ("adopt", adopting()),
    "reach": ("reach", reaching()),
    "beam": ("beam", searching()),
    "beam, nodes scored again": ("beam", searching(rescore=True)),  # dearer, and the same pool: what left it is beyond its end
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(pytestconfig, name):
    op, function = MUTANTS[name]
    assert first_caught(mutant(name, **{op: function}), op, pytestconfig.option.seed) is not None


@pytest.mark.parametrize("name", SOUND)
def test_nothing_is_caught_where_nothing_is_wrong(pytestconfig, name):
    op, function = SOUND[name]
    assert first_caught(mutant(name, **{op: function}), op, pytestconfig.option.seed) is None


def test_every_op_of_the_graph_has_mutants():
    assert {op for op, _ in MUTANTS.values()} == {op for op, _ in SOUND.values()} == set(contract_graph.MAKERS)
    assert all(callable(getattr(reference, op)) for op, _ in SOUND.values())
