"""plan: which backend does a call, and how. Pure: sizes and profiles in, a `Plan` with its reasons out.

All backends give the same bits, so that a plan may differ from machine to machine and from hour to hour.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from .cost import Profile, Sizes, amounts, seconds

NEVER = float("inf")
TILED = frozenset({"pairwise", "exact_pairwise", "rerank", "knn", "scan"})  # ops that take points piece by piece
SHARE = 0.5  # of the free memory of a device that points may take
Key = tuple[str, str, int]  # of a correction: see Option.key
NO_CORRECTIONS: Mapping[Key, float] = {}


@dataclass(frozen=True)
class Option:
    """One way to do a call, before corrections.

    backend: or, of an op of one's own, the implementation. method: "host"; "resident": the device has the points; "upload":
    they are brought for this call; "tiled": brought piece by piece, they do not fit. seconds: predicted, `NEVER` where it
    cannot be done; bringing: of these, for the points. reason: why so long, or why not.
    """

    backend: str
    method: str
    seconds: float
    reason: str
    bringing: float = 0.0

    def key(self, op: str) -> Key:
        """What a correction holds for: the backend, the op, the power of ten of the seconds. What small calls take beyond a
        prediction is their start, which says nothing of large ones."""
        return self.backend, op, math.floor(math.log10(self.seconds)) if 0 < self.seconds < NEVER else 0


@dataclass(frozen=True)
class Plan:
    """What was decided for a call. seconds: predicted; measured: what it took, None before it ran; alternatives: the ways not
    taken, the quickest first, each with its reason."""

    op: str
    backend: str
    method: str
    seconds: float
    reason: str
    alternatives: tuple[Option, ...] = ()
    measured: float | None = None

    def json(self) -> dict[str, Any]:
        """As plain values; no infinities, which JSON does not know."""
        told = asdict(self)
        for option in told["alternatives"]:
            option["seconds"] = None if option["seconds"] == NEVER else option["seconds"]
        return told


def options(sizes: Sizes, profiles: Iterable[Profile], *, resident: Collection[str] = ()) -> list[Option]:
    """Every way to do the call, in the order of the profiles. resident: backends whose device has the points."""
    found, work = [], amounts(sizes)
    for profile in profiles:
        taken = seconds(work, profile)
        if profile.device == "cpu":
            found.append(Option(profile.backend, "host", taken, f"{_time(taken)} on the processor"))
        else:
            found.append(_on_device(sizes, profile, taken, profile.backend in resident))
    return found


def _on_device(sizes: Sizes, profile: Profile, taken: float, resident: bool) -> Option:
    speed = profile.transfer or NEVER
    moved, method, bringing = sizes.query_bytes, "resident", 0.0
    if not resident:
        fits = profile.room is None or sizes.point_bytes <= SHARE * profile.room
        if not fits and sizes.op not in TILED:
            need, have = _bytes(sizes.point_bytes), _bytes(profile.room or 0)
            return Option(profile.backend, "upload", NEVER, f"the points take {need}, the device has {have} free")
        method, bringing = "upload" if fits else "tiled", sizes.point_bytes / speed
        moved += sizes.point_bytes
    told = f"{_time(taken)} on the device"
    if moved:
        told += f", {_time(moved / speed)} for {_bytes(moved)} to it and back"
    return Option(profile.backend, method, taken + moved / speed, told, bringing)


def ordered(op: str, ways: Iterable[Option], corrections: Mapping[Key, float]) -> list[Option]:
    """The quickest first, by what experience makes of the predictions; of equal ones the first."""
    return sorted(ways, key=lambda way: way.seconds * corrections.get(way.key(op), 1.0))


def told(
    op: str,
    ways: Iterable[Option],
    corrections: Mapping[Key, float] = NO_CORRECTIONS,
    *,
    wish: str = "",
    measured: float | None = None,
) -> Plan:
    """The plan that takes the first of these ways. corrections: by `Option.key`, what calls took over what was predicted.
    wish: why only these ways were looked at, "" when all were."""
    best, *others = (_corrected(way, corrections.get(way.key(op), 1.0)) for way in ways)
    reason = f"{wish}; {best.reason}" if wish else best.reason
    if others and 0 < best.seconds < NEVER and others[0].seconds < NEVER:
        reason += f"; {others[0].backend} would take {others[0].seconds / best.seconds:.2g} times as long"
    return Plan(op, best.backend, best.method, best.seconds, reason, tuple(others), measured)


def _corrected(way: Option, factor: float) -> Option:
    if factor == 1 or way.seconds == NEVER:
        return way
    return replace(way, seconds=way.seconds * factor, reason=f"{way.reason}; calls took {factor:.2g} times what was predicted")


def plan(
    sizes: Sizes,
    profiles: Iterable[Profile],
    *,
    resident: Collection[str] = (),
    corrections: Mapping[Key, float] = NO_CORRECTIONS,
) -> Plan:
    """The plan for a call of these sizes on a machine of these profiles."""
    ways = ordered(sizes.op, options(sizes, profiles, resident=resident), corrections)
    return told(sizes.op, ways, corrections)


def _time(value: float) -> str:
    """1.2 ms"""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e6:.3g} us"


def _bytes(value: float) -> str:
    """1.2 GB"""
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"
