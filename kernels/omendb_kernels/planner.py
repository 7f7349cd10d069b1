"""planner: carries out the calls that were not told where to go, each by the backend that should be the quickest.

Predictions come from profiles (measured ones where `omendb calibrate` left some) and are corrected by what calls take. A
device is asked for only where it should win, has to give the host's bits on a small sample before its first call, and keeps the
points that are asked for often. Where it is out of memory, it lets go what it keeps; then the host answers: said once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from . import calibration, dispatch, machine
from .choice import MOST, Corrections, carry_out, listeners
from .contract import Backend
from .cost import Profile, Sizes
from .dispatch import DEVICES, chosen, device_wanted, first_of, load, say_once
from .errors import OutOfDeviceMemory
from .plan import NEVER, Option, Plan, options, ordered, told
from .profiles import known, of_card, of_processor
from .residency import Residency

T = TypeVar("T")
Arrays = Callable[[], tuple[Any, ...]]

ASSURED = 64  # calls of the same sizes after which these are thought over again; the first ones sooner
NOBODY: frozenset[str] = frozenset()
MOST_KNOWN = 4096  # sizes that are remembered
TOLD = "told by use_backend or OMENDB_BACKEND"


def nothing() -> tuple[Any, ...]:
    """No arrays."""
    return ()


class _Known:
    """What is known of calls of some sizes: their ways; the backend to take without a thought, and for how many more calls."""

    __slots__ = ("assured", "backend", "trust", "ways")

    def __init__(self, ways: list[Option]) -> None:
        self.ways = ways
        self.backend: Backend | None = None
        self.assured = 0
        self.trust = 1

    def confirm(self, backend: Backend) -> None:
        """It was chosen: for twice as many calls as the last time, so that a choice that was wrong is left soon."""
        self.trust = min(2 * self.trust, ASSURED) if backend is self.backend else 1
        self.backend, self.assured = backend, self.trust


class Planner:
    """Profiles, corrections and residency of a process. Thread-safe: what threads overwrite of each other is only advice."""

    def __init__(self, profiles: tuple[Profile, ...]) -> None:
        self.profiles = profiles
        self.corrections = Corrections()
        self.residency = Residency()
        self._known: dict[Any, _Known] = {}
        self._unproved = {profile.backend for profile in profiles if profile.device == "gpu"}
        self._devices = bool(self._unproved)
        self._against: dict[str, str] = {}
        self._proving = threading.Lock()

    def run(self, sizes: Sizes, call: Callable[[], T], holder: Any, arrays: Arrays, threads: int) -> T:
        """The answer of the call. holder: as long as it lives, devices may keep its `arrays`; None: there are none."""
        holders = self.residency.holders(holder) if self._devices else NOBODY
        key, plans = (sizes, threads, holders, device_wanted.get()), listeners.get()
        known = self._known.get(key)
        if known is not None and known.backend is not None and known.assured > 0 and plans is None:
            known.assured -= 1
            return under(known.backend, call)
        if known is None:
            known = self._remember(key, self._ways(sizes, holders, threads))

        def attempt(way: Option) -> T:
            return self._attempt(way, call, holder, arrays)

        answer, taken, ways = carry_out(sizes.op, known.ways, attempt, self.corrections)
        way, devices = ways[0], any(way.method != "host" for way in ways)
        if way.method == "host":
            if holder is not None and devices:
                self._count(sizes.op, ways, taken, holder, arrays)
            elif ways[-1] in known.ways:  # nothing is counted, and no way was left
                known.confirm(cast(Backend, load(way.backend)))
        if plans is not None:
            wish = f"device={key[3]!r}" if key[3] else ""
            plans.append(told(sizes.op, ways, self.corrections, wish=wish, measured=taken))
        return answer

    def seconds(self, sizes: Sizes, threads: int) -> float:
        """What a call would take, its points not on a device."""
        key = (sizes, threads, NOBODY, device_wanted.get())
        known = self._known.get(key) or self._remember(key, self._ways(sizes, NOBODY, threads))
        return min(way.seconds * self.corrections.get(way.key(sizes.op), 1.0) for way in known.ways)

    def plan(self, sizes: Sizes, holder: Any = None, threads: int = 1) -> Plan:
        """What `run` would do."""
        ways = self._ways(sizes, self.residency.holders(holder), threads)
        return told(sizes.op, ordered(sizes.op, ways, self.corrections), self.corrections)

    def _remember(self, key: Any, ways: list[Option]) -> _Known:
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        return self._known.setdefault(key, _Known(ways))

    def _ways(self, sizes: Sizes, holders: frozenset[str], threads: int) -> list[Option]:
        """The ways of usable backends; whether a backend is usable is asked only of what would be the quickest."""
        device = device_wanted.get()
        ways = options(sizes, (one.with_threads(threads) for one in self.profiles), resident=holders)
        ways = [way for way in ways if way.backend not in self._against and (not device or way.backend in DEVICES[device])]
        while ways:
            name = ordered(sizes.op, ways, self.corrections)[0].backend
            reason = self._reason_against(name)
            if not reason:
                return ways
            ways = [way for way in ways if way.backend != name]
        return [Option(first_of(device or "cpu").NAME, "host", NEVER, "nothing else can be used")]

    def _reason_against(self, name: str) -> str:
        """Why a backend is not to be trusted with a call, "" where it is. Said once, and kept but for a lack of memory."""
        found = load(name)
        if not isinstance(found, str) and name not in self._unproved:
            return ""
        with self._proving:
            try:
                reason = found if isinstance(found, str) else calibration.disproof(found, first_of("cpu"))
            except OutOfDeviceMemory as error:
                return str(error)
            if not reason:
                self._unproved.discard(name)
                return ""
            say_once(logging.WARNING, f"{name} is not used: {reason}")
            self._against[name] = reason
            self._known.clear()
            return reason

    def _attempt(self, way: Option, call: Callable[[], T], holder: Any, arrays: Arrays) -> T:
        if way.method == "upload" and holder is not None:
            self._bring(way.backend, holder, arrays)
        found = cast(Backend, load(way.backend))
        try:
            return under(found, call)
        except OutOfDeviceMemory:
            if not self._let_go(way.backend):
                raise
            return under(found, call)

    def _bring(self, name: str, holder: Any, arrays: Arrays) -> None:
        """Leave the arrays on the device; where there is no room, calls bring them."""
        found: Any = load(name)
        if not hasattr(found, "hold") or name in self.residency.holders(holder):
            return
        try:
            found.hold(holder, arrays())
        except OutOfDeviceMemory:
            self._let_go(name)
        else:
            self.residency.brought(holder, name)

    def _let_go(self, name: str) -> bool:
        """Whether the device kept anything, which it does not any more."""
        found: Any = load(name)
        self.residency.forget(name)
        return hasattr(found, "release") and found.release() > 0

    def _count(self, op: str, ways: list[Option], taken: float, holder: Any, arrays: Arrays) -> None:
        """Bring the arrays to a device once calls on the host have cost more than that. What a first call takes beyond all
        reason, to compile or to load, is no cost of the host."""
        taken = min(taken, MOST * ways[0].seconds)
        for way in ways:
            if way.method != "upload" or way.seconds == NEVER:
                continue
            there = (way.seconds - way.bringing) * self.corrections.get(way.key(op), 1.0)
            due = self.residency.missed(holder, way.backend, taken - there, way.bringing)
            if due and not self._reason_against(way.backend):
                self._bring(way.backend, holder, arrays)


def under(found: Backend, call: Callable[[], T]) -> T:
    """The answer of the call with this backend in force."""
    token = chosen.set(found)
    try:
        return call()
    finally:
        chosen.reset(token)


def machine_profiles() -> tuple[Profile, ...]:
    """Of the backends that are installed here: measured ones where `omendb calibrate` left some, else expectations."""
    measured, isa, threads = calibration.load(), machine.isa(), machine.as_threads()
    guesses = [of_processor(name, isa, threads) for name in DEVICES["cpu"] if name == "numpy" or machine.installed(name)]
    there = [name for name in DEVICES["gpu"] if machine.installed(name)] if machine.installed("cupy") else []
    cards = machine.gpus()[0] if there else []
    guesses += [of_card(name, cards[0]) for name in there if cards]
    return tuple(known(measured, guess) for guess in guesses)


def devices() -> dict[str, Any]:
    """Facts of this machine, ready for JSON; each backend, "usable" or the reason against it; the profiles that plans go by."""
    return {
        **machine.facts(),
        "unserved": machine.unserved(),
        "backends": {name: why or "usable" for name, why in dispatch.list_backends().items()},
        "profiles": [profile.json() for profile in machine_profiles()],
    }


_planner: Planner | None = None


def planner() -> Planner:
    """The one of this process."""
    global _planner
    if _planner is None:
        _planner = Planner(machine_profiles())
    return _planner


def planned(sizes: Sizes, call: Callable[[], T], *, holder: Any = None, arrays: Arrays = nothing, threads: int = 1) -> T:
    """The answer of the call, by the backend that was told to compute or else by the one that is planned for these sizes."""
    found = dispatch.wanted()
    if found is None:
        return planner().run(sizes, call, holder, arrays, threads)
    plans = listeners.get()
    if plans is None:
        return under(found, call)
    start = time.perf_counter()
    answer = under(found, call)
    taken = time.perf_counter() - start
    ways = [way for way in options(sizes, planner().profiles) if way.backend == found.NAME]
    plans.append(told(sizes.op, ways or [Option(found.NAME, "host", NEVER, "no profile")], wish=TOLD, measured=taken))
    return answer
