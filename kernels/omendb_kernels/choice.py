"""choice: `adaptive`, one signature, several implementations, the quickest for the call at hand.

    @adaptive
    def total(values):                        # judges what comes in; what it returns, a tuple, every implementation gets
        \"\"\"The sum of the values.\"\"\"
        return (np.asarray(values, np.float64),)

    @total.implementation("loop", cost=lambda values: 1e-7 * len(values))          # seconds, roughly
    def _(values): ...

    @total.implementation("product", cost=lambda values: 5e-6 + 1e-9 * len(values))
    def _(values): ...

    total([1.0, 2.0])            # the answer
    total.plan([1.0, 2.0])       # which one would give it, and why
    total.explain([1.0, 2.0])    # both, with what it took

Predictions are corrected by what calls take (`Corrections`). Implementations must agree, as far as the op promises: which one
runs is nobody's business but the clock's. The backends of this package are chosen by the same rules (dispatch.py).
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Generic, ParamSpec, TypeVar

from .dispatch import say_once
from .errors import InvalidParameter, OutOfDeviceMemory
from .plan import NEVER, Key, Option, Plan, ordered, told

P = ParamSpec("P")
R = TypeVar("R")

WEIGHT = 0.2  # of the newest call in the running mean
LEAST, MOST = 0.25, 4.0  # a correction beyond these says that the call was disturbed, or the model is wrong altogether
BRIEF = 20e-6  # seconds: below, a clock tells more of itself than of the call

Unable = OutOfDeviceMemory  # what makes a call go on with the next way; any other error is the caller's


listeners: ContextVar[list[Plan] | None] = ContextVar("omendb_plans", default=None)


@contextmanager
def explained(wanted: bool = True) -> Iterator[list[Plan]]:
    """The plans of the ops called inside the `with` block, as they end, with what they took (this thread or task only).

    Not wanted: none, and whoever listens outside goes on.
    """
    plans: list[Plan] = []
    if not wanted:
        yield plans
        return
    token = listeners.set(plans)
    try:
        yield plans
    finally:
        listeners.reset(token)


class Corrections(dict[Key, float]):
    """By `Option.key`: what calls took over what was predicted, a running mean, clipped; what is not there is 1.

    The first call of each tells nothing: it compiles, loads and wakes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._awake: set[Key] = set()

    def learn(self, key: Key, predicted: float, measured: float) -> None:
        """A call took `measured` seconds where `predicted` were expected, without any correction."""
        if key not in self._awake:
            self._awake.add(key)
        elif 0 < predicted < NEVER and (predicted >= BRIEF or measured >= BRIEF):
            ratio = min(max(measured / predicted, LEAST), MOST)
            self[key] = (1 - WEIGHT) * self.get(key, 1.0) + WEIGHT * ratio


def carry_out(
    op: str, ways: Iterable[Option], attempt: Callable[[Option], R], corrections: Corrections
) -> tuple[R, float, list[Option]]:
    """The answer of the quickest way that is able, what it took, and the ways in the order in which they were looked at: those
    that were unable, which are told to take for ever, come last.

    attempt: does the call one way; raises `Unable` where it cannot, which is said once a process and reason.
    """
    queue, unable = ordered(op, ways, corrections), []
    while True:
        way = queue[0]
        start = time.perf_counter()
        try:
            answer = attempt(way)
        except Unable as error:
            if len(queue) == 1 or queue[1].seconds == NEVER:
                raise
            say_once(logging.WARNING, f"{op}: {way.backend} is left for {queue[1].backend}: {error}")
            unable.append(replace(queue.pop(0), seconds=NEVER, reason=str(error)))
            continue
        taken = time.perf_counter() - start
        corrections.learn(way.key(op), way.seconds, taken)
        return answer, taken, [*queue, *unable]


@dataclass(frozen=True)
class _Implementation:
    name: str
    function: Callable[..., Any]
    cost: Callable[..., float]


class Adaptive(Generic[P]):
    """An op with several implementations; see the head of this file. Thread-safe once its implementations are there."""

    def __init__(self, judge: Callable[P, tuple[Any, ...]]) -> None:
        self._judge = judge
        self._implementations: dict[str, _Implementation] = {}
        self._corrections = Corrections()
        functools.update_wrapper(self, judge)
        self.__name__: str = getattr(judge, "__name__", "op")

    def implementation(self, name: str, *, cost: Callable[..., float]) -> Callable[[Callable[..., R]], Callable[..., R]]:
        """Adds the decorated function under this name. Both it and `cost` get what the judge returned; cost: seconds.

        Raises InvalidParameter for a name that is taken.
        """
        if name in self._implementations:
            raise InvalidParameter("name", repr(name), f"a name that {self.__name__} does not have yet")

        def add(function: Callable[..., R]) -> Callable[..., R]:
            self._implementations[name] = _Implementation(name, function, cost)
            return function

        return add

    @property
    def implementations(self) -> tuple[str, ...]:
        """Their names, in the order in which they came: of equally quick ones the first is taken."""
        return tuple(self._implementations)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """The answer of the implementation that is expected to be the quickest."""
        return self._carried_out(self._judge(*args, **kwargs))

    def plan(self, *args: P.args, **kwargs: P.kwargs) -> Plan:
        """Which implementation such a call would take, and why. Computes nothing."""
        return self._planned(self._judge(*args, **kwargs))

    def explain(self, *args: P.args, **kwargs: P.kwargs) -> tuple[Any, Plan]:
        """The answer, and the plan with the seconds it took."""
        with explained() as plans:
            answer = self._carried_out(self._judge(*args, **kwargs))
        return answer, plans[-1]

    def each(self, *args: P.args, **kwargs: P.kwargs) -> dict[str, Any]:
        """The answer of every implementation, by name: for tests, which compare them."""
        judged = self._judge(*args, **kwargs)
        return {name: one.function(*judged) for name, one in self._implementations.items()}

    def _ways(self, judged: tuple[Any, ...]) -> list[Option]:
        if not self._implementations:
            raise InvalidParameter("implementations", "none", f"at least one implementation of {self.__name__}")
        found = ((name, one.cost(*judged)) for name, one in self._implementations.items())
        return [Option(name, "host", taken, f"{taken:.3g} s expected") for name, taken in found]

    def _planned(self, judged: tuple[Any, ...]) -> Plan:
        ways = ordered(self.__name__, self._ways(judged), self._corrections)
        return told(self.__name__, ways, self._corrections)

    def _carried_out(self, judged: tuple[Any, ...]) -> Any:
        def attempt(way: Option) -> Any:
            return self._implementations[way.backend].function(*judged)

        answer, taken, ways = carry_out(self.__name__, self._ways(judged), attempt, self._corrections)
        if (plans := listeners.get()) is not None:
            plans.append(told(self.__name__, ways, self._corrections, measured=taken))
        return answer


def adaptive(judge: Callable[P, tuple[Any, ...]]) -> Adaptive[P]:
    """Decorator: an op from the function that judges its arguments and returns, as a tuple, what implementations get."""
    return Adaptive(judge)
